"""One worker of a cluster: loads what a job needs, does its parts, and says so to the ledger."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow

from medlens.errors import MedlensError
from medlens.scale.cluster import import_ray
from medlens.scale.ledger import CAREFUL_AFTER, MOST_TRIES

PART = "part"
BEAT_SECONDS = 5.0
NODE_NAME_LENGTH = 8
# What decides the bytes of pixels and features.
PACKAGES = ("medlens", "keras", "ncnn", "numpy", "pillow", "pydicom", "tensorflow")


class Refused(Exception):  # noqa: N818 (the error itself is in the ledger)
    """Ends a job whose ledger holds the error."""


class Work(Protocol):
    """Does one part of a job; called by two threads at a time."""

    def __call__(self, part: int, *, careful: bool) -> pyarrow.Table:
        """Do it, so that doing it twice leaves the same.

        Args:
            part: Its number in the work list.
            careful: Whether workers died of it: then each file is first decoded in a process of
                its own.

        Returns:
            What the driver wants to know, at least one row.
        """


# From the number of CPUs that a worker may use.
Make = Callable[[int], Work]


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on; "" where one is missing."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


class PartWorker:
    """What Ray Data calls with the number of a part.

    Args:
        ledger: The ledger, an actor.
        made: Reference to a function that makes the work; it runs here.
        versions: Of the driver's packages.
    """

    def __init__(self, ledger: Any, made: list[Any], versions: Mapping[str, str]) -> None:
        self._ray = import_ray()
        self._ledger = ledger
        self._node = self._ray.get_runtime_context().get_node_id()[:NODE_NAME_LENGTH]
        self._ray.get(ledger.start.remote())
        with self._telling():
            _compare_versions(versions)
            make: Make = self._ray.get(made[0])
            self._work = make(int(self._ray.get_runtime_context().get_assigned_resources()["CPU"]))

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Do the part whose number the only row holds; returns what the work says, and `part`."""
        part = int(batch[PART][0].as_py())
        tries = self._ray.get(self._ledger.begin.remote(part, self._node))
        with self._telling():
            if tries >= MOST_TRIES:
                raise _deadly(tries)
            found = self._work(part, careful=tries >= CAREFUL_AFTER)
        self._ray.get(self._ledger.finish.remote(part))
        return found.append_column(PART, pyarrow.array([part] * len(found), pyarrow.int64()))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell the ledger now and then that this worker lives, and what the user can mend."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(BEAT_SECONDS):
                self._ledger.beat.remote()

        beating = threading.Thread(target=beat, daemon=True)
        beating.start()
        try:
            yield
        except MedlensError as error:
            self._ray.get(self._ledger.refuse.remote(error.as_arguments()))
            raise Refused from None
        finally:
            done.set()
            beating.join()


def _compare_versions(wanted: Mapping[str, str]) -> None:
    """Refuse to compute with other packages than the driver has: results would differ."""
    found = package_versions()
    others = [
        f"{name} {found[name] or 'missing'}" for name in wanted if found[name] != wanted[name]
    ]
    if others:
        raise MedlensError(
            "A node of the cluster has other packages than this machine.",
            got=", ".join(others),
            expected=", ".join(f"{name} {version}" for name, version in wanted.items() if version),
            fix="Install the same on every node, for example by one container image for all.",
        )


def _deadly(tries: int) -> MedlensError:
    return MedlensError(
        "A part of the work ends every worker that begins it.",
        got=f"{tries} workers that died, also when each file was decoded in a process of its own",
        expected="workers with memory enough for the network and the largest images",
        fix="Look into Ray's logs on the nodes for what ended them (mostly memory), and repeat the "
        "command: what is finished is kept.",
    )
