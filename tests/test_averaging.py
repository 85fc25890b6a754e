"""--test-time-averaging on the whole road: what the run says, the classifier does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import medlens
from medlens.cli import main
from medlens.config import config_toml, make_options
from medlens.data.phantom import write_phantoms
from medlens.errors import MedlensError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("averaging")


@pytest.fixture(scope="module")
def data(home: Path) -> Path:
    """Phantoms in a folder whose name says a modality of two symmetries."""
    return write_phantoms(home / "ultrasound", images=120, size=64, seed=0)


@pytest.fixture(scope="module")
def train(home: Path, cache: Path) -> Callable[..., medlens.Run]:
    def run(data: Path, name: str, **options: Any) -> medlens.Run:
        fast = {"weights": "random", "image_size": 32, "epochs": 10, "plan": "plain"}
        given = {**fast, "no_saliency": True, "cache": str(cache), "quiet": True, **options}
        return medlens.train(data, out=home / name, test_time_averaging=True, **given)

    return run


@pytest.fixture(scope="module")
def run(train: Callable[..., medlens.Run], data: Path) -> medlens.Run:
    return train(data, "run", positive_class="mass", robustness=True, no_saliency=False)


def said(run: medlens.Run, rows: pd.DataFrame) -> np.ndarray:
    return rows[[f"prob_{name}" for name in run.evaluation["classes"]]].to_numpy()


def test_the_classifier_averages_as_the_predictions_do(
    run: medlens.Run, data: Path, tmp_path: Path
) -> None:
    facts = json.loads((run.path / "classifier" / "classifier.json").read_text(encoding="utf-8"))
    assert facts["views_averaged"] == 2
    tested = run.predictions[run.predictions["split"] == "test"]
    files = [data.parent / path for path in tested["path"]]
    found = medlens.load(run.path).predict(files)
    np.testing.assert_allclose(said(run, found), said(run, tested), atol=1e-4)
    np.testing.assert_allclose(found["distance"], tested["distance"], rtol=1e-3)
    mirrored = tmp_path / "mirrored.png"
    Image.fromarray(np.asarray(Image.open(files[0]))[:, ::-1]).save(mirrored)
    again = medlens.load(run.path).predict(mirrored)
    np.testing.assert_allclose(said(run, again)[0], said(run, found)[0], atol=1e-5)
    assert not list(run.path.glob(".*"))


def test_the_run_says_what_was_averaged_and_what_it_changed(run: medlens.Run) -> None:
    training = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    assert training["views_averaged"] == 2
    assert training["saved_network_difference"] < 1e-4
    held_out = pd.read_csv(run.path / "out_of_fold.csv")
    accuracy = (held_out["label"] == held_out["predicted"]).mean()
    text = training["averaged"]
    assert "2 symmetric views" in text
    assert "ultrasound" in text
    assert f"{len(held_out):,} development images" in text
    assert f"accuracy {accuracy:.4f}, without" in text
    true = held_out.apply(lambda row: row[f"prob_{row['label']}"], axis=1)
    assert f"cross-entropy {-np.log(true).mean():.4f}, without" in text
    report = run.report.read_text(encoding="utf-8")
    assert text in report
    assert "as it is and mirrored" in report
    assert text in (run.path / "log.txt").read_text(encoding="utf-8")


def test_robustness_is_that_of_the_classifier_that_averages(run: medlens.Run) -> None:
    unchanged = next(one for one in run.evaluation["robustness"] if one["change"] == "unchanged")
    test = run.evaluation["test"]
    assert unchanged["accuracy"]["value"] == test["accuracy"]["value"]
    assert unchanged["roc_auc_macro"]["value"] == test["roc_auc_macro"]["value"]


def test_an_external_test_averages(run: medlens.Run, home: Path) -> None:
    there = write_phantoms(home / "there", images=45, size=64, seed=7)
    table = pd.read_csv(there, dtype=str)
    table.assign(patient="there-" + table["patient"]).to_csv(there, index=False)
    external = medlens.evaluate(run.path, there, quiet=True)
    rows = external.predictions
    classifier = medlens.load(run.path)
    pictures = np.stack([classifier.picture(there.parent / path) for path in rows["path"]])
    views = [pictures, pictures[:, :, ::-1]]
    one, other = (np.asarray(classifier.model(view.astype(np.float32))) for view in views)
    np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(one, said(run, rows), atol=1e-4)


def test_a_plan_that_is_handed_back_averages_over_the_same(
    run: medlens.Run, train: Callable[..., medlens.Run], data: Path
) -> None:
    given = {"plan": str(run.path), "image_size": "auto", "positive_class": "mass"}
    again = train(data, "again", **given)
    pd.testing.assert_frame_equal(again.predictions, run.predictions)


@pytest.mark.slow
def test_folds_average_over_eight_views_named_by_the_augmentation(
    train: Callable[..., medlens.Run], data: Path
) -> None:
    run = train(data, "folds", folds=2, augmentation="endoscopy", views=1, epochs=4)
    training = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    assert training["views_averaged"] == 8
    assert training["saved_network_difference"] < 1e-4
    assert run.evaluation["out_of_fold"]["n"] == len(run.predictions) // 2
    classifier = medlens.load(run.path)
    pictures = np.stack(
        [classifier.picture(data.parent / path) for path in run.predictions["path"].head(3)]
    ).astype(np.float32)
    turned = np.rot90(pictures, axes=(1, 2))
    np.testing.assert_allclose(classifier.model(turned), classifier.model(pictures), atol=1e-5)


def test_a_modality_without_symmetry_is_refused_and_says_the_way_out(
    train: Callable[..., medlens.Run],
    phantoms: Path,
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(MedlensError, match="nothing to average over") as caught:
        train(phantoms, "refused")
    assert "unknown (guessed: neither" in caught.value.got
    assert "--augmentation NAME" in caught.value.fix
    typed = ["train", str(phantoms), "--out", str(tmp_path / "run"), "--cache", str(cache)]
    typed += ["--test-time-averaging", "--augmentation", "ct"]
    assert main(typed) == 2
    assert "the modality ct (asked for with --augmentation)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # refused before anything is read or made


def test_the_option_is_off_unless_asked_for_and_stands_in_the_config() -> None:
    assert not make_options({}).test_time_averaging
    assert "test_time_averaging = true" in config_toml(make_options({"test_time_averaging": True}))
