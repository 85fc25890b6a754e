"""100 trials of `--search` on 6,000 images: seconds, and what it found.

    python benchmarks/search.py --out search.json

The features are those of `head.py`: 7,264 columns, four classes that differ a little. Everything
from the features on is counted: principal components of all folds, the plan's own candidates, and
the trials.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
from head import CLASSES, COLUMNS, draw, labels
from measure import write_result


def main() -> None:
    """Run the choice with a search, print and write what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments.images, arguments.trials)
    print(json.dumps(result, indent=2))
    write_result(arguments.out, result)


def measure(images: int, trials: int) -> dict[str, Any]:
    """Choose with and count."""
    from medlens.model.choice import choose_head
    from medlens.model.head_plan import HeadPlan, HeadSpace
    from medlens.model.plan import CANDIDATES

    base = HeadPlan(
        units=(),
        dropout=0.0,
        epochs=100,
        batch_size=64,
        learning_rate=1e-3,
        stop_at_accuracy=None,
        stop_on="val",
        patience=10,
        seed=0,
    )
    depths = {"all": None, "deep": (COLUMNS // 2, COLUMNS), "last": (COLUMNS - 1280, COLUMNS)}
    space = HeadSpace(base=base, features=depths, heads=CANDIDATES, search=trials)
    truth = labels(images)
    table = pd.DataFrame(
        {
            "path": [f"{number:05}.png" for number in range(images)],
            "label": [str(label) for label in truth],
            "group": np.arange(images),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        features = np.array(draw(images, Path(folder, "features.npy")))
    started = time.monotonic()
    choice = choose_head(features, table, truth, np.arange(images), CLASSES, space, lambda _: None)
    seconds = time.monotonic() - started
    found = choice.candidates
    return {
        "images": images,
        "trials": trials,
        "minutes": round(seconds / 60, 2),
        "given up early": int(found["given_up"].sum()),
        "epochs trained": int(found["epochs"].sum()),
        "loss of the plan's best": round(float(found["loss"].iloc[:7].min()), 4),
        "loss of the best": round(float(found.loc[found["chosen"] == 1, "loss"].iloc[0]), 4),
        "chosen": choice.plan.form.text,
    }


if __name__ == "__main__":
    main()
