"""The plan: what is decided and why; edited and handed back; wrong ones refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import pytest

import medlens
from medlens.cli import main
from medlens.errors import MedlensError

FAST = {"weights": "random", "image_size": 32, "quiet": True, "epochs": 10}


@pytest.fixture(scope="module")
def plan(phantoms: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plan.json of the command, for phantoms."""
    out = tmp_path_factory.mktemp("plan") / "planned"
    command = ["plan", str(phantoms), "--out", str(out), "--cache", str(cache), "--quiet"]
    assert main(command) == 0
    return dict(json.loads((out / "plan.json").read_text(encoding="utf-8")))


@pytest.fixture
def train(cache: Path, phantoms: Path, tmp_path: Path) -> Callable[..., medlens.Run]:
    def run(**options: Any) -> medlens.Run:
        given = {**FAST, "cache": str(cache), "out": tmp_path / "run", **options}
        return medlens.train(phantoms, **{k: v for k, v in given.items() if v is not None})

    return run


def test_every_decision_has_its_kind_and_reason(plan: dict[str, Any]) -> None:
    kinds = {name: one["kind"] for name, one in plan["decisions"].items()}
    assert kinds == {
        "backbone": "fixed",
        "image_size": "rule",
        "fit": "fixed",
        "features": "measured",
        "heads": "measured",
        "augmentation": "fixed",
        "class_weight": "rule",
        "ensemble": "measured",
        "folds": "rule",
        "fine_tune": "fixed",
    }
    assert all(len(one["reason"]) > 10 for one in plan["decisions"].values())
    # Phantoms of 64 px are shown at twice their size, and the classes are of one size.
    assert plan["decisions"]["image_size"]["value"] == 128
    assert plan["fingerprint"]["images"] == 150
    assert plan["fingerprint"]["colour_share"] == 0


def test_a_plan_can_be_asked_for_all_that_it_decides(
    phantoms: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "planned"
    command = ["plan", str(phantoms), "--out", str(out), "--cache", str(cache), "--quiet"]
    assert main([*command, "--augmentation", "x_ray", "--fine-tune", "2"]) == 0
    decisions = json.loads((out / "plan.json").read_text(encoding="utf-8"))["decisions"]
    assert decisions["augmentation"]["value"] == "x_ray"
    assert decisions["fine_tune"] == {
        "value": 2,
        "kind": "given",
        "reason": "Asked for with --fine-tune.",
    }


def test_a_run_chooses_by_measuring_and_says_why(
    train: Callable[..., medlens.Run], tmp_path: Path
) -> None:
    run = train()
    plan = json.loads((run.path / "plan.json").read_text(encoding="utf-8"))
    candidates = pd.read_csv(run.path / "candidates.csv")
    chosen = candidates[candidates["chosen"] == 1].iloc[0]
    assert chosen["loss"] == candidates["loss"].min()
    assert plan["chosen"]["features"]["value"] == chosen["features"]
    assert f"{chosen['loss']:.4f}" in plan["chosen"]["head"]["reason"]
    curves = pd.read_csv(run.path / "candidate_curves.csv")
    assert set(curves["candidate"]) == set(candidates["candidate"])
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    assert "Lowest mean cross-entropy out of fold" in log
    # The plan of a run repeats it.
    again = train(plan=str(run.path), image_size=None, out=tmp_path / "again")
    pd.testing.assert_frame_equal(run.predictions, again.predictions)


def test_an_edited_plan_is_used_as_it_is(
    train: Callable[..., medlens.Run], plan: dict[str, Any], tmp_path: Path
) -> None:
    decisions = plan["decisions"]
    decisions["image_size"]["value"] = 32
    decisions["features"]["value"] = ["deep"]
    decisions["heads"]["value"] = [{"units": [], "dropout": 0.0, "weight_decay": 0.01}]
    decisions["ensemble"]["value"] = [True]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    run = train(plan=str(path), image_size=None)
    training = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    assert training["image_size"] == 32
    assert training["features"] == "deep"
    assert training["head"] == "Dense(softmax)"
    assert training["heads"] == 5
    assert set(run.history["fold"]) == {1, 2, 3, 4, 5}
    assert len(medlens.load(run.path).model.layers) > 10
    report = run.report.read_text(encoding="utf-8")
    assert "mean of the logits of 5" in report


def test_the_plain_plan_chooses_nothing(train: Callable[..., medlens.Run]) -> None:
    run = train(plan="plain")
    training = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    assert training["features"] == "last"
    assert training["columns"] == 512
    assert training["head"] == "Dense(256, relu), Dropout(0.5), Dense(softmax)"
    assert training["class_weight"] == "none"
    assert training["candidates"] == 0
    assert not (run.path / "candidates.csv").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbone", "resnet9000"),
        ("image_size", 31),
        ("image_size", True),
        ("fit", "squeeze"),
        ("features", []),
        ("features", ["all", "all"]),
        ("features", "all"),
        ("heads", []),
        ("heads", [{"units": [0], "dropout": 0.5, "weight_decay": 0.01}]),
        ("heads", [{"units": [64], "dropout": 0.5}]),
        ("heads", [{"units": 64, "dropout": 0.5, "weight_decay": 0.01}]),
        ("class_weight", ["sometimes"]),
        ("ensemble", [1]),
        ("folds", 1),
        ("colour", "blue"),
    ],
)
def test_a_wrong_plan_stops_the_run_before_it_begins(
    train: Callable[..., medlens.Run], plan: dict[str, Any], tmp_path: Path, name: str, value: Any
) -> None:
    decisions = {**plan["decisions"], name: {"value": value, "kind": "given", "reason": ""}}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**plan, "decisions": decisions}), encoding="utf-8")
    with pytest.raises(MedlensError, match=f"decision '{name}' cannot be used"):
        train(plan=str(path), image_size=None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 1, "decisions": [1]}'])
def test_a_file_that_is_no_plan_is_refused(
    train: Callable[..., medlens.Run], tmp_path: Path, text: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MedlensError, match="given with --plan cannot be read"):
        train(plan=str(path), image_size=None)


def test_a_plan_and_an_option_cannot_decide_the_same(
    train: Callable[..., medlens.Run], plan: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(MedlensError, match="decide the same") as caught:
        train(plan=str(path), head="linear")
    assert "--head" in caught.value.got
    assert "--image-size" in caught.value.got


def test_options_narrow_what_is_measured(phantoms: Path, cache: Path, tmp_path: Path) -> None:
    command = ["plan", str(phantoms), "--out", str(tmp_path / "p"), "--cache", str(cache)]
    assert main([*command, "--quiet", "--head", "64,32", "--features", "deep"]) == 0
    decisions = json.loads((tmp_path / "p" / "plan.json").read_text(encoding="utf-8"))["decisions"]
    assert decisions["features"]["value"] == ["deep"]
    assert decisions["features"]["kind"] == decisions["heads"]["kind"] == "given"
    assert decisions["heads"]["value"] == [
        {"units": [64, 32], "dropout": 0.5, "weight_decay": 0.01}
    ]


def test_several_backbones_are_compared_on_train_and_the_best_goes_on(
    train: Callable[..., medlens.Run], tmp_path: Path
) -> None:
    pixels = keras.Input((32, 32, 3))
    values = keras.layers.Rescaling(1 / 255)(pixels)
    keras.utils.set_random_seed(0)
    values = keras.layers.Conv2D(4, 3, strides=4)(values)
    keras.Model(pixels, values).save(tmp_path / "own.keras")
    names = f"vgg16,{tmp_path / 'own.keras'}"
    run = train(plan="plain", backbone=names, weights="random", image_size="auto")
    training = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    plan = json.loads((run.path / "plan.json").read_text(encoding="utf-8"))
    table = pd.read_csv(run.path / "candidates.csv")
    assert list(table["backbone"]) == ["vgg16", "own.keras"]
    best = table.loc[table["loss"].idxmin(), "backbone"]
    assert training["backbone"] == plan["chosen"]["backbone"]["value"] == best
    assert list(table.loc[table["chosen"] == 1, "backbone"]) == [best]
    assert f"{table['loss'].min():.4f}" in training["choice"]["backbone"]
    assert plan["decisions"]["image_size"]["value"] == training["image_size"] == 32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbone": "vgg16,vgg16"}, "--backbone"),
        ({"backbone": "vgg16,vgg"}, "--backbone"),
        ({"backbone": "vgg16,vgg19", "folds": 3}, "exclude each other"),
        ({"backbone": "vgg16,vgg19", "weights": "a.h5"}, "do not go together"),
        ({"backbone": "vgg16", "preprocessing": "tf"}, "of your own"),
        ({"plan": "plain", "search": 5}, "contradict"),
    ],
)
def test_backbones_that_do_not_go_together_are_refused(
    train: Callable[..., medlens.Run], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(MedlensError, match=said):
        train(**{"image_size": None, **options})


def test_a_plan_that_was_edited_is_not_written_over(
    phantoms: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", str(phantoms), "--out", str(tmp_path), "--cache", str(cache), "--quiet"]
    assert main(command) == 0
    assert main(command) == 0
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    plan["decisions"]["folds"]["value"] = 3
    edited = json.dumps(plan)
    (tmp_path / "plan.json").write_text(edited, encoding="utf-8")
    assert main(command) == 2
    assert "Another plan" in capsys.readouterr().err
    assert (tmp_path / "plan.json").read_text(encoding="utf-8") == edited


def test_a_plan_says_what_the_audit_warns_of_and_what_stops_train(
    phantoms: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(phantoms)
    table["path"] = [str(phantoms.parent / path) for path in table["path"]]
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(table["path"].iloc[0]).read_bytes())
    other = table.head(1).assign(path=str(copy), label=table["label"].iloc[-1])
    pd.concat([table, other]).to_csv(tmp_path / "labels.csv", index=False)
    given = ["--cache", str(cache)]
    assert main(["plan", str(tmp_path / "labels.csv"), *given]) == 2
    said = " ".join("".join(capsys.readouterr()).split())
    assert "`medlens train` would stop at the findings marked error." in said
    assert "nothing found that stops or warns" not in said
    assert main(["plan", str(phantoms), *given]) == 0
    assert "would go on with this data" in " ".join("".join(capsys.readouterr()).split())


def test_augmented_views_are_of_train_alone_and_repeat(
    train: Callable[..., medlens.Run], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    options = {"plan": "plain", "augmentation": "x_ray", "views": 2, "cache": str(cache)}
    run = train(**options)
    training = json.loads((run.path / "training.json").read_text(encoding="utf-8"))
    plan = json.loads((run.path / "plan.json").read_text(encoding="utf-8"))
    table = pd.read_csv(run.path / "candidates.csv")
    assert list(table["augmented"]) == [0, 1]
    is_used = table["loss"].iloc[1] < table["loss"].iloc[0]
    assert plan["chosen"]["augmentation"]["value"] == is_used
    assert training["augmentation"] == ("x_ray, 2 views of each image" if is_used else "none")
    assert (run.path / "view_sheet.png").stat().st_size > 1000
    assert "view_sheet.png" in (run.path / "report.html").read_text(encoding="utf-8")
    # No view of a validation or test image went through the network.
    splits = pd.read_csv(run.path / "splits.csv").merge(pd.read_csv(run.path / "dataset.csv"))
    keys = " ".join(path.read_text() for path in (cache / "features").rglob("*.keys"))
    viewed = {key.split(".")[0] for key in keys.split() if "." in key}
    assert viewed == set(splits.loc[splits["split"] == "train", "pixels_sha256"])
    again = train(**{**options, "out": tmp_path / "again", "cache": str(tmp_path / "other")})
    for name in ("predictions.csv", "candidates.csv"):
        assert (run.path / name).read_bytes() == (again.path / name).read_bytes()
