"""A job in parts on a cluster: streamed by Ray Data, and begun again where workers were lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from medlens.errors import MedlensError
from medlens.model.versions import deciding_versions
from medlens.scale.cluster import Pool, find_pool, import_ray, no_room
from medlens.scale.ledger import Ledger, Progress, Retried
from medlens.scale.worker import PART, Make, PartWorker

# Of one pipeline: Ray makes an object for each of its parts before the first begins, and holds it.
PARTS_AT_A_TIME = 16_384
LOOK_SECONDS = 2.0
# So many workers may die one after the other, each before it has finished a part, for each that
# the pool has.
MOST_STARTS = 4


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, for workers.

    Args:
        room: For a first worker: a cluster may have to grow.
        lost: For workers that were at work. Parts wait for the very worker that they were given
            to; where its node does not come back, they are given to others.
        stuck: For the next image of a worker that says it is at work; then it is ended.
    """

    room: float = 300.0
    lost: float = 45.0
    stuck: float = 600.0


def run_parts(
    parts: NDArray[np.int64],
    make: Make,
    on_result: Callable[[int, pyarrow.Table], None],
    *,
    gpus: int,
    patience: Patience = Patience(),
    at_a_time: int = PARTS_AT_A_TIME,
) -> Retried:
    """Do parts of a work list on the connected cluster.

    Args:
        parts: The numbers of the parts that are not done yet, each once.
        make: Makes the work on a worker, from the number of CPUs that it may use; it is sent
            there by Ray, with what it holds.
        on_result: Called here for every part, once, in whatever order they come.
        gpus: Of each worker: 0 or 1. A job that began on GPUs waits for one where all are lost.
        patience: How long to wait for workers.
        at_a_time: How many parts one pipeline has; then come others, with the workers that there is
            room for by then.

    Returns:
        What was begun again.

    Raises:
        MedlensError: If there is no room for any worker, or a worker met what the user can mend.
    """
    if not len(parts):
        return Retried(0, {}, 0)
    ray = import_ray()
    ledger = beside_driver(Ledger).remote(int(parts.max()) + 1)
    made = [ray.put(make)]
    left = set(parts.tolist())

    def note(table: pyarrow.Table) -> None:
        part = int(table[PART][0].as_py())
        left.discard(part)
        on_result(part, table.drop_columns([PART]))

    try:
        while left:
            wanted = np.array(sorted(left)[:at_a_time], np.int64)
            pool = find_pool(gpus=gpus, patience=patience.room)
            _run_pipeline(wanted, pool, ledger, made, note, patience)
        retried: Retried = ray.get(ledger.retried.remote())
        return retried
    finally:
        ray.kill(ledger)


def _run_pipeline(
    parts: NDArray[np.int64],
    pool: Pool,
    ledger: Any,
    made: list[Any],
    note: Callable[[pyarrow.Table], None],
    patience: Patience,
) -> None:
    """Do parts with one pool of workers; return early where some of these are lost for good."""
    ray = import_ray()
    begun_before = ray.get(ledger.progress.remote()).begun
    # In a process of its own, so that it can be ended with all its workers while it waits.
    runner = beside_driver(_Runner).remote()
    try:
        tables = runner.run.options(num_returns="streaming").remote(
            parts, pool, ledger, made, patience.stuck
        )
        while True:
            ready, _ = ray.wait([tables], timeout=LOOK_SECONDS)
            if ready:
                try:
                    note(ray.get(next(tables)))
                except StopIteration:
                    return
            elif _is_stalled(ray.get(ledger.progress.remote()), begun_before, pool, patience):
                return
    except ray.exceptions.RayError as error:
        refusal = ray.get(ledger.progress.remote()).refusal
        raise (_ended(error) if refusal is None else MedlensError(**refusal)) from error
    finally:
        ray.kill(runner)


def _ended(error: Exception) -> MedlensError:
    return MedlensError(
        "Ray gave the job up.",
        got=f"{type(error).__name__}; its text may name files and is not shown",
        expected="a cluster that lasts as long as the job",
        fix="Look into Ray's logs for the cause, and repeat the command: what is finished is kept.",
    )


def _is_stalled(progress: Progress, begun_before: int, pool: Pool, patience: Patience) -> bool:
    """Whether workers that had begun are lost for good.

    Raises:
        MedlensError: If none could begin.
    """
    if progress.starts > MOST_STARTS * pool.workers:
        raise MedlensError(
            "Workers of the cluster die before they have finished anything.",
            got=f"{progress.starts} that started, one after the other",
            expected=f"{pool.text}, with memory enough for the network",
            fix="Look into Ray's logs on the nodes for what ended them (mostly memory), and repeat "
            "the command: what is finished is kept.",
        )
    if progress.begun > begun_before:
        return progress.silence > patience.lost
    if progress.silence > patience.room:
        free = import_ray().available_resources()
        raise no_room(
            f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs free, too few on one "
            f"node for one of {pool.text}, for {patience.room:g} s"
        )
    return False


class _Runner:
    """Drives a Ray Data pipeline. Lives as a Ray actor beside the driver."""

    def run(
        self, parts: NDArray[np.int64], pool: Pool, ledger: Any, made: list[Any], stuck: float
    ) -> Iterator[pyarrow.Table]:
        """What the workers say of the parts, in whatever order they come."""
        ray = import_ray()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # Ledger and workers know better than Ray how long a part may take.
        context.execution_no_progress_timeout_s = -1
        # From objects that are here, with their sizes: reading a data source, or asking for the
        # schema of other objects, would be tasks, which wait for a CPU for ever where the workers
        # hold all of them.
        blocks = [pyarrow.table({PART: [part]}) for part in parts.tolist()]
        given = ray.data.from_blocks(blocks)
        ray.get(ledger.beat.remote())  # only from now on can there be workers to wait for
        results = given.map_batches(
            PartWorker,
            fn_constructor_args=(ledger, made, deciding_versions(), stuck),
            batch_size=None,
            batch_format="pyarrow",
            compute=_two_at_a_time(ray, min(pool.workers, len(parts))),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        yield from results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _two_at_a_time(ray: Any, workers: int) -> Any:
    """Workers that do two parts at a time: one is read while the network runs for the other."""
    return ray.data.ActorPoolStrategy(
        size=workers,
        max_concurrent_calls_per_actor=2,
        max_tasks_in_flight_per_actor=4,
        enable_true_multi_threading=True,
    )


def beside_driver(of: type) -> Any:
    """An actor that takes no CPU and ends with the driver's machine."""
    ray = import_ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(of).options(num_cpus=0, scheduling_strategy=here)
