"""Fine-tuning on the whole road: both networks in the report, resumed after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import medlens
from medlens.data.roles import STOP
from medlens.errors import MedlensError
from medlens.fine_tuning import divide_stop
from medlens.model.paired_bootstrap import share_of_draws_lower

COLUMNS = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "stage"]
MEASURES = {"accuracy", "balanced_accuracy", "roc_auc_macro", "log_loss"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random filters, which has much to learn."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    values = pixels = keras.Input((32, 32, 3))
    values = layers.Rescaling(1 / 128, -1)(values)
    for number, channels in enumerate((4, 8)):
        values = layers.Conv2D(channels, 3, padding="same", name=f"conv_{number}")(values)
        values = layers.ReLU()(layers.BatchNormalization()(values))
        values = layers.MaxPooling2D()(values)
    path = tmp_path_factory.mktemp("own") / "own.keras"
    keras.Model(pixels, values).save(path)
    return path


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of stripes that lie or stand, in noise: hard to tell for pooled random filters."""
    folder = tmp_path_factory.mktemp("stripes")
    random = np.random.default_rng(0)
    for number in range(200):
        wave = 40 * np.sin(np.arange(32) * 2 + random.uniform(0, 6))[:, None]
        wave = wave if number % 2 else wave.T
        pixels = 128 + wave + random.normal(0, 25, (32, 32))
        path = folder / ("lying", "standing")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def options(own: Path, **others: Any) -> dict[str, Any]:
    given = {"backbone": str(own), "plan": "plain", "epochs": 10, "fine_tune": 2}
    given |= {"fine_tune_epochs": 12, "fine_tune_learning_rate": 5e-3, "stop_at_accuracy": "none"}
    given |= {"split": "0.5,0.3,0.2"}
    return {**given, **others}


@pytest.fixture(scope="module")
def run(
    own: Path, stripes: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> medlens.Run:
    out = tmp_path_factory.mktemp("tuned") / "run"
    return medlens.train(stripes, out=out, cache=str(cache), quiet=True, **options(own))


def test_a_network_with_much_to_learn_is_used_and_both_are_in_the_report(run: medlens.Run) -> None:
    facts = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    tuned = facts["fine_tuning"]
    assert tuned["is_used"], tuned["reason"]
    assert tuned["val_loss"]["fine_tuned"] < tuned["val_loss"]["frozen"]
    assert tuned["layers"] == ["conv_0", "conv_1"]
    both = run.evaluation["fine_tuning"]
    assert {name: set(one) for name, one in both.items()} == {
        "frozen": MEASURES,
        "fine_tuned": MEASURES,
    }
    assert both["fine_tuned"]["accuracy"] == run.evaluation["test"]["accuracy"]
    report = run.report.read_text(encoding="utf-8")
    assert "Fine-tuned, used" in report and "Backbone frozen" in report
    assert "frozen convolutional network" not in report
    assert "were fine-tuned together with the new layers" in report


def test_the_curves_go_on_where_those_of_the_head_end(run: medlens.Run) -> None:
    history = run.history
    assert list(history["epoch"]) == list(range(1, len(history) + 1))
    assert list(history["stage"].unique()) == ["head", "fine_tune"]
    facts = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    assert (history["stage"] == "head").sum() == facts["epochs_run"]
    assert (history["stage"] == "fine_tune").sum() == facts["fine_tuning"]["epochs_run"]


def test_the_saved_classifier_is_the_fine_tuned_one(run: medlens.Run, stripes: Path) -> None:
    classifier = medlens.load(run.path)
    assert classifier.facts["is_fine_tuned"]
    tested = run.predictions.query("split == 'test'")
    again = classifier.predict([stripes / path for path in tested["path"]])
    columns = [f"prob_{name}" for name in classifier.classes]
    assert np.allclose(again[columns], tested[columns], atol=1e-5)
    other = pd.read_csv(run.path / "other_predictions.csv").query("split == 'test'")
    assert not np.allclose(again[columns], other[columns], atol=1e-2)


def test_nothing_but_the_run_is_left(run: medlens.Run) -> None:
    assert [path.name for path in run.path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_a_run_killed_in_fine_tuning_goes_on_to_the_same_end(
    run: medlens.Run, own: Path, stripes: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    typed = [sys.executable, "-m", "medlens", "train", str(stripes), "--out", str(out)]
    for name, value in options(own).items():
        typed += ["--" + name.replace("_", "-"), str(value)]
    typed += ["--cache", str(cache), "--quiet", "--resume"]
    checkpoint = out / ".fine_tuning.npz"
    seen = None
    for _ in range(2):
        process = subprocess.Popen(typed, start_new_session=True)
        # Killed as soon as a further epoch is kept.
        while process.poll() is None and (not checkpoint.exists() or _stamp(checkpoint) == seen):
            time.sleep(0.002)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seen = _stamp(checkpoint)
    subprocess.run(typed, check=True)
    again = pd.read_csv(out / "history.csv")
    # Threads add in another order from process to process.
    assert np.allclose(again[COLUMNS[:-1]], run.history[COLUMNS[:-1]], atol=2e-3)
    assert list(again["stage"]) == list(run.history["stage"])


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns


def test_what_hardly_learns_is_not_used(
    own: Path, stripes: Path, cache: Path, tmp_path: Path
) -> None:
    given = options(own, fine_tune_epochs=1, fine_tune_learning_rate=1e-9)
    run = medlens.train(stripes, out=tmp_path / "run", cache=str(cache), quiet=True, **given)
    facts = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    assert not facts["fine_tuning"]["is_used"]
    assert not medlens.load(run.path).facts["is_fine_tuned"]
    assert run.evaluation["fine_tuning"]["frozen"]["accuracy"] == run.evaluation["test"]["accuracy"]
    assert "The frozen network is used" in run.report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_fine_tuned_network_averages_over_symmetries_too(
    own: Path, stripes: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "ultrasound").symlink_to(stripes)  # the name says that mirror images are fine
    run = medlens.train(
        tmp_path / "ultrasound",
        out=tmp_path / "run",
        cache=str(cache),
        quiet=True,
        test_time_averaging=True,
        **options(own),
    )
    facts = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    assert facts["fine_tuning"]["is_used"], facts["fine_tuning"]["reason"]
    # What averaging changed is that of the network used: on val, as train was seen whole.
    stop = int((run.predictions["role"] == "stop").sum())
    assert f"{stop} development images" in facts["averaged"]
    assert facts["saved_network_difference"] < 1e-4
    classifier = medlens.load(run.path)
    assert classifier.facts["is_fine_tuned"]
    files = [stripes / path for path in run.predictions["path"].head(4)]
    pictures = np.stack([classifier.picture(file) for file in files]).astype(np.float32)
    said = np.asarray(classifier.model(pictures))
    assert np.allclose(classifier.model(pictures[:, :, ::-1]), said, atol=1e-6)
    columns = [f"prob_{name}" for name in classifier.classes]
    assert np.allclose(said, run.predictions[columns].head(4), atol=1e-5)
    assert [path.name for path in run.path.iterdir() if path.name.startswith(".")] == []


def test_folds_and_fine_tuning_exclude_each_other(own: Path, stripes: Path, tmp_path: Path) -> None:
    with pytest.raises(MedlensError, match="--folds and --fine-tune"):
        medlens.train(stripes, out=tmp_path / "run", quiet=True, **options(own, folds=3))


def test_a_difference_by_chance_is_rarely_sure() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3).astype(str)
    sure = 0
    for seed in range(200):
        # The images of a group are alike.
        one, other = (np.repeat(random.normal(size=40), 3) for _ in range(2))
        sure += share_of_draws_lower(one, other, groups, seed=seed) >= 0.975
    assert sure <= 12  # 2.5 % are meant; 12 or more of 200 would be seen in 1 of 1,000
    assert share_of_draws_lower(one - 1, one, groups, seed=0) == 1
    assert share_of_draws_lower(one, one, groups, seed=0) == 0


def test_the_best_of_many_epochs_does_not_flatter_itself() -> None:
    """No epoch is better in truth; one half chooses the best of twenty, the other judges it."""
    random = np.random.default_rng(0)
    count = 120
    used = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(count)],
            "label": np.arange(count) % 2,
            "group": [str(number // 3) for number in range(count)],
        }
    )
    stop, judge = divide_stop(used, pd.Series(STOP, index=used.index), seed=0)
    groups = used["group"].to_numpy()
    assert sorted([*stop, *judge]) == list(range(count))
    assert set(groups[stop]).isdisjoint(groups[judge])
    assert abs(len(stop) - len(judge)) <= 6
    sure = 0
    for seed in range(200):
        frozen = random.normal(size=count)
        epochs = frozen + random.normal(size=(20, count))
        best = epochs[epochs[:, stop].mean(1).argmin()]
        share = share_of_draws_lower(best[judge], frozen[judge], groups[judge], seed=seed)
        sure += share >= 0.975
    assert sure <= 12


def test_what_is_out_of_fold_keeps_the_verdict_of_the_frozen_network(run: medlens.Run) -> None:
    table = pd.read_csv(run.path / "out_of_fold.csv")
    names = run.evaluation["classes"]
    logits = table[[f"logit_{name}" for name in names]].to_numpy()
    odds = np.log(table[f"prob_{names[1]}"] / table[f"prob_{names[0]}"])
    temperatures = (logits[:, 1] - logits[:, 0]) / odds
    own = medlens.load(run.path).facts["temperature"]
    assert np.allclose(temperatures, temperatures[0], rtol=1e-3)
    assert abs(temperatures[0] / own - 1) > 0.01
