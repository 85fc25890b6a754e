"""The whole road with the images and the cache on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import boto3
import pandas as pd
import pytest

import medlens
from medlens.data.remote import open_path


@pytest.fixture(scope="module")
def labels(phantoms: Path, bucket: str) -> str:
    """The phantoms and their list on the server."""
    client = boto3.client("s3")
    for path in phantoms.parent.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "images", f"road/{path.relative_to(phantoms.parent)}")
    return f"{bucket}/road/{phantoms.name}"


@pytest.mark.slow
def test_a_training_on_a_server_gives_what_one_on_a_disk_gives(
    finished_run: medlens.Run, labels: str, bucket: str, tmp_path: Path
) -> None:
    cache = f"{bucket}/road-cache"
    run = medlens.train(
        labels,
        out=tmp_path / "run",
        weights="random",
        image_size=32,
        epochs=15,
        positive_class="mass",
        robustness=True,
        cache=cache,
        quiet=True,
    )
    for name in ("predictions.csv", "dataset.csv", "audit.json", "evaluation.json"):
        assert (run.path / name).read_bytes() == (finished_run.path / name).read_bytes(), name
    assert list(open_path(cache).glob("features/*/*.npy"))


def test_explanations_may_lie_on_a_server(
    finished_run: medlens.Run, labels: str, bucket: str, tmp_path: Path
) -> None:
    images = sorted(str(path) for path in open_path(labels).parent.glob("**/*.png"))[:3]
    there, here = f"{bucket}/explained", tmp_path / "explained"
    for out in (there, here):
        outcome = medlens.explain(finished_run.path, images, out=out, quiet=True)
        assert (outcome.images, outcome.refused) == (3, 0)
    names = sorted(path.name for path in here.iterdir())
    assert sorted(path.name for path in open_path(there).iterdir()) == names
    for name in names:
        assert open_path(f"{there}/{name}").read_bytes() == (here / name).read_bytes(), name
    assert list(pd.read_csv(here / "explain.csv")["path"]) == images
