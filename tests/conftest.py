"""What several test files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import medlens
    from medlens.run_dir import RunDir


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
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty bucket on an S3 server of this computer alone."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "no-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            # Local copies of what lies there.
            "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("copies")),
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="images")
        yield "s3://images"
    server.stop()


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labels.csv of 150 phantoms of 64 px in three classes, with patients."""
    from medlens.data.phantom import write_phantoms

    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "data", images=150, seed=0)


@pytest.fixture(scope="session")
def finished_run(
    phantoms: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> medlens.Run:
    """A run with everything in it: an operating point, subgroups, heat maps, robustness."""
    import medlens

    return medlens.train(
        phantoms,
        out=tmp_path_factory.mktemp("finished") / "run",
        weights="random",
        image_size=32,
        epochs=15,
        positive_class="mass",
        robustness=True,
        cache=str(cache),
        quiet=True,
    )


@pytest.fixture
def own_run(finished_run: medlens.Run, tmp_path: Path) -> RunDir:
    """A copy of it whose files a test may change; of the network there is the folder alone."""
    from medlens.run_dir import RunDir

    large = shutil.ignore_patterns("classifier.keras", "figures", "*.png")
    return RunDir(Path(shutil.copytree(finished_run.path, tmp_path / "run", ignore=large)))
