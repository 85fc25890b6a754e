"""What a cluster finds and computes is what one machine does, to the byte."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow
import pytest
import ray

import medlens
from medlens.api import new_screen
from medlens.cli import main
from medlens.config import make_options
from medlens.data.dataset import Dataset, read_dataset
from medlens.data.facts_cache import FactsCache, name_facts
from medlens.data.phantom import write_phantoms
from medlens.data.scan import PictureRule, Pictures, read_here, scan
from medlens.data.store import Store
from medlens.data.views import read_views, view_keys
from medlens.data.work_list import write_work_list
from medlens.errors import MedlensError
from medlens.intake import take_in
from medlens.model.backbone import BACKBONES
from medlens.model.engine import FrozenPass
from medlens.model.features import extract_features
from medlens.model.weights import find_weights
from medlens.scale.cluster import connected
from medlens.scale.features import extract_on_cluster
from medlens.scale.scan import Known, ScanParts, scan_on_cluster
from medlens.scale.sight import Witness

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

RULE = PictureRule(32, "pad")


@pytest.fixture
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


def test_only_what_may_be_known_is_asked_for(
    inside: Cluster, images: Dataset, tmp_path: Path
) -> None:
    cache, pictures = tmp_path / "cache", Pictures(RULE, Store(tmp_path / "pictures"))
    known = dataclasses.replace(images, table=images.table.iloc[:10])
    scan_with(known, cache, None, pictures)
    facts = FactsCache(cache / "facts" / name_facts(None))
    nobody = ray.remote(Known).remote(facts.path, pictures)
    ray.kill(nobody)  # whoever asks it gets an error
    marks = facts.marks()
    assert len(marks) == len(facts)

    def scan_part(some: Dataset, pictures_known: Sequence[str]) -> pyarrow.Table:
        paths = pyarrow.table({"path": list(some.table["path"])})
        work = write_work_list(tmp_path / f"work-{len(some.table)}", [paths])
        at = np.sort(np.array([int(key[:16], 16) for key in pictures_known], np.uint64))
        make = ScanParts(
            *(work, images.root, None, RULE, tmp_path / "new"),
            *(nobody, marks, at, ray.remote(Witness).remote()),
        )
        return make(1)(0, careful=False, advance=lambda: None)

    unknown = dataclasses.replace(images, table=images.table.iloc[100:140])
    assert len(scan_part(unknown, list(pictures.store))) == 40
    with pytest.raises(ray.exceptions.RayActorError):
        scan_part(known, [])


@pytest.mark.slow
def test_a_file_that_no_worker_survives_is_refused_and_all_others_are_read(
    inside: Cluster, deadly_file: Path, images: Dataset, tmp_path: Path
) -> None:
    shutil.copy(deadly_file, images.root / "first" / "healthy" / "deadly.bmp")
    row = {"path": "first/healthy/deadly.bmp", "label": "healthy"}
    listed = pd.concat([pd.read_csv(images.root / "all.csv"), pd.DataFrame([row])])
    listed.to_csv(images.root / "all.csv", index=False)
    dataset = read_dataset(images.root / "all.csv", cache=tmp_path)
    cache = str(tmp_path / "there")
    options = make_options({"data": str(images.root), "cache": cache, "ray": inside.address})
    intake = take_in(dataset, options, new_screen(quiet=True))
    found, said = intake.table.set_index("path"), intake.audit_json()["retried"]
    assert found.loc[row["path"], "unreadable"] == "It broke the decoder."
    expected = scan_with(images, tmp_path / "here", None).set_index("path")
    compared = ["sha256", "pixels_sha256", "unreadable", "mean"]
    pd.testing.assert_frame_equal(found.loc[expected.index, compared], expected[compared])
    assert said[0].startswith("Retried: ")
    assert "file by file" in said[1]
    assert "deadly.bmp" not in " ".join(said)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SEEN-BY-THE-DRIVER-ALONE", "SEEN-BY-THE-COMMAND-ALONE"])
def test_images_that_a_node_does_not_see_are_not_refused_but_an_error(
    inside: Cluster, phantoms: Path, tmp_path: Path, name: str
) -> None:
    root = tmp_path / name
    shutil.copytree(phantoms.parent, root)
    (root / "labels.csv").unlink()
    dataset = read_dataset(root, cache=tmp_path)
    said: list[str] = []
    with pytest.raises(MedlensError, match="cannot open images that") as raised:
        scan_with(dataset, tmp_path / "there", said)
    assert raised.value.got.startswith("on ")
    assert raised.value.names[0] in set(dataset.table["path"])
    # What nobody sees is a fact about the file.
    shutil.rmtree(root)
    found = scan_with(dataset, tmp_path / "there", said)
    assert set(found["unreadable"]) == {"there is no file at that path"}


@pytest.mark.slow
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


def test_an_audit_of_relative_paths_is_the_same_file_on_a_cluster_with_another_working_folder(
    cluster: Cluster, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(phantoms.parent, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    written = []
    for out, address in (("here", "none"), ("there", cluster.address)):
        run = ["audit", "data/labels.csv", "--out", out, "--cache", f"{out}-cache", "--quiet"]
        assert main([*run, "--ray", address]) == 0
        written.append(Path(out, "audit.json").read_bytes())
    assert written[0] == written[1]


def test_a_cluster_of_this_machine_alone_needs_a_token_also_where_ray_was_imported_before(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    few = tmp_path / "few.csv"
    listed = pd.read_csv(phantoms).groupby("label").head(4)
    listed.assign(path=[phantoms.parent / path for path in listed["path"]]).to_csv(few)
    assert "ray" in sys.modules
    with connected("local"):
        of_node = ray.get(ray.remote(lambda: os.environ.get("RAY_AUTH_MODE")).remote())
        findings = medlens.audit(few, cache=str(tmp_path / "there"), ray="local")
    assert of_node == "token"
    assert "RAY_AUTH_MODE" not in os.environ
    assert findings == medlens.audit(few, cache=str(tmp_path / "here"))


@pytest.mark.slow
def test_features_of_relative_folders_are_made_on_a_cluster_with_another_working_folder(
    inside: Cluster, images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = BACKBONES["mobilenet_v2"]
    frozen_pass = FrozenPass(backbone, find_weights(backbone, "random", seed=0), RULE, "keras")
    monkeypatch.chdir(tmp_path)
    pictures = Pictures(RULE, Store(Path("pictures")))
    relative = dataclasses.replace(images, root=Path("images"))
    table = scan_with(relative, Path("cache"), [], pictures)
    # The second time the facts are known.
    pd.testing.assert_frame_equal(scan_with(relative, Path("cache"), [], pictures), table)
    keys = sorted(set(table.loc[table["unreadable"] == "", "pixels_sha256"]))
    features = Store(Path("features"))
    extract_on_cluster(
        keys,
        frozen_pass,
        features,
        pictures.store,
        lambda read: read,
        cache=Path("cache"),
        progress=lambda _: None,
        say=print,
    )
    assert content(features, keys) == content(Store(tmp_path / "features"), keys)


@pytest.mark.slow
def test_an_audit_is_the_same_file(cluster: Cluster, images: Dataset, tmp_path: Path) -> None:
    written = []
    for name, address in (("here", "none"), ("there", cluster.address)):
        run = ["audit", str(images.root / "all.csv"), "--out", str(tmp_path / name), "--quiet"]
        main([*run, "--cache", str(tmp_path / f"{name}-cache"), "--ray", address])
        written.append((tmp_path / name / "audit.json").read_bytes())
    assert written[0] == written[1]


def start(run: Path, cache: Path, data: Path, *more: str) -> subprocess.Popen[bytes]:
    """Begin `medlens train` in a process of its own."""
    options = "--backbone mobilenet_v2 --weights random --image-size 32 --epochs 3 --plan plain"
    command = [sys.executable, "-m", "medlens", "train", str(data), "--out", str(run)]
    given = [*options.split(), "--no-images", "--cache", str(cache), *more]
    return subprocess.Popen([*command, *given], stdout=subprocess.DEVNULL)


def wait_for(folder: Path, suffix: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a file of a kind is below a folder; the process must still be at work."""
    while not list(folder.rglob(f"*{suffix}")):
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.slow
def test_a_training_whose_driver_and_whose_node_die_ends_as_on_one_machine(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = write_phantoms(tmp_path / "data", images=3000, seed=1, size=32)
    here, there = tmp_path / "here", tmp_path / "there"
    lost = cluster.add_node(num_cpus=2)
    on_cluster = ["--ray", cluster.address]

    first = start(there, tmp_path / "cache", data, *on_cluster)
    wait_for(there, ".keys", first)
    first.kill()
    first.wait()
    second = start(there, tmp_path / "cache", data, "--resume", *on_cluster)
    wait_for(tmp_path / "cache" / "features", ".keys", second)
    cluster.remove_node(lost, allow_graceful=False)
    assert second.wait() == 0
    (retried,) = json.loads((there / "training.json").read_text())["retried"]
    assert retried in (there / "log.txt").read_text()
    assert retried in (there / "report.html").read_text()

    assert start(here, tmp_path / "other-cache", data).wait() == 0
    for name in ("audit.json", "dataset.csv", "splits.csv", "predictions.csv", "evaluation.json"):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name
