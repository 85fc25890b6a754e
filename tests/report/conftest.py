"""A run folder as `train` leaves it, made from seeded random predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medlens.files import write_json, write_text
from medlens.model.verdict import Verdict
from medlens.report.evaluation import evaluate
from medlens.report.predictions import tabulate_predictions, write_predictions
from medlens.run_dir import RunDir

SPLIT_SIZES = {"train": 210, "val": 45, "test": 60}


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunDir]:
    """Writes a run folder, its figures and report excepted."""

    def make(classes: Sequence[str] = ("normal", "pneumonia"), **changes: Any) -> RunDir:
        run = RunDir(tmp_path_factory.mktemp("run"))
        write_run(run, tuple(classes), **changes)
        return run

    return make


def write_run(
    run: RunDir,
    classes: tuple[str, ...],
    *,
    absent_from_test: Sequence[str] = (),
    with_patients: bool = True,
    sizes: dict[str, int] | None = None,
    notices: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Write every file that plots.py and render.py read."""
    generator = np.random.default_rng(seed)
    images = draw_images(generator, classes, absent_from_test, with_patients, sizes or SPLIT_SIZES)
    used = images[images["split"] != ""].reset_index(drop=True)
    truth = np.array([classes.index(name) for name in used["label"]])
    logits = generator.normal(0, 1.2, (len(used), len(classes)))
    logits[np.arange(len(used)), truth] += 2
    used["role"] = used["split"].map({"train": "fit", "val": "stop", "test": "test"})
    verdict = Verdict(classes, 1.0, None, None, 9.0)
    distances = generator.uniform(1, 9.2, len(used))
    table = tabulate_predictions(used, logits, distances, verdict)
    write_predictions(run.predictions, table)
    evaluation = evaluate(
        pd.read_csv(run.predictions, keep_default_na=False, dtype={"label": str, "predicted": str}),
        classes=classes,
        positive_class=None,
        seed=0,
        draws=100,
    )
    write_json(run.evaluation, {"notices": list(notices), **evaluation})
    write_text(run.dataset, images.drop(columns="split").to_csv(index=False))
    write_text(run.splits, used[["path", "split"]].to_csv(index=False))
    write_text(run.history, draw_history().to_csv(index=False))
    write_text(run.config, 'data = "some/where/lungs/labels.csv"\n')
    write_json(run.audit, AUDIT)
    write_json(run.training, TRAINING)
    write_json(run.environment, ENVIRONMENT)


def draw_images(
    generator: np.random.Generator,
    classes: tuple[str, ...],
    absent_from_test: Sequence[str],
    with_patients: bool,
    sizes: dict[str, int],
) -> pd.DataFrame:
    """dataset.csv with the split: three images a patient, one unreadable, two left out."""
    rows = []
    for split, count in sizes.items():
        kept = [name for name in classes if split != "test" or name not in absent_from_test]
        # The first class twice as often as the others, so that there is a majority.
        shares = np.array([2.0 if name == kept[0] else 1.0 for name in kept])
        labels = generator.choice(kept, count, p=shares / shares.sum())
        labels[: len(kept)] = kept
        rows += [(split, label, f"{split}{number // 3}") for number, label in enumerate(labels)]
    rows += [("", classes[0], "left")] * 3
    table = pd.DataFrame(rows, columns=["split", "label", "patient"])
    table.insert(0, "path", [f"images/{number:04d}.png" for number in range(len(table))])
    table["group"] = pd.factorize(table["patient"])[0]
    table["patient"] = table["patient"] if with_patients else ""
    table["sha256"] = table["pixels_sha256"] = [f"{number:064x}" for number in range(len(table))]
    last = table.index[-3:]
    table["unreadable"] = ""
    table["excluded"] = ""
    table.loc[last[0], ["unreadable", "excluded"]] = ["the file is cut off", "unreadable"]
    table.loc[last[1:], "excluded"] = "conflicting labels"
    return table


def draw_history() -> pd.DataFrame:
    """22 epochs, the twelfth the best."""
    epoch = np.arange(1, 23)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "loss": np.exp(-epoch / 6),
            "accuracy": 1 - 0.4 * np.exp(-epoch / 5),
            "val_loss": 0.3 + 0.002 * (epoch - 12) ** 2,
            "val_accuracy": 0.9 - 0.3 * np.exp(-epoch / 4),
            "seconds": 0.25,
        }
    )


AUDIT: dict[str, Any] = {
    "counts": {"found": 318, "readable": 317, "unreadable": 1},
    "findings": [
        {
            "code": "conflicting_label",
            "severity": "error",
            "message": "1 image with more than one label: 2 identical files.",
            "fix": "Leave all of them out with --drop-conflicts.",
            "count": 2,
            "details": {},
            "files": [["images/0316.png", "images/0317.png"]],
        },
        {
            "code": "blank",
            "severity": "warning",
            "message": "30 images of one flat colour: nothing is to be seen.",
            "fix": "Look at them.",
            "count": 30,
            "details": {},
            "files": [[f"images/{number:04d}.png"] for number in range(30)],
        },
        {
            "code": "class_difference",
            "severity": "note",
            "message": "Facts of the file alone tell the classes apart.",
            "fix": "Find out why.",
            "count": 1,
            "details": {},
            "files": [],
        },
    ],
    "passed_over": {"hidden file": 3, "not an image": 12},
}

TRAINING: dict[str, Any] = {
    "backbone": "vgg16",
    "weights": "imagenet",
    "weights_sha256": "ab" * 32,
    "image_size": 128,
    "fit": "pad",
    "engine": "ncnn",
    "features": "all",
    "columns": 2944,
    "columns_kept": 2801,
    "head": "Dropout(0.3), Dense(softmax)",
    "optimizer": "Adam, learning rate 0.001, weight decay 0.01",
    "loss": "categorical cross-entropy",
    "class_weight": "balanced",
    "batch_size": 64,
    "epochs_run": 22,
    "best_epoch": 12,
    "stop_reason": "patience",
    "stop_text": "The validation loss did not fall for 10 epochs.",
    "seed": 0,
    "split_text": "By ratio, stratified by class, in whole groups.",
    "some_later_fact": ["one", "two"],
}

ENVIRONMENT: dict[str, Any] = {
    "versions": {"python": "3.12.1", "medlens": "0.1.0", "keras": "3.15.1", "absent": ""},
    "machine": {"system": "Linux", "architecture": "x86_64", "cores": 2, "memory_gib": 23.5},
    "backend": "tensorflow",
    "gpus": [],
    "seed": 0,
    "data_sha256": "cd" * 32,
    "weights_sha256": "ab" * 32,
}
