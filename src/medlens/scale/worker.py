"""One worker of a cluster: loads what a job needs, does its parts, and says so to the ledger."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from traceback import format_tb
from typing import Any, NoReturn, Protocol

import pyarrow

from medlens.errors import MedlensError, in_words
from medlens.model.versions import deciding_versions
from medlens.scale.cluster import import_ray
from medlens.scale.ledger import CAREFUL_AFTER, MOST_TRIES

PART = "part"
BEAT_SECONDS = 5.0
NODE_NAME_LENGTH = 8
# Beats in the time after which a worker that stands still is ended, so that short times are kept.
LEAST_BEATS = 4


class Refused(Exception):  # noqa: N818 (the error itself is in the ledger)
    """Ends a job whose ledger holds the error."""


class Work(Protocol):
    """Does one part of a job; called by two threads at a time."""

    def __call__(self, part: int, *, careful: bool, advance: Callable[[], None]) -> pyarrow.Table:
        """Do it, so that doing it twice leaves the same.

        Args:
            part: Its number in the work list.
            careful: Whether workers died of it: then each file is first decoded in a process of
                its own.
            advance: Called after each step, an image or a batch: without it for long, the worker
                is taken to be stuck.

        Returns:
            What the driver wants to know, at least one row.
        """


# From the number of CPUs that a worker may use.
Make = Callable[[int], Work]


def this_node() -> str:
    """The start of the name that Ray has for this node."""
    return str(import_ray().get_runtime_context().get_node_id())[:NODE_NAME_LENGTH]


class PartWorker:
    """What Ray Data calls with the number of a part.

    Args:
        ledger: The ledger, an actor.
        made: Reference to a function that makes the work; it runs here.
        versions: Of the driver's packages.
        stuck: Seconds without a step after which the worker ends itself.
    """

    def __init__(
        self, ledger: Any, made: list[Any], versions: Mapping[str, str], stuck: float
    ) -> None:
        self._ray = import_ray()
        self._ledger = ledger
        self._stuck = stuck
        self._node = this_node()
        self._ray.get(ledger.start.remote())
        with self._telling():
            _compare_versions(versions)
            make: Make = self._ray.get(made[0])
            self._work = make(int(self._ray.get_runtime_context().get_assigned_resources()["CPU"]))

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Do the part whose number the only row holds; returns what the work says, and `part`."""
        part = int(batch[PART][0].as_py())
        tries = self._ray.get(self._ledger.begin.remote(part, self._node))
        with self._telling() as advance:
            if tries >= MOST_TRIES:
                raise _deadly(tries)
            found = self._work(part, careful=tries >= CAREFUL_AFTER, advance=advance)
        self._ray.get(self._ledger.finish.remote(part))
        return found.append_column(PART, pyarrow.array([part] * len(found), pyarrow.int64()))

    def _refuse(self, error: MedlensError, told: str = "") -> NoReturn:
        self._ray.get(self._ledger.refuse.remote(error.as_arguments()))
        raise Refused(told) from None

    @contextmanager
    def _telling(self) -> Iterator[Callable[[], None]]:
        """Tell the ledger now and then that this worker lives, and what the user can mend.

        A worker that stands still ends itself, as if it had died: the try counts, and the part is
        begun again in another process.

        Yields:
            What is to be called after each step.
        """
        done = threading.Event()
        last = [time.monotonic()]

        def advance() -> None:
            last[0] = time.monotonic()

        def beat() -> None:
            while not done.wait(min(BEAT_SECONDS, self._stuck / LEAST_BEATS)):
                if time.monotonic() - last[0] > self._stuck:
                    os._exit(1)  # what it waits for, such as a lost disk, may not be interrupted
                self._ledger.beat.remote()

        beating = threading.Thread(target=beat, daemon=True)
        beating.start()
        try:
            yield advance
        except MedlensError as error:
            self._refuse(error)
        except OSError as error:
            self._refuse(_no_disk(error, self._node))
        except Exception as error:
            # For the node's logs: the places in the code, without the text, which may name a file.
            self._refuse(_broken(error, self._node), "".join(format_tb(error.__traceback__)))
        finally:
            done.set()
            beating.join()


@contextmanager
def turn(lock: threading.Lock, advance: Callable[[], None]) -> Iterator[None]:
    """Hold a lock; who waits for another's turn to end does not stand still.

    Args:
        lock: What only one may hold.
        advance: Called while it is waited for.
    """
    while not lock.acquire(timeout=BEAT_SECONDS):
        advance()
    try:
        yield
    finally:
        lock.release()


def _compare_versions(wanted: Mapping[str, str]) -> None:
    """Refuse to compute with other packages than the driver has: results would differ."""
    found = deciding_versions()
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


def _no_disk(error: OSError, node: str) -> MedlensError:
    return MedlensError(
        "A node of the cluster cannot read or write what the job needs.",
        got=f"on the node {node}: {in_words(error)}",
        expected="a place for the result and the cache that all nodes can write to",
        fix="Make room there, or mend what the node says; then repeat the command: what is "
        "finished is kept.",
        names=[str(error.filename)] if error.filename else [],
    )


def _broken(error: Exception, node: str) -> MedlensError:
    return MedlensError(
        "A worker of the cluster broke off.",
        got=f"on the node {node}: {type(error).__name__}; its text may name files and is not shown",
        expected="workers that come to the end of their part",
        fix="Look into Ray's logs on that node for the cause, and repeat the command: what is "
        "finished is kept.",
    )


def _deadly(tries: int) -> MedlensError:
    return MedlensError(
        "A part of the work ends every worker that begins it.",
        got=f"{tries} workers that died or stood still, also when each file was decoded in a "
        "process of its own",
        expected="workers with memory enough for the network and the largest images",
        fix="Look into Ray's logs on the nodes for what ended them (mostly memory, or a disk that "
        "does not answer), and repeat the "
        "command: what is finished is kept.",
    )
