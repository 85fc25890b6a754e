"""A real Ray cluster of several nodes on this machine, one for all tests of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

# In the processes of the nodes a BMP that begins so ends whoever decodes it; here it is an image.
DEADLY = b"BM\xef\xbe\xad\xde"
# Nodes with this in their environment see no file whose path holds it; the head sees them.
HIDDEN = "SEEN-BY-THE-DRIVER-ALONE"
# No process of the cluster sees a file whose path holds this, not even one beside the driver.
HIDDEN_FROM_ALL = "SEEN-BY-THE-COMMAND-ALONE"
DECODER = f"""
import os
import sys
from PIL import BmpImagePlugin, Image

hidden = [{HIDDEN_FROM_ALL!r}, *[{HIDDEN!r}] * ({HIDDEN!r} in os.environ)]

def hide(event, arguments):
    if event == "open" and any(name in str(arguments[0]) for name in hidden):
        raise FileNotFoundError(2, "No such file or directory")

sys.addaudithook(hide)

def accept(prefix):
    if prefix.startswith({DEADLY!r}):
        os.abort()
    return prefix.startswith(b"BM")

Image.preinit()
Image.register_open("BMP", BmpImagePlugin.BmpImageFile, accept)
"""


@pytest.fixture(scope="session")
def cluster(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head without CPUs and two nodes of two CPUs each, however many this machine has.

    They start after the server of the bucket, so that they know where it is.
    """
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("nodes")
    (folder / "sitecustomize.py").write_text(DECODER)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray's own guard would end every job here; medlens must not leave that to it.
        patch.setenv("RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", "1")
        started = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        for _ in range(2):
            started.add_node(num_cpus=2, env_vars={HIDDEN: "1"})
    # Of the nodes alone: what tests start beside them has the environment as it was.
    yield started
    started.shutdown()


@pytest.fixture
def deadly_file(tmp_path: Path) -> Path:
    """An image that no worker of the cluster survives."""
    from PIL import Image

    path = tmp_path / "deadly.bmp"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(path)
    path.write_bytes(DEADLY + path.read_bytes()[len(DEADLY) :])
    return path
