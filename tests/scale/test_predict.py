"""Predictions on a real Ray cluster of several nodes, with images on a real S3 server."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import numpy as np
import pandas as pd
import pytest

import medlens
from medlens.cli import NOT_WHOLE, main
from medlens.data.phantom import write_phantoms
from medlens.data.remote import open_path
from medlens.errors import MedlensError
from medlens.model.checksums import digest_of, write_checksums
from medlens.model.classifier_files import CHECKSUMS_FILE, MODEL_FILE, NEEDED_FILES
from medlens.scale.cluster import connected
from medlens.scale.predict import PredictParts
from medlens.serve.inputs import list_inputs
from medlens.serve.predict import make_parts, open_work, result_columns

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

IMAGES = 200
# Five parts of 256.
ROWS = 1200


def upload(folder: Path, bucket: str) -> str:
    """Put the images of a folder on the server, in a folder of that name."""
    client = boto3.client("s3")
    for path in sorted(folder.rglob("*.png")):
        name = path.relative_to(folder.parent).as_posix()
        client.upload_file(str(path), bucket.removeprefix("s3://"), name)
    return f"{bucket}/{folder.name}"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small images, one of them bad."""
    folder = tmp_path_factory.mktemp("images") / "small"
    write_phantoms(folder, images=IMAGES - 1, seed=5, size=32)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def many(small: Path) -> Path:
    """A list that names each of them six times."""
    paths = sorted(str(path.relative_to(small)) for path in small.rglob("*.png"))
    table = pd.DataFrame({"path": (paths * 6)[:ROWS], "number": range(ROWS)})
    table.to_parquet(small / "many.parquet")
    return small / "many.parquet"


@pytest.fixture(scope="module")
def whole(finished_run: medlens.Run, many: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What one machine says of that list."""
    out = tmp_path_factory.mktemp("whole") / "whole.csv"
    medlens.predict(finished_run.path, many, out=out, quiet=True)
    return out.read_bytes()


@pytest.mark.slow
def test_a_folder_on_a_server_is_predicted_by_a_cluster_to_the_same_bytes(
    finished_run: medlens.Run, small: Path, bucket: str, cluster: Cluster, tmp_path: Path
) -> None:
    images = upload(small, bucket)
    here, there = tmp_path / "here.csv", f"{bucket}/results/there.csv"
    medlens.predict(finished_run.path, images, out=here, quiet=True)
    outcome = medlens.predict(finished_run.path, images, out=there, ray=cluster.address, quiet=True)
    assert (outcome.images, outcome.refused) == (IMAGES, 1)
    assert open_path(there).read_bytes() == here.read_bytes()
    assert [path.name for path in open_path(there).parent.iterdir()] == ["there.csv"]
    assert pd.read_csv(here)["path"][0] == f"{images}/bad.png"


@pytest.mark.slow
def test_one_machine_and_a_cluster_finish_what_the_other_began(
    finished_run: medlens.Run,
    many: Path,
    whole: bytes,
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.csv"
    parts = tmp_path / ".out.csv.parts"
    begin(finished_run, many, out)
    (part,) = parts.glob("000000000000-*.parquet")
    first = part.stat()
    command = [sys.executable, "-m", "medlens", "predict", str(finished_run.path), str(many)]
    driver = subprocess.Popen([*command, "-o", str(out), "--ray", cluster.address])
    while driver.poll() is None and len(list(parts.glob("0*.parquet"))) < 2:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not out.exists()
    assert len(list(parts.glob("0*.parquet"))) >= 2
    assert part.stat().st_mtime_ns == first.st_mtime_ns
    medlens.predict(finished_run.path, many, out=out)
    assert "Going on after" in capsys.readouterr().out
    assert out.read_bytes() == whole


@pytest.mark.slow
def test_relative_paths_are_predicted_on_a_cluster_with_another_working_folder(
    finished_run: medlens.Run,
    small: Path,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(small, tmp_path / "small")
    (tmp_path / "run").symlink_to(finished_run.path)
    monkeypatch.chdir(tmp_path)
    medlens.predict("run", "small", out="here.csv", quiet=True)
    outcome = medlens.predict("run", "small", out="there.csv", ray=cluster.address, quiet=True)
    assert outcome.refused == 1
    assert Path("there.csv").read_bytes() == Path("here.csv").read_bytes()


def test_a_command_starts_a_cluster_of_its_own(
    finished_run: medlens.Run, small: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    images = sorted(map(str, small.rglob("*.png")))[:8]
    medlens.predict(finished_run.path, images, out=here, quiet=True)
    command = [sys.executable, "-m", "medlens", "predict", str(finished_run.path), *images]
    done = subprocess.run([*command, "-o", str(there), "--ray", "local"], check=False)
    assert done.returncode == NOT_WHOLE
    assert there.read_bytes() == here.read_bytes()


def begin(run: medlens.Run, many: Path, out: Path) -> None:
    """Make the first part of a result on this machine."""
    classifier, inputs = run.classifier(), list_inputs([many])
    digest = digest_of(run.path / "classifier" / CHECKSUMS_FILE)
    work = open_work(inputs, out, result_columns(classifier.classes, inputs.columns), digest, "CPU")
    others = frozenset(work.result.numbers) - {0}
    make_parts(classifier, dataclasses.replace(work, finished=others), lambda _: None)


def test_a_result_whose_parts_are_all_there_is_put_together_without_the_cluster(
    finished_run: medlens.Run, small: Path, cluster: Cluster, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    medlens.predict(finished_run.path, small, out=whole, quiet=True)
    classifier, inputs = finished_run.classifier(), list_inputs([small])
    # Whoever asks for no part does not load the network.
    folder = shutil.copytree(finished_run.path / "classifier", tmp_path / "classifier")
    (folder / MODEL_FILE).write_bytes(b"no network")
    write_checksums(folder, NEEDED_FILES)
    digest = digest_of(folder / CHECKSUMS_FILE)
    columns = result_columns(classifier.classes, inputs.columns)
    make_parts(classifier, open_work(inputs, out, columns, digest, "CPU"), lambda _: None)
    medlens.predict(folder, small, out=out, ray=cluster.address, quiet=True)
    assert out.read_bytes() == whole.read_bytes()


def test_a_node_that_does_not_see_the_images_says_so(
    finished_run: medlens.Run, many: Path, cluster: Cluster, tmp_path: Path
) -> None:
    work = open_work(list_inputs([many]), tmp_path / "out.csv", ("path",), "", "CPU")
    with connected(cluster.address), pytest.raises(MedlensError, match="does not see the images"):
        PredictParts({}, work, "CPU", str(tmp_path / "none.png"), None)(1)


@pytest.mark.slow
def test_an_image_that_ends_whoever_decodes_it_is_refused(
    finished_run: medlens.Run,
    small: Path,
    deadly_file: Path,
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = sorted(small.rglob("*.png"))[:5]
    out = tmp_path / "out.csv"
    command = ["predict", str(finished_run.path), *map(str, images), str(deadly_file)]
    status = main([*command, "-o", str(out), "--ray", cluster.address, "--quiet"])
    assert status == NOT_WHOLE
    said = capsys.readouterr()
    assert "Predictions" not in said.out
    assert "Retried: 1 part" in said.err
    assert pd.read_csv(out)["unreadable"].iloc[-1] == "It broke the decoder."
    here = tmp_path / "here.csv"
    medlens.predict(finished_run.path, images, out=here, quiet=True)
    assert out.read_text().splitlines()[:-1] == here.read_text().splitlines()


@pytest.mark.slow
def test_a_node_that_is_lost_costs_no_image(
    finished_run: medlens.Run,
    bucket: str,
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "five-thousand"
    write_phantoms(folder, images=5000, seed=6, size=32)
    images = upload(folder, bucket)
    here, there = tmp_path / "here.csv", f"{bucket}/results/lost.csv"
    medlens.predict(finished_run.path, images, out=here, quiet=True)
    node = cluster.add_node(num_cpus=2)
    parts = open_path(f"{bucket}/results/.lost.csv.parts")

    def lose() -> None:
        while len(list(parts.glob("0*.parquet"))) < 6:
            time.sleep(0.2)
        cluster.remove_node(node, allow_graceful=False)

    losing = threading.Thread(target=lose, daemon=True)
    losing.start()
    outcome = medlens.predict(finished_run.path, images, out=there, ray=cluster.address)
    losing.join(0)
    assert not losing.is_alive()
    assert outcome.images == 5000
    assert open_path(there).read_bytes() == here.read_bytes()
    assert outcome.retried[0] in capsys.readouterr().out
    assert np.array_equal(np.sort(pd.read_csv(here)["path"]), pd.read_csv(here)["path"])
