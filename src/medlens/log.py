"""log.txt: what a run said and when. No file name of an image and no patient id goes in."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medlens.errors import MedlensError

LOG = logging.getLogger("medlens")
# Without a handler, Python would print warnings and errors on the screen, once more.
LOG.addHandler(logging.NullHandler())


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send medlens's log to a file while the block runs; an existing log is continued.

    An error that ends the block is logged, without the names it is about, and goes on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    except MedlensError as error:
        LOG.error("%s", error)
        raise
    except Exception as error:
        LOG.error("%s", describe_failure(error))
        raise
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
        handler.close()


def describe_failure(error: BaseException) -> str:
    """A traceback without the error's text, which could hold a file name or a patient id."""
    frames = traceback.extract_tb(error.__traceback__)
    # The folder of a file would tell the user's name.
    places = [
        f"  {Path(one.filename).name}:{one.lineno} in {one.name}: {one.line}" for one in frames
    ]
    return "\n".join([*places, type(error).__name__])
