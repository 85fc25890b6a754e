"""What a cluster finds and computes is what one machine does, to the byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from medlens.data.dataset import Dataset, read_dataset
from medlens.data.scan import PictureRule, Pictures, read_here, scan
from medlens.data.store import Store
from medlens.data.views import read_views, view_keys
from medlens.model.backbone import BACKBONES
from medlens.model.engine import FrozenPass
from medlens.model.features import extract_features
from medlens.model.weights import find_weights
from medlens.scale.cluster import connected
from medlens.scale.features import extract_on_cluster
from medlens.scale.scan import scan_on_cluster

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

RULE = PictureRule(32, "pad")


@pytest.fixture(scope="module")
def inside(cluster: Cluster) -> Iterator[Cluster]:
    with connected(cluster.address):
        yield cluster


@pytest.fixture
def images(phantoms: Path, tmp_path: Path) -> Dataset:
    """300 files: the phantoms, each twice, some of them damaged."""
    root = tmp_path / "images"
    for name in ("first", "second"):
        shutil.copytree(phantoms.parent, root / name)
    damaged = sorted((root / "second").rglob("*.png"))[:3]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:200])
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    labels = [Path(path).parent.name for path in paths]
    pd.DataFrame({"path": paths, "label": labels}).to_csv(root / "all.csv", index=False)
    return read_dataset(root / "all.csv", cache=tmp_path)


def scan_with(
    images: Dataset, cache: Path, said: list[str] | None, pictures: Pictures | None = None
) -> pd.DataFrame:
    """The scan here, or on the cluster where there is a list for what is said."""
    read_all = read_here
    if said is not None:
        read_all = partial(scan_on_cluster, cache=cache, say=said.append)
    done: list[int] = []
    table = scan(
        images,
        cache=cache,
        frame=None,
        progress=done.append,
        pictures=pictures,
        read_all=read_all,
    )
    assert sum(done) == len(images.table)
    return table


def content(store: Store, keys: Sequence[str]) -> bytes:
    return store.read(keys).tobytes()


def test_a_scan_finds_the_same_and_leaves_the_same_pictures(
    inside: Cluster, images: Dataset, tmp_path: Path
) -> None:
    said: list[str] = []
    here = Pictures(RULE, Store(tmp_path / "here" / "pictures"))
    there = Pictures(RULE, Store(tmp_path / "there" / "pictures"))
    expected = scan_with(images, tmp_path / "here", None, here)
    found = scan_with(images, tmp_path / "there", said, there)
    pd.testing.assert_frame_equal(found, expected)
    assert (expected["unreadable"] != "").sum() == 3
    keys = sorted(set(expected.loc[expected["unreadable"] == "", "pixels_sha256"]))
    assert content(there.store, keys) == content(here.store, keys)
    # Shards that another process finds are the same.
    assert content(Store(there.store.folder), keys) == content(here.store, keys)
    assert said == []
    assert list((tmp_path / "there" / "work").iterdir()) == []

    # A second scan, here or there, decodes nothing: the facts are those of the first.
    shards = sorted(there.store.folder.iterdir())
    again = Pictures(RULE, Store(there.store.folder))
    pd.testing.assert_frame_equal(scan_with(images, tmp_path / "there", said, again), expected)
    assert sorted(there.store.folder.iterdir()) == shards
    pd.testing.assert_frame_equal(scan_with(images, tmp_path / "there", None, again), expected)


def test_a_file_that_no_worker_survives_is_refused_and_all_others_are_read(
    inside: Cluster, deadly_file: Path, images: Dataset, tmp_path: Path
) -> None:
    shutil.copy(deadly_file, images.root / "first" / "healthy" / "deadly.bmp")
    row = {"path": "first/healthy/deadly.bmp", "label": "healthy"}
    listed = pd.concat([pd.read_csv(images.root / "all.csv"), pd.DataFrame([row])])
    listed.to_csv(images.root / "all.csv", index=False)
    dataset = read_dataset(images.root / "all.csv", cache=tmp_path)
    said: list[str] = []
    found = scan_with(dataset, tmp_path / "there", said).set_index("path")
    assert found.loc[row["path"], "unreadable"] == "It broke the decoder."
    expected = scan_with(images, tmp_path / "here", None).set_index("path")
    compared = ["sha256", "pixels_sha256", "unreadable", "mean"]
    pd.testing.assert_frame_equal(found.loc[expected.index, compared], expected[compared])
    assert said[0].startswith("Retried: ")
    assert "file by file" in said[1]
    assert "deadly.bmp" not in " ".join(said)


def test_features_of_pictures_and_of_views_are_the_same_bytes(
    inside: Cluster, images: Dataset, tmp_path: Path
) -> None:
    backbone = BACKBONES["mobilenet_v2"]
    frozen_pass = FrozenPass(backbone, find_weights(backbone, "random", seed=0), RULE, "keras")
    pictures = Pictures(RULE, Store(tmp_path / "pictures"))
    table = scan_with(images, tmp_path, None, pictures)
    keys = [key for key in table["pixels_sha256"] if key]
    views = view_keys(keys[:20], "x_ray", 2)
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    forward = frozen_pass.forward(tmp_path)
    as_views = partial(read_views, preset="x_ray")
    extract_features(keys, lambda: forward, pictures.store.read, here, print, print)
    extract_features(views, lambda: forward, as_views(pictures.store.read), here, print, print)

    done: list[int] = []
    said: list[str] = []
    run = partial(
        extract_on_cluster,
        frozen_pass=frozen_pass,
        features=there,
        pictures=pictures.store,
        cache=tmp_path,
        progress=done.append,
        say=said.append,
    )
    run(keys, seen_as=lambda read: read)
    run(views, seen_as=as_views)
    assert sum(done) == len(set(keys)) + len(views)
    assert content(there, [*keys, *views]) == content(here, [*keys, *views])
    assert content(Store(there.folder), [*keys, *views]) == content(here, [*keys, *views])
    # What is known is not computed again.
    run(keys, seen_as=lambda read: read)
    assert sum(done) == len(set(keys)) + len(views)
    assert said == []
    assert np.isfinite(here.read(keys)).all()
