"""medlens: from a folder of labelled medical images to a classifier whose numbers can be trusted.

    import medlens
    run = medlens.train("data/", out="runs/brain", stop_at_accuracy=0.98)
    run.evaluation["test"]["accuracy"]      # {"value": ..., "ci95": [..., ...], "n": ...}
    classifier = medlens.load("runs/brain")
    classifier.predict(["scan.dcm", "scan.png"])

Not a medical device.
"""

from __future__ import annotations

from importlib.metadata import version

from medlens.api import audit, compare, evaluate, explain, export, load, predict, train
from medlens.errors import MedlensError
from medlens.run import Run

__all__ = [
    "MedlensError",
    "Run",
    "audit",
    "compare",
    "evaluate",
    "explain",
    "export",
    "load",
    "predict",
    "train",
]
__version__ = version("medlens")
