"""Phantoms whose class is, or is not, written on the file; the classifier's answers are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit

from medlens.data.dataset import read_dataset
from medlens.data.phantom import write_phantoms
from medlens.data.scan import scan
from medlens.report.probes import shortcut_probes

CLASSES = ["healthy", "mass"]


def _ignore(done: int) -> None:
    """Progress that nobody looks at."""


def scan_phantoms(folder: Path, confound: str = "") -> pd.DataFrame:
    """Scan 240 phantoms of two classes, of which "mass" may be saved in another way."""
    labels = write_phantoms(folder, images=240, size=64, seed=0, classes=CLASSES)
    table = pd.read_csv(labels)
    for number, path in enumerate(table.loc[table["label"] == "mass", "path"]):
        with Image.open(folder / path) as opened:
            image = opened.copy()
        if confound == "format":
            image.save((folder / path).with_suffix(".jpg"), quality=90)
            (folder / path).unlink()
        elif confound == "size" and number % 4:
            image.resize((80, 64)).save(folder / path, compress_level=0)
        elif confound == "brightness":
            image.point(lambda level: level // 2).save(folder / path, compress_level=0)
    if confound == "format":
        is_mass = table["label"] == "mass"
        table.loc[is_mass, "path"] = table.loc[is_mass, "path"].str.replace(".png", ".jpg")
    table[["path", "label", "patient"]].to_csv(labels, index=False)
    dataset = read_dataset(labels, cache=folder / "cache")
    return scan(dataset, cache=folder / "cache", frame=None, progress=_ignore)


def answer(
    facts: pd.DataFrame, skill: float, test_images: int = 120, seed: int = 0
) -> pd.DataFrame:
    """A table of predictions by a classifier whose logit is `skill` higher for "mass"."""
    generator = np.random.default_rng(seed)
    table = facts.sort_values("patient", kind="stable", ignore_index=True)
    table["group"] = table["patient"]
    half = int((table.index[table["patient"] != table["patient"].shift()] >= 120).argmax())
    first_tested = table.index[table["patient"] != table["patient"].shift()][half]
    table["split"] = np.where(table.index < first_tested, "train", "test")
    logit = skill * ((table["label"] == "mass") - 0.5) + generator.normal(0, 1, len(table))
    table["prob_mass"] = expit(logit)
    table["prob_healthy"] = 1 - table["prob_mass"]
    table["predicted"] = np.where(table["prob_mass"] > 0.5, "mass", "healthy")
    return table.iloc[: first_tested + test_images]


def probe(table: pd.DataFrame, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    found = shortcut_probes(table, CLASSES, None, seed=0, draws=200, **changes)
    assert [one["name"] for one in found] == ["file facts", "global pixels"]
    return found[0], found[1]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return scan_phantoms(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(("confound", "used"), [("format", "bytes"), ("size", "width")])
def test_a_class_that_is_written_on_the_file_raises_the_alarm(
    tmp_path: Path, confound: str, used: str
) -> None:
    table = answer(scan_phantoms(tmp_path, confound), skill=3.0)
    files, pixels = probe(table)
    assert files["alarm"]
    assert files["severity"] == "alarm"
    assert files["roc_auc_macro"]["ci95"][0] > 0.7
    assert files["used"] == [used]
    assert files["text"].startswith("The class can be read off the file: ")
    if used == "bytes":
        # JPEG files are smaller; the tree could as well have asked for the format.
        assert files["without_bytes"]["value"] == 1.0
        assert "depends on what the picture shows; without it" in files["text"]
    assert not pixels["alarm"]


def test_file_size_alone_may_be_the_picture(plain: pd.DataFrame) -> None:
    table = answer(plain, skill=3.0)
    larger = 300 * (table["label"] == "mass")
    table["bytes"] = larger + np.random.default_rng(1).integers(4000, 4400, len(table))
    files, _ = probe(table)
    assert files["alarm"]
    assert files["used"] == ["bytes"]
    assert files["without_bytes"]["value"] == 0.5
    assert "not shown to be better than guessing. So it can be the disease itself" in files["text"]


def test_a_good_classifier_on_plain_files_raises_none(plain: pd.DataFrame) -> None:
    files, pixels = probe(answer(plain, skill=3.0))
    for one in (files, pixels):
        assert not one["alarm"]
        assert one["severity"] == "none"
        assert one["difference"]["ci95"][0] > 0
    # All files are alike, so that there is nothing to go by.
    assert files["used"] == []
    assert files["roc_auc_macro"]["value"] == 0.5
    assert "not shown to be better than guessing" in files["text"]


def test_a_classifier_that_guesses_raises_the_alarm_but_is_not_called_a_shortcut(
    plain: pd.DataFrame,
) -> None:
    files, _ = probe(answer(plain, skill=0.0))
    assert files["alarm"]
    assert files["difference"]["ci95"][0] <= 0 <= files["difference"]["ci95"][1]
    assert "can be read off" not in files["text"]
    assert "too small to say, or the classifier too weak" in files["text"]


def test_a_tiny_test_set_says_that_it_is_small(plain: pd.DataFrame) -> None:
    files, _ = probe(answer(plain, skill=2.0, test_images=8))
    assert files["alarm"]
    assert "too small to say" in files["text"]


def test_brightness_is_a_caution(tmp_path: Path) -> None:
    files, pixels = probe(answer(scan_phantoms(tmp_path, "brightness"), skill=2.0))
    assert not files["alarm"]
    assert not pixels["alarm"]
    assert pixels["severity"] == "caution"
    assert pixels["text"].startswith("The class can be read off the brightness: ")
    assert "disease itself" in pixels["text"]


def test_a_test_set_without_a_class_says_so(plain: pd.DataFrame) -> None:
    table = answer(plain, skill=2.0)
    files, _ = probe(table[(table["split"] == "train") | (table["label"] == "mass")])
    assert files["roc_auc_macro"]["value"] is None
    assert files["difference"]["value"] is None
    assert not files["alarm"]
    assert "could not be tested: every image is of class mass" in files["text"]


def test_order_of_rows_and_repetition_change_nothing(tmp_path: Path) -> None:
    table = answer(scan_phantoms(tmp_path, "size"), skill=2.0)
    shuffled = table.sample(frac=1.0, random_state=5)
    assert probe(table) == probe(shuffled)


def test_only_train_teaches_the_probe(plain: pd.DataFrame) -> None:
    table = answer(plain, skill=2.0)
    tested = table["split"] == "test"
    # A fact that tells the class in test, and nothing in train.
    table["width"] = np.where(tested & (table["label"] == "mass"), 80, 64)
    files, _ = probe(table)
    assert files["roc_auc_macro"]["value"] == 0.5
    assert files["used"] == []


def test_three_classes_missing_facts_and_words_unknown_to_train() -> None:
    generator = np.random.default_rng(0)
    names = np.array(["a", "b", "c"])
    labels = names[np.arange(300) % 3]
    table = pd.DataFrame(
        {
            "path": [f"{number:03d}.png" for number in range(300)],
            "split": np.repeat(["train", "test"], 150),
            "group": np.arange(300) // 2,
            "label": labels,
            "predicted": labels,
            "mode": np.where(labels == "a", "RGB", "L"),
            "format": np.where(np.arange(300) < 150, "PNG", "TIFF"),
            "bytes": np.where(labels == "b", np.nan, 1000.0),
        }
    )
    chances = generator.dirichlet(np.ones(3), 300)
    table[[f"prob_{name}" for name in names]] = chances
    found = shortcut_probes(table, list(names), None, seed=0, draws=100)
    assert [one["name"] for one in found] == ["file facts"]
    assert found[0]["columns"] == ["mode", "format", "bytes"]
    assert found[0]["roc_auc_macro"]["value"] == 1.0
    assert found[0]["accuracy"]["value"] == 1.0
    assert found[0]["accuracy"]["groups"] == 75
    assert set(found[0]["used"]) == {"mode", "bytes"}
