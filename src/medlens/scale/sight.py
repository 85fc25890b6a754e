"""Whether a node sees what the driver sees: an image is not refused for a folder not mounted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medlens.data.remote import join_path
from medlens.errors import MedlensError
from medlens.scale.cluster import import_ray
from medlens.scale.worker import this_node


class Witness:
    """Looks for files where the driver runs. Lives as a Ray actor beside the driver."""

    def find_first(self, root: Path, paths: list[str]) -> str:
        """The first file that can be read here; "" where there is none.

        Args:
            root: The folder that the paths are relative to.
            paths: The files.
        """
        return next((path for path in paths if _is_readable(join_path(root, path))), "")


def check_sight(witness: Any, root: Path, unopened: Mapping[str, str]) -> None:
    """Stop where this node cannot open what can be opened beside the driver.

    Args:
        witness: The actor.
        root: The folder that the paths are relative to.
        unopened: Path -> why it could not be opened here.

    Raises:
        MedlensError: If one of the files is there for the driver; names the node.
    """
    if not unopened:
        return
    ray = import_ray()
    first = str(ray.get(witness.find_first.remote(root, list(unopened))))
    if first:
        raise MedlensError(
            "A node of the cluster cannot open images that the machine of the command can.",
            got=f"on the node {this_node()}: {unopened[first].rstrip('.')}",
            expected="images at a place that all nodes see under one name",
            fix="Mount the folder on that node, or end Ray there; then repeat the command: what is "
            "finished is kept.",
            names=[first],
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
