"""Parts of a job on a real cluster: each once in the end, whatever dies meanwhile."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow
import pytest
import ray
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get

from medlens.errors import MedlensError
from medlens.scale.cluster import Pool, choose_pool, connected, find_pool
from medlens.scale.ledger import CAREFUL_AFTER, MOST_TRIES, Ledger
from medlens.scale.parts import Patience, run_parts
from medlens.scale.processor import find_processor
from medlens.scale.worker import NODE_NAME_LENGTH

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

# Tests are not installed on the nodes: their functions travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


Hurt = Callable[[int, bool], None]


class Work:
    """Says which process did a part; before that, `hurt` does what shall go wrong."""

    def __init__(self, hurt: Hurt) -> None:
        self.hurt = hurt

    def __call__(self, part: int, *, careful: bool, advance: Callable[[], None]) -> pyarrow.Table:
        self.hurt(part, careful)
        return pyarrow.table({"process": [os.getpid()] * 3, "careful": [careful] * 3})


@dataclass(frozen=True)
class Making:
    """Makes the work on a worker."""

    hurt: Hurt

    def __call__(self, cpus: int) -> Work:
        if cpus != 2:
            raise ValueError(cpus)
        return Work(self.hurt)


@dataclass
class Results:
    """What came back: how often each part, how many rows, and which with care."""

    parts: Counter[int]
    careful: set[int]

    def take(self, part: int, table: pyarrow.Table) -> None:
        assert table.column_names == ["process", "careful"]
        assert len(table) == 3
        self.parts[part] += 1
        if table["careful"][0].as_py():
            self.careful.add(part)


@pytest.fixture
def results() -> Results:
    return Results(Counter(), set())


@pytest.fixture
def inside(cluster: Cluster) -> Iterator[Cluster]:
    with connected(cluster.address):
        yield cluster


@pytest.mark.parametrize(
    ("cpus", "pool"),
    [
        ([], None),
        ([0, 0.5], None),
        ([1, 64], Pool(1, 64, 0)),
        ([8], Pool(1, 8, 0)),
        ([32, 32, 64], Pool(3, 32, 0)),
        ([2, 30, 32, 32], Pool(3, 30, 0)),
    ],
)
def test_one_worker_a_node_of_the_size_that_uses_most_cpus(
    cpus: list[float], pool: Pool | None
) -> None:
    assert choose_pool([{"CPU": count} for count in cpus], gpus=0) == pool


@pytest.mark.parametrize(
    ("nodes", "pool"),
    [
        ([(64, 8)], Pool(8, 8, 1)),
        ([(2, 8)], Pool(2, 1, 1)),
        ([(64, 8), (2, 8)], Pool(8, 8, 1)),
        ([(8, 1), (16, 1), (64, 0)], Pool(2, 8, 1)),
        ([(0, 4), (16, 0)], None),
    ],
)
def test_one_worker_a_gpu_that_has_a_cpu_beside_it(
    nodes: list[tuple[float, float]], pool: Pool | None
) -> None:
    resources = [{"CPU": cpus, "GPU": gpus} for cpus, gpus in nodes]
    assert choose_pool(resources, gpus=1) == pool


def test_the_pool_of_the_cluster_is_a_worker_for_each_node(inside: Cluster) -> None:
    pool = find_pool(gpus=0)
    assert (pool.workers, pool.cpus, pool.gpus) == (2, 2, 0)


def test_a_worker_that_dies_is_replaced_and_what_kills_twice_is_done_with_care(
    inside: Cluster, results: Results
) -> None:
    def hurt(part: int, careful: bool) -> None:
        if part == 14 and not careful:
            os.kill(os.getpid(), signal.SIGKILL)

    retried = run_parts(np.arange(3, 30), Making(hurt), results.take, gpus=0)
    assert results.parts == dict.fromkeys(range(3, 30), 1)
    # What ran beside it in the same process died with it, and may have gone with care as well.
    assert 14 in results.careful
    assert retried.parts >= 1
    assert retried.careful == len(results.careful)
    assert sum(retried.nodes.values()) >= CAREFUL_AFTER
    assert retried.lines[0].startswith("Retried: ")


@pytest.mark.slow
def test_a_worker_that_stands_still_is_ended_and_its_part_begun_again(
    inside: Cluster, results: Results
) -> None:
    def hurt(part: int, careful: bool) -> None:
        if part == 5 and not careful:
            time.sleep(10_000)

    patience = Patience(stuck=8)
    make = Making(hurt)
    retried = run_parts(np.arange(8), make, results.take, gpus=0, patience=patience)
    assert results.parts == dict.fromkeys(range(8), 1)
    assert 5 in results.careful
    assert sum(retried.nodes.values()) >= CAREFUL_AFTER


def test_an_error_to_mend_on_a_node_is_one_here(inside: Cluster, results: Results) -> None:
    def hurt(part: int, careful: bool) -> None:
        raise MedlensError("No.", got="this", expected="that", fix="Do.", names=["a.png"])

    with pytest.raises(MedlensError, match="No") as raised:
        run_parts(np.arange(3), Making(hurt), results.take, gpus=0)
    assert raised.value.names == ("a.png",)


@pytest.mark.parametrize(
    ("error", "what", "got"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "P-4711.png"), "read or write", "space"),
        (KeyError("P-4711.png"), "broke off", "KeyError"),
    ],
)
@pytest.mark.slow
def test_an_error_that_nobody_foresaw_is_said_without_names(
    inside: Cluster, results: Results, error: Exception, what: str, got: str
) -> None:
    def hurt(part: int, careful: bool) -> None:
        raise error

    with pytest.raises(MedlensError, match=what) as raised:
        run_parts(np.arange(3), Making(hurt), results.take, gpus=0)
    assert got in raised.value.got
    assert "P-4711" not in str(raised.value)


def test_a_job_for_gpus_waits_for_one_and_does_not_run_on_processors(
    inside: Cluster, results: Results
) -> None:
    make, patience = Making(lambda part, careful: None), Patience(room=1)
    with pytest.raises(MedlensError, match="no room") as raised:
        run_parts(np.arange(3), make, results.take, gpus=1, patience=patience)
    assert raised.value.got == "no node with a GPU and a CPU for 1 s"
    assert not results.parts


@pytest.mark.slow
def test_gpus_that_keras_cannot_use_are_an_error_and_not_a_slow_job(inside: Cluster) -> None:
    assert find_processor("GPU", patience=1) == "CPU"
    node = inside.add_node(num_cpus=1, num_gpus=1)  # Ray believes it
    try:
        with pytest.raises(MedlensError, match="cannot use the GPUs"):
            find_processor()
    finally:
        inside.remove_node(node)


@pytest.mark.slow
def test_a_cluster_that_has_no_node_yet_is_waited_for(results: Results) -> None:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    growing = Cluster(initialize_head=True, head_node_args=head)
    try:
        with connected(growing.address), pytest.raises(MedlensError, match="no room"):
            find_pool(gpus=0, patience=1)
        with connected(growing.address), ThreadPoolExecutor() as beside:
            make = Making(lambda part, careful: None)
            running = beside.submit(run_parts, np.arange(3), make, results.take, gpus=0)
            # Here: Ray starts nodes in the main thread only.
            assert grow_on_demand(growing) == [{"CPU": 1}]
            running.result()
            assert asked_for() == []
    finally:
        growing.shutdown()
    assert results.parts == dict.fromkeys(range(3), 1)


def asked_for() -> list[dict[str, float]]:
    """The nodes that Ray's autoscaler would find to be asked for."""
    return list(json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or "[]"))


def grow_on_demand(cluster: Cluster) -> list[dict[str, float]]:
    """Add a node as soon as one is asked for, or after a while; returns what was asked for."""
    try:
        for _ in range(60):
            if asked_for():
                break
            time.sleep(0.5)
        return asked_for()
    finally:
        cluster.add_node(num_cpus=2)


@pytest.mark.slow
def test_a_cluster_whose_cpus_are_taken_is_an_error_and_no_endless_wait(
    inside: Cluster, results: Results
) -> None:
    @ray.remote(num_cpus=1)
    class Other:
        def node(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    others = [Other.options(scheduling_strategy="SPREAD").remote() for _ in range(4)]
    assert len(set(ray.get([one.node.remote() for one in others]))) == 2
    patience = Patience(room=8, lost=8)
    make = Making(lambda part, careful: None)
    with pytest.raises(MedlensError, match="no room") as raised:
        run_parts(np.arange(3), make, results.take, gpus=0, patience=patience)
    assert "0 CPUs and 0 GPUs free" in raised.value.got
    for one in others:
        ray.kill(one)


def test_a_node_that_is_lost_in_the_middle_costs_nothing_but_time(
    inside: Cluster, results: Results, tmp_path: Path
) -> None:
    lost = inside.add_node(num_cpus=2, env_vars={"LOST": "1"})
    begun = tmp_path / "begun"

    def hurt(part: int, careful: bool) -> None:
        if "LOST" in os.environ:
            begun.touch()
            time.sleep(10_000)  # the node goes before it has finished anything
        while not begun.exists():
            time.sleep(0.1)

    def take(part: int, table: pyarrow.Table) -> None:
        results.take(part, table)
        if results.parts.total() == 1:
            inside.remove_node(lost, allow_graceful=False)

    patience = Patience(room=60, lost=10)
    retried = run_parts(np.arange(60), Making(hurt), take, gpus=0, patience=patience)
    assert results.parts == dict.fromkeys(range(60), 1)
    assert retried.parts >= 1
    assert set(retried.nodes) == {lost.node_id[:NODE_NAME_LENGTH]}


def test_a_job_of_several_pipelines_does_every_part_once(inside: Cluster, results: Results) -> None:
    make = Making(lambda part, careful: None)
    retried = run_parts(np.arange(100), make, results.take, gpus=0, at_a_time=60)
    assert results.parts == dict.fromkeys(range(100), 1)
    assert retried.parts == 0


def test_the_ledger_counts_what_was_begun_again() -> None:
    ledger = Ledger(4)
    assert [ledger.begin(2, "a"), ledger.begin(2, "b")] == [0, 1]
    assert ledger.retried().parts == 1
    assert ledger.retried().nodes == {"a": 1}
    assert [ledger.begin(2, "b"), ledger.begin(2, "b")] == [CAREFUL_AFTER, 3]
    assert ledger.retried().careful == 1
    ledger.finish(2)
    # Its result was lost with a node: done again, but it kills nobody.
    assert ledger.begin(2, "c") == 0
    assert ledger.begin(0, "c") == 0
    assert ledger.retried().nodes == {"b": 3, "a": 1}
    assert ledger.retried().parts == 1


def test_nothing_begun_again_is_nothing_said() -> None:
    assert Ledger(1).retried().lines == []


@pytest.mark.slow
def test_a_part_that_kills_everybody_ends_the_job(inside: Cluster, results: Results) -> None:
    def hurt(part: int, careful: bool) -> None:
        if part == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(MedlensError, match="ends every worker") as raised:
        run_parts(np.arange(1), Making(hurt), results.take, gpus=0)
    assert raised.value.got.startswith(f"{MOST_TRIES} workers")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_no_cluster_at_an_address_is_an_error_to_mend(address: str) -> None:
    with pytest.raises(MedlensError, match="no Ray cluster"), connected(address):
        pass


def test_none_is_no_cluster() -> None:
    with connected("none") as is_connected:
        assert not is_connected
    assert not ray.is_initialized()


@pytest.mark.slow
def test_workers_of_this_machine_alone_give_way_to_nobody() -> None:
    script = (
        "import os\n"
        "from medlens.scale.cluster import connected, import_ray\n"
        "with connected('local'):\n"
        "    asked = import_ray().remote(lambda: os.nice(0)).remote()\n"
        "    print(import_ray().get(asked))\n"
    )
    # Ray reads what is meant for a cluster that it starts from its own environment.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.split() == [str(os.nice(0)).encode()]
