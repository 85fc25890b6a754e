"""The recipes for clusters: manifests that KubeRay knows, commands of medlens, a job that runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from medlens.cli import NOT_WHOLE, _parser
from medlens.data.remote import local_side, open_path

DEPLOY = Path(__file__).parents[1] / "deploy"
JOBS = sorted(DEPLOY.glob("kuberay/*predict*.yaml")) + sorted(DEPLOY.glob("kuberay/*train*.yaml"))
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
# The fields that KubeRay 1.6 knows (its API reference, ray.io/v1), as far as a recipe may use them.
JOB_FIELDS = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "entrypoint",
    "entrypointNumCpus",
    "rayClusterSpec",
    "runtimeEnvYAML",
    "shutdownAfterJobFinishes",
    "submissionMode",
    "submitterPodTemplate",
    "ttlSecondsAfterFinished",
}
CLUSTER_FIELDS = {"authOptions", "headGroupSpec", "rayVersion", "workerGroupSpecs"}
HEAD_FIELDS = {"rayStartParams", "template"}
WORKER_FIELDS = {*HEAD_FIELDS, "groupName", "maxReplicas", "minReplicas", "replicas"}


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def pinned(package: str) -> str:
    pins = (DEPLOY.parent / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{package}==(\S+)$", pins, re.MULTILINE)
    assert found
    return found.group(1)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_has_the_fields_that_kuberay_knows(path: Path) -> None:
    job = read(path)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"].keys() <= JOB_FIELDS
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster.keys() == CLUSTER_FIELDS
    assert cluster["headGroupSpec"].keys() == HEAD_FIELDS
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == WORKER_FIELDS
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        assert container["resources"]["requests"] == container["resources"]["limits"]


def run_entrypoint(path: Path, folder: Path, status: int) -> tuple[int, list[str]]:
    """The status of a job's command where medlens ends with that one, and medlens's arguments."""
    program = folder / "medlens"
    log = folder / "arguments"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {log}\nexit {status}\n', encoding="utf-8")
    program.chmod(stat.S_IRWXU)
    # KubeRay's script hands the words to `ray job submit`, which hands them to a shell.
    command = shlex.join(shlex.split(read(path)["spec"]["entrypoint"]))
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", command], env=environment, check=False)
    return done.returncode, log.read_text(encoding="utf-8").splitlines()


@needs_bash
@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_a_command_of_medlens(path: Path, tmp_path: Path) -> None:
    status, arguments = run_entrypoint(path, tmp_path, 0)
    assert status == 0
    given = vars(_parser().parse_args(arguments))
    assert given["ray"] == "auto"


@needs_bash
def test_refused_images_do_not_fail_the_job(tmp_path: Path) -> None:
    path = DEPLOY / "kuberay/predict.yaml"
    assert [run_entrypoint(path, tmp_path, status)[0] for status in (NOT_WHOLE, 0)] == [0, 0]
    assert all(run_entrypoint(path, tmp_path, status)[0] for status in (1, 2, 130))


def test_workers_of_a_training_write_to_the_run_folder_that_the_head_reads() -> None:
    job = read(DEPLOY / "kuberay/train-gpu.yaml")["spec"]
    given = vars(_parser().parse_args(shlex.split(job["entrypoint"])[1:]))
    cluster = job["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert {claim_at(group, given["out"]) for group in groups} == {"medlens-runs"}


def test_what_was_read_of_files_on_other_storage_outlives_the_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = read(DEPLOY / "kuberay/train-gpu.yaml")["spec"]
    given = vars(_parser().parse_args(shlex.split(job["entrypoint"])[1:]))
    head = job["rayClusterSpec"]["headGroupSpec"]
    (container,) = head["template"]["spec"]["containers"]
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for one in container["env"]:
        monkeypatch.setenv(one["name"], one["value"])
    place = local_side(open_path(given["cache"]))
    assert claim_at(head, str(place)) == "medlens-runs"


def claim_at(group: dict[str, Any], place: str) -> str:
    """The claim that pods of a group write to at a place; "" for none."""
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    claims = {one["name"]: one["persistentVolumeClaim"] for one in pod.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        claim = claims[mount["name"]]
        is_above = Path(place).is_relative_to(mount["mountPath"])
        if is_above and not (mount.get("readOnly") or claim.get("readOnly")):
            assert pod["securityContext"]["fsGroup"]
            return str(claim["claimName"])
    return ""


def test_all_nodes_have_one_version_of_ray() -> None:
    versions = {read(path)["spec"]["rayClusterSpec"]["rayVersion"] for path in JOBS}
    image = (DEPLOY / "kuberay/Dockerfile").read_text(encoding="utf-8")
    base = re.search(r"^FROM rayproject/ray:([\d.]+)-", image, re.MULTILINE)
    assert base
    assert {*versions, base.group(1)} == {pinned("ray")}


def test_workers_with_gpus_have_the_image_with_the_libraries_for_them() -> None:
    dockerfile = (DEPLOY / "kuberay/Dockerfile").read_text(encoding="utf-8")
    builds = dict(re.findall(r"(PACKAGES=\S+) .*?--tag (\S+) ", dockerfile, re.DOTALL))
    (with_libraries,) = builds.values()
    assert list(builds) == ["PACKAGES='tensorflow[and-cuda]'"]
    images = set()
    for path in JOBS:
        for group in read(path)["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert (container["image"] == with_libraries) is has_gpu
            images.add(has_gpu)
    assert images == {False, True}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """What a Slurm job sees on its first node, with programs that only write down what they do."""
    programs = {
        # Runs the command once for each task, as Slurm would on so many nodes.
        "srun": 'echo "srun $*" >> "$LOG"\n'
        'for word; do case "$word" in --ntasks=*) tasks=${word#*=};; esac; done\n'
        'while case "$1" in -*) true;; *) false;; esac; do shift; done\n'
        "own=; trap 'kill $own' TERM\n"
        'for task in $(seq "$tasks"); do\n'
        'SLURM_CPUS_ON_NODE=$((8 * task)) "$@" & own="$own $!"; done; wait',
        "hostname": '[ "$1" = --ip-address ] && echo ::1 127.0.1.1 || echo 10.0.0.7 10.0.0.8',
        "ray": 'echo "ray $RAY_AUTH_MODE $RAY_AUTH_TOKEN $*" >> "$LOG"\n'
        'echo "niceness $RAY_worker_niceness" >> "$LOG"; exec sleep 60',
        "python": 'echo "python $2 $3" >> "$LOG"; sleep 1; exit "${NODES_FAIL:-0}"',
        "medlens": 'for word; do printf "medlens <%s>\\n" "$word" >> "$LOG"; done\n'
        'exit "${MEDLENS_STATUS:-0}"',
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (folder / name).chmod(stat.S_IRWXU)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_ON_NODE": "8",
        "SLURMD_NODENAME": "first",
    }


PREDICT = ("predict", "RUN", "a b.csv")


def run_job(environment: dict[str, str], given: Sequence[str] = PREDICT) -> tuple[int, list[str]]:
    command = ["bash", str(DEPLOY / "slurm/medlens.sbatch"), *given]
    done = subprocess.run(command, env=environment, timeout=50, check=False)
    return done.returncode, Path(environment["LOG"]).read_text(encoding="utf-8").splitlines()


@needs_bash
def test_a_slurm_job_starts_a_head_and_workers_and_then_medlens(slurm: dict[str, str]) -> None:
    status, log = run_job(slurm)
    assert status == 0
    (head,) = [line for line in log if line.startswith("ray") and "--head" in line]
    workers = [line for line in log if line.startswith("ray") and "--address=" in line]
    assert len(workers) == 2
    tokens = {line.split()[2] for line in (head, *workers)}
    assert len(tokens) == 1
    assert re.fullmatch("[0-9a-f]{64}", tokens.pop())
    (address,) = {word for line in workers for word in line.split() if "--address=" in word}
    place = address.removeprefix("--address=")
    assert f"--port={place.rpartition(':')[2]} " in head
    # Others cannot reach the loopback address that a name may stand for.
    assert place.rpartition(":")[0] == "10.0.0.7"
    assert "--node-ip-address=10.0.0.7 " in head
    # Each node has CPUs of its own number.
    assert "--num-cpus=8 " in head
    assert sorted(re.findall(r"--num-cpus=(\d+) ", " ".join(workers))) == ["16", "8"]
    assert f"python {place} 3" in log
    said = [line.removeprefix("medlens ") for line in log if line.startswith("medlens")]
    assert said == ["<predict>", "<RUN>", "<a b.csv>", "<--ray>", f"<{place}>"]
    assert log.count("niceness 0") == 3
    assert log[-1].endswith("rm -rf /tmp/ray-12345")


@needs_bash
def test_a_slurm_job_without_its_nodes_does_not_begin(slurm: dict[str, str]) -> None:
    status, log = run_job({**slurm, "NODES_FAIL": "1"})
    assert status == 1
    assert not any(line.startswith("medlens") for line in log)


@needs_bash
@pytest.mark.parametrize(("of_medlens", "of_job"), [(NOT_WHOLE, 0), (2, 2)])
def test_a_slurm_job_fails_where_medlens_does(
    slurm: dict[str, str], of_medlens: int, of_job: int
) -> None:
    status, _ = run_job({**slurm, "MEDLENS_STATUS": str(of_medlens), "SLURM_JOB_NUM_NODES": "1"})
    assert status == of_job


@needs_bash
def test_a_training_that_slurm_starts_again_goes_on(slurm: dict[str, str]) -> None:
    train = ("train", "DATA", "--out", "RUN")
    again = {**slurm, "SLURM_JOB_NUM_NODES": "1", "SLURM_RESTART_COUNT": "1"}
    for environment, more in ((slurm, []), (again, ["<--resume>"])):
        Path(slurm["LOG"]).unlink(missing_ok=True)
        _, log = run_job(environment, train)
        said = [line.removeprefix("medlens ") for line in log if line.startswith("medlens")]
        assert said[:-2] == ["<train>", "<DATA>", "<--out>", "<RUN>", *more]


@needs_bash
def test_a_slurm_job_of_one_node_has_no_workers(slurm: dict[str, str]) -> None:
    status, log = run_job({**slurm, "SLURM_JOB_NUM_NODES": "1"})
    assert status == 0
    assert sum(line.startswith("ray") for line in log) == 1
