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
