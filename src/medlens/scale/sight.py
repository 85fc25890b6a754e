"""Whether a node sees what the driver sees: an image is not refused for a folder not mounted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medlens.data.remote import is_remote, join_path
from medlens.errors import MedlensError
from medlens.scale.cluster import import_ray
from medlens.scale.worker import BEAT_SECONDS, this_node

# Of a part, so that one witness is enough for many nodes. A folder that is not mounted hides all.
MOST_ASKED = 8


class Witness:
    """Looks for files where the driver runs. Lives as a Ray actor beside the driver."""

    def find_first(self, root: Path, paths: list[str]) -> str:
        """The first file that can be read here; "" where there is none.

        Args:
            root: The folder that the paths are relative to.
            paths: The files.
        """
        return next((path for path in paths if _is_readable(join_path(root, path))), "")


def check_sight(
    witness: Any, root: Path, unopened: Mapping[str, str], advance: Callable[[], None]
) -> None:
    """Stop where this node cannot open what can be opened beside the driver.

    Args:
        witness: The actor.
        root: The folder that the paths are relative to.
        unopened: Path -> why it could not be opened here; some of them are asked about.
        advance: Called while the answer is waited for.

    Raises:
        MedlensError: If one of the files is there for the driver; names the node.
    """
    asked = _asked(root, unopened)
    if not asked:
        return
    ray = import_ray()
    answer = witness.find_first.remote(root, asked)
    while not ray.wait([answer], timeout=BEAT_SECONDS)[0]:
        advance()
    first = str(ray.get(answer))
    if first:
        raise _cannot_open(first, f"on the node {this_node()}: {unopened[first]}")


def check_own_sight(root: Path, unopened: Mapping[str, str]) -> None:
    """Stop where a node could not open what the process of the command can.

    The witness is a process of the node that the command runs on: what it sees may be less.

    Args:
        root: The folder that the paths are relative to.
        unopened: Path -> why a node could not open it; some of them are looked at.

    Raises:
        MedlensError: If one of the files is there.
    """
    first = Witness().find_first(root, _asked(root, unopened))
    if first:
        raise _cannot_open(first, f"on a node: {unopened[first]}")


def _asked(root: Path, unopened: Mapping[str, str]) -> list[str]:
    """A few of the files; other storage is the same from every machine, and says if it refuses."""
    own = (path for path in unopened if not is_remote(join_path(root, path)))
    return list(itertools.islice(own, MOST_ASKED))


def _cannot_open(name: str, got: str) -> MedlensError:
    return MedlensError(
        "A node of the cluster cannot open images that the machine of the command can.",
        got=got.rstrip("."),
        expected="images at a place that all nodes see under one name",
        fix="Mount the folder on that node, or end Ray there; then repeat the command: what is "
        "finished is kept.",
        names=[name],
    )


def not_seen(what: str, expected: str, fix: str, name: str) -> MedlensError:
    """What is said where a node of the cluster does not see a place.

    Args:
        what: Is not seen, in the plural.
        expected: Where it should lie.
        fix: What the user can do.
        name: The place.
    """
    return MedlensError(
        f"A node of the cluster does not see the {what}.",
        got=f"no such file on the node {this_node()}",
        expected=f"{expected} that all nodes see under one name",
        fix=fix,
        names=[name],
    )


def _is_readable(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            stream.read(1)
    except (OSError, ValueError):
        return False
    return True
