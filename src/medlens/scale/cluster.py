"""A Ray cluster: connected, looked at, and left; and how many workers it has room for."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from medlens.errors import MedlensError

NONE, LOCAL = "none", "local"
AUTH_MODE = "RAY_AUTH_MODE"
SECONDS_TO_CONNECT = 10.0
SECONDS_FOR_A_NODE, SECONDS_BETWEEN_LOOKS = 300.0, 2.0
# How Ray names the kind of a node's GPUs, and how little of it a task takes to be sent there.
GPU_KIND, TOUCH = "accelerator_type:", 0.001


@dataclass(frozen=True)
class Pool:
    """Workers of one job.

    Args:
        workers: How many.
        cpus: Of each.
        gpus: Of each: 0 or 1.
    """

    workers: int
    cpus: int
    gpus: int

    @property
    def text(self) -> str:
        """It in words."""
        gpu = ", one GPU" if self.gpus else ""
        plural = "s" if self.workers > 1 else ""
        return f"{self.workers:,} worker{plural} ({self.cpus} CPUs{gpu} each)"


@contextmanager
def connected(address: str) -> Iterator[bool]:
    """Be connected to a cluster, where one is named, while the block runs.

    Args:
        address: "none"; "local" for one on this machine alone, with all its cores, which ends with
            the block; "auto" for that which this machine belongs to; or HOST:PORT of its head.

    Yields:
        Whether a cluster was named.

    Raises:
        MedlensError: If Ray is not installed, or there is no cluster at the address.
    """
    if address == NONE:
        yield False
        return
    if "ray" in sys.modules and import_ray().is_initialized():
        yield True  # a notebook's own connection: used as it is, and left open
        return
    _look_for_head(address)
    # Nothing is reported to anybody, also not by a cluster that is started here.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == LOCAL:
        # Ray would give way to all else on this machine, which then is the person's own wait.
        os.environ.setdefault("RAY_worker_niceness", "0")
    with _token_needed() if address == LOCAL else nullcontext():
        ray = import_ray()
        try:
            ray.init(
                address=address,
                include_dashboard=False if address == LOCAL else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise _unreachable(address, type(error).__name__) from None
        try:
            yield True
        finally:
            ray.shutdown()


@contextmanager
def _token_needed() -> Iterator[None]:
    """While the block runs, nobody uses a cluster of this process without the person's token.

    What is started here listens for others, too. Ray keeps the token in the person's home.

    Raises:
        MedlensError: If Ray was imported before, and cannot be told any more.
    """
    if os.environ.get(AUTH_MODE, "token") != "token":
        yield  # the person has said otherwise
        return
    before, was_imported = os.environ.get(AUTH_MODE), "ray" in sys.modules
    os.environ[AUTH_MODE] = "token"
    try:
        if was_imported and not _uses_token():
            raise MedlensError(
                "A cluster of this machine alone cannot be kept from others.",
                got="Ray was imported before it was told that a token is needed",
                expected="RAY_AUTH_MODE=token in the environment when Ray is imported",
                fix="Set it before Ray is imported (in a notebook: restart it first).",
            )
        yield
    finally:
        if before is None:
            del os.environ[AUTH_MODE]
            _uses_token()


def _uses_token() -> bool:
    """Whether this process now speaks to clusters with a token, as the environment says.

    Ray reads the environment when it is imported; it is made to read it again, as Ray itself does
    where it starts a cluster. The functions are Ray's own, and may be gone in another version.
    """
    with suppress(ImportError, AttributeError):
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        return bool(raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN)
    return False


def _look_for_head(address: str) -> None:
    """Refuse an address where nobody listens: Ray would try for minutes.

    Raises:
        MedlensError: If it is one of Ray's clients, or cannot be reached.
    """
    host, colon, port = address.rpartition(":")
    if "://" in address:
        raise _unreachable(address, "the address of a Ray client")
    if colon:
        try:
            socket.create_connection((host, int(port)), timeout=SECONDS_TO_CONNECT).close()
        except (OSError, ValueError) as error:
            raise _unreachable(address, getattr(error, "strerror", "") or "no answer") from None


def import_ray() -> Any:
    """Ray, with its part for data.

    Raises:
        MedlensError: If it is not installed.
    """
    try:
        import ray
        import ray.data  # the package ray alone comes without what it needs
    except ImportError as error:
        raise MedlensError(
            "--ray needs Ray Data.",
            got=f"the package {error.name} is not installed",
            expected="ray[data] 2.52 or newer",
            fix="pip install 'medlens[ray]', here and on every node.",
        ) from None
    return ray


def find_pool(*, gpus: int, patience: float = SECONDS_FOR_A_NODE) -> Pool:
    """The workers that the connected cluster has room for, were it free; see `choose_pool`.

    Args:
        gpus: Of each worker: 0 or 1.
        patience: Seconds to wait for a node: a cluster may have to grow, or to come back.

    Raises:
        MedlensError: If there was none in that time.
    """
    pool = choose_pool(_living_nodes(), gpus=gpus)
    if pool is not None:
        return pool
    end = time.monotonic() + patience
    with _growth_asked_for({"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}):
        while time.monotonic() < end:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            pool = choose_pool(_living_nodes(), gpus=gpus)
            if pool is not None:
                return pool
    what = "a GPU and a CPU" if gpus else "a CPU"
    raise no_room(f"no node with {what} for {patience:g} s")


@contextmanager
def _growth_asked_for(node: dict[str, float]) -> Iterator[None]:
    """While the block runs, a cluster that grows on demand is asked for a node; others ignore it.

    No task waits for a node before the workers are counted: nothing else would make it grow.

    Args:
        node: The resources that it must have.
    """
    from ray.autoscaler import sdk

    sdk.request_resources(bundles=[node])
    try:
        yield
    finally:
        sdk.request_resources(bundles=[])


def find_gpu_kinds() -> list[dict[str, float]]:
    """For each kind of GPU of the connected cluster what a task asks for to run beside one.

    Ray marks nodes with the kind where it knows it; all others count as one kind.
    """
    with_gpu = [
        node for node in _living_nodes() if node.get("GPU", 0) >= 1 and node.get("CPU", 0) >= 1
    ]
    kinds = {next((name for name in node if name.startswith(GPU_KIND)), "") for node in with_gpu}
    return [{kind: TOUCH} if kind else {} for kind in sorted(kinds)]


def _living_nodes() -> list[dict[str, float]]:
    """The resources of each node of the connected cluster that is alive."""
    return [node["Resources"] for node in import_ray().nodes() if node["Alive"]]


def choose_pool(nodes: Sequence[Mapping[str, float]], *, gpus: int) -> Pool | None:
    """The workers for some nodes.

    A worker is what medlens is on one machine: it reads in threads while the network runs. So
    there is one for each node, or, where the network runs on GPUs, one for each of these.
    All are of one size, that by which most CPUs are used: nodes much smaller than the others are
    left out, rather than that all workers are as small. Parts of a job are handed to workers
    without any task beside them that would need a CPU of its own: such a task could wait for ever.

    Args:
        nodes: The resources of each that is alive.
        gpus: Of each worker: 0 or 1.

    Returns:
        The workers; None where no node has a CPU, and the GPU that may be wanted.
    """
    with_cpu = [node for node in nodes if node.get("CPU", 0) >= 1]
    if gpus:
        with_gpu = [node for node in with_cpu if node.get("GPU", 0) >= 1]
        return _largest([(int(node["CPU"]), int(node["GPU"])) for node in with_gpu], gpus=1)
    return _largest([(int(node["CPU"]), 1) for node in with_cpu], gpus=0)


def _largest(nodes: Sequence[tuple[int, int]], *, gpus: int) -> Pool | None:
    """The pool that uses most CPUs of nodes of (CPUs, workers at most); of equals, of most."""
    pools = []
    for size in {max(1, cpus // most) for cpus, most in nodes}:
        workers = sum(min(most, cpus // size) for cpus, most in nodes)
        pools.append(Pool(workers, size, gpus))
    return max(pools, key=lambda pool: (pool.workers * pool.cpus, pool.workers), default=None)


def no_room(got: str) -> MedlensError:
    """What is said where the cluster gives the job nothing to run on."""
    return MedlensError(
        "The cluster has no room for this job.",
        got=got,
        expected="a node whose CPUs (or GPUs) are free",
        fix="Wait until other jobs are done, or add nodes; then repeat the command: what is "
        "finished is kept.",
    )


def _unreachable(address: str, got: str) -> MedlensError:
    return MedlensError(
        "There is no Ray cluster at the address given with --ray.",
        got=got,
        expected="local, auto (on a machine of the cluster), or HOST:PORT of its head",
        fix="Start the command on a machine of the cluster, or by `ray job submit`, with --ray "
        "auto; `ray status` shows whether it runs, and `ray get-auth-token` the token of a cluster "
        "with RAY_AUTH_MODE=token.",
        names=[address],
    )
