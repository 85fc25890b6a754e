"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the project, which users do not have."""
    beside = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("MEDLENS_SHARED", beside))
    if not (folder / "data").is_dir():
        pytest.skip("the shared real images are not on this machine (see MEDLENS_SHARED)")
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of features for the whole session, so that the network runs once per picture."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labels.csv of 150 phantoms of 64 px in three classes, with patients."""
    from medlens.data.phantom import write_phantoms

    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "data", images=150, seed=0)
