"""The whole road on phantoms, with VGG16 and random filters: what it leaves, what stops it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

import medlens
from medlens.data.images import fit_to_square, read_image
from medlens.errors import MedlensError
from medlens.files import part_name

FAST = {"weights": "random", "image_size": 32, "quiet": True, "epochs": 15, "plan": "plain"}
DETERMINISTIC = ("splits.csv", "predictions.csv", "evaluation.json", "dataset.csv", "audit.json")


@pytest.fixture(scope="module")
def train(cache: Path) -> Callable[..., medlens.Run]:
    def run(data: Path, out: Path, **options: Any) -> medlens.Run:
        return medlens.train(data, out=out, **{**FAST, "cache": str(cache), **options})

    return run


@pytest.fixture(scope="module")
def run(
    train: Callable[..., medlens.Run], phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> medlens.Run:
    return train(phantoms, tmp_path_factory.mktemp("runs") / "run")


def test_the_run_folder_holds_what_the_docs_say(run: medlens.Run) -> None:
    there = {path.name for path in run.path.iterdir()}
    assert there == {
        "config.toml",
        "environment.json",
        "dataset.csv",
        "audit.json",
        "splits.csv",
        "history.csv",
        "training.json",
        "plan.json",
        "classifier",
        "predictions.csv",
        "evaluation.json",
        "figures",
        "report.html",
        "model_card.md",
        "study.toml",
        "log.txt",
        "contact_sheet.png",
        "heat_maps",
        "out_of_fold.csv",
        "label_suspects.csv",
    }
    assert {path.name for path in (run.path / "classifier").iterdir()} == {
        "classifier.keras",
        "classifier.json",
        "familiarity.npz",
        "training_cases.npz",
        "SHA256SUMS",
    }


def test_no_patient_and_no_copy_is_in_two_splits(run: medlens.Run) -> None:
    dataset = pd.read_csv(run.path / "dataset.csv", keep_default_na=False)
    table = dataset.merge(pd.read_csv(run.path / "splits.csv"), on="path")
    assert table.groupby("patient")["split"].nunique().max() == 1
    assert table.groupby("pixels_sha256")["split"].nunique().max() == 1
    assert (table.groupby("label")["split"].nunique() == 3).all()


def test_the_evaluation_is_that_of_the_predictions(run: medlens.Run) -> None:
    test = run.evaluation["test"]
    rows = run.predictions[run.predictions["split"] == "test"]
    assert test["n"] == len(rows) == int(np.sum(test["confusion_matrix"]))
    accuracy = float((rows["label"] == rows["predicted"]).mean())
    assert test["accuracy"]["value"] == pytest.approx(accuracy)
    low, high = test["accuracy"]["ci95"]
    assert low < accuracy < high
    assert test["accuracy"]["groups"] == rows["group"].nunique()


def test_random_filters_are_said_everywhere(run: medlens.Run) -> None:
    assert "random filters" in run.evaluation["notices"][0]
    assert "random filters" in run.report.read_text(encoding="utf-8")
    assert "random filters" in (run.path / "log.txt").read_text(encoding="utf-8")


def test_the_saved_network_agrees_with_the_cached_features_on_every_test_image(
    run: medlens.Run, phantoms: Path
) -> None:
    rows = run.predictions[run.predictions["split"] == "test"]
    model = keras.models.load_model(run.path / "classifier" / "classifier.keras", safe_mode=True)
    pixels = np.stack(
        [
            fit_to_square(read_image(phantoms.parent / path).pixels, size=32, fit="pad")
            for path in rows["path"]
        ]
    ).astype(np.float32)
    expected = rows[[f"prob_{name}" for name in run.evaluation["classes"]]].to_numpy()
    difference = np.abs(np.asarray(model.predict_on_batch(pixels)) - expected).max()
    assert difference < 1e-4


def test_the_classifier_folder_alone_predicts_and_refuses_bad_files(
    run: medlens.Run, phantoms: Path, tmp_path: Path
) -> None:
    shutil.copytree(run.path / "classifier", tmp_path / "classifier")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    rows = run.predictions.head(3)
    good = [phantoms.parent / path for path in rows["path"]]
    table = medlens.load(tmp_path / "classifier").predict([good[0], bad, *good[1:]])
    assert list(table["predicted"].iloc[[0, 2, 3]]) == list(rows["predicted"])
    assert table["unreadable"].iloc[1] != ""
    assert table["predicted"].iloc[1] == ""
    assert np.isnan(table[f"prob_{run.evaluation['classes'][0]}"].iloc[1])
    alone = medlens.load(tmp_path / "classifier").predict(good[0])
    assert list(alone["predicted"]) == [rows["predicted"].iloc[0]]


def test_no_file_name_and_no_patient_in_the_log(run: medlens.Run) -> None:
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    dataset = pd.read_csv(run.path / "dataset.csv", keep_default_na=False)
    names = {Path(path).name for path in dataset["path"]} | set(dataset["patient"])
    assert [name for name in names if name in log] == []


def test_the_same_seed_gives_the_same_bytes_from_nothing(
    run: medlens.Run, train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    again = train(phantoms, tmp_path / "again", cache=str(tmp_path / "new-cache"))
    for name in DETERMINISTIC:
        assert (run.path / name).read_bytes() == (again.path / name).read_bytes(), name


def test_another_seed_splits_otherwise(
    run: medlens.Run, train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    other = train(phantoms, tmp_path / "other", seed=1)
    assert (run.path / "splits.csv").read_bytes() != (other.path / "splits.csv").read_bytes()


def test_a_config_repeats_a_run_and_a_splits_file_is_used_as_it_is(
    run: medlens.Run, train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    splits = pd.read_csv(run.path / "splits.csv")
    other = pd.read_csv(train(phantoms, tmp_path / "other", seed=1).path / "splits.csv")
    other.to_csv(tmp_path / "splits.csv", index=False)
    again = train(phantoms, tmp_path / "again", split=str(tmp_path / "splits.csv"))
    used = pd.read_csv(again.path / "splits.csv")
    pd.testing.assert_frame_equal(used, other)
    assert not used.equals(splits)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medlens", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def arguments(data: Path, out: Path, cache: Path) -> list[str]:
    options = ["--weights", "random", "--image-size", "32", "--epochs", "15", "--plan", "plain"]
    return ["train", str(data), "--out", str(out), "--cache", str(cache), *options]


def test_a_killed_run_goes_on_and_ends_with_the_same_files(
    run: medlens.Run, phantoms: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "run", tmp_path / "cache"
    typed = [sys.executable, "-m", "medlens", *arguments(phantoms, out, cache), "--resume"]
    # Killed as soon as each of these appears: in the scan, in the frozen pass, in the evaluation.
    for trace in ("audit.json", "splits.csv", "history.csv", "predictions.csv"):
        process = subprocess.Popen(
            typed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and not (out / trace).exists():
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finished = command(*arguments(phantoms, out, cache), "--resume", "--quiet")
    assert finished.returncode == 0, finished.stderr
    for name in DETERMINISTIC:
        assert (run.path / name).read_bytes() == (out / name).read_bytes(), name
    assert {path.name for path in out.iterdir()} == {path.name for path in run.path.iterdir()}


def test_an_existing_folder_is_refused_and_other_files_are_never_deleted(
    run: medlens.Run, train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    with pytest.raises(MedlensError, match="in use"):
        train(phantoms, run.path)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    half = mine / ".movie.mkv.1.part"
    half.write_bytes(b"still loading")
    with pytest.raises(MedlensError, match="deletes only a run"):
        train(phantoms, mine, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert half.read_bytes() == b"still loading"


def test_a_run_that_an_error_ended_at_once_leaves_its_folder_free(
    train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    out, weights = tmp_path / "run", tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save_weights(weights)
    with pytest.raises(MedlensError, match="does not fit"):
        train(phantoms, out, weights=str(weights))
    assert {path.name for path in out.iterdir()} == {"config.toml", "log.txt"}
    assert train(phantoms, out).path == out
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.toml").write_text("mine")
    with pytest.raises(MedlensError, match="in use"):
        train(phantoms, other)


def test_what_a_killed_writer_left_is_cleared_away(
    run: medlens.Run, train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    pictures = tmp_path / "run" / ".pictures" / "32px-pad-bilinear"
    pictures.mkdir(parents=True)
    parts = (".config.toml.99.part", part_name("splits.csv"), "classifier/.99.part.keras")
    for path in (*(tmp_path / "run" / part for part in parts), pictures / ".a.npy.99.part"):
        path.write_bytes(b"half")
    # Results of `medlens predict -o RUN/mine.csv` that are under way are not train's to clear.
    others = tmp_path / "run" / ".mine.csv.parts"
    others.mkdir()
    again = train(phantoms, tmp_path / "run", resume=True)
    assert others.is_dir()
    others.rmdir()
    before, after = ({p.relative_to(r.path) for p in r.path.rglob("*")} for r in (run, again))
    assert before == after


def test_overwrite_keeps_the_old_run_where_the_new_one_cannot_start(
    run: medlens.Run, train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    splits = tmp_path / "run" / "splits.csv"
    for data, options in (
        (tmp_path / "nothing", {}),
        (phantoms, {"weights": "no/such.h5"}),
        (phantoms, {"split": str(splits)}),
        (phantoms, {"resume": True}),
    ):
        with pytest.raises(MedlensError):
            train(data, tmp_path / "run", overwrite=True, **options)
    assert splits.read_bytes() == (run.path / "splits.csv").read_bytes()


def test_a_place_that_cannot_be_written_is_an_error_to_mend(phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = command(*arguments(phantoms, tmp_path / "file" / "run", tmp_path / "cache"))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "how to mend:" in result.stderr


def test_resuming_with_other_options_is_refused(
    run: medlens.Run, train: Callable[..., medlens.Run], phantoms: Path
) -> None:
    with pytest.raises(MedlensError) as caught:
        train(phantoms, run.path, resume=True, epochs=3)
    assert "--epochs" in caught.value.got


def copy_of(phantoms: Path, folder: Path) -> tuple[Path, pd.DataFrame]:
    shutil.copytree(phantoms.parent, folder)
    return folder / "labels.csv", pd.read_csv(folder / "labels.csv", dtype=str)


def test_a_leaking_split_stops_the_run_and_can_be_resolved(
    train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    labels, table = copy_of(phantoms, tmp_path / "data")
    random = np.random.default_rng(0)
    table["split"] = random.choice(["train", "val", "test"], len(table), p=(0.6, 0.2, 0.2))
    table.to_csv(labels, index=False)
    with pytest.raises(MedlensError) as caught:
        train(labels, tmp_path / "run")
    assert "--resolve-leaks" in caught.value.fix
    resolved = train(labels, tmp_path / "run", resolve_leaks=True, overwrite=True)
    after = pd.read_csv(resolved.path / "splits.csv").merge(table, on="path")
    used = after[after["split_x"] != "excluded"]
    assert used.groupby("patient")["split_x"].nunique().max() == 1
    given_test = after[after["split_y"] == "test"]
    assert (given_test["split_x"] == "test").all()
    assert (after["split_x"] == "excluded").any()


def test_an_image_with_two_labels_stops_the_run_or_is_left_out(
    train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    labels, table = copy_of(phantoms, tmp_path / "data")
    first = table.iloc[0]
    other = next(name for name in table["label"].unique() if name != first["label"])
    twin = f"{other}/twin.png"
    shutil.copy(labels.parent / first["path"], labels.parent / twin)
    table.loc[len(table)] = {**first, "path": twin, "label": other}
    table.to_csv(labels, index=False)
    with pytest.raises(MedlensError) as caught:
        train(labels, tmp_path / "run")
    assert any("twin.png" in name for name in caught.value.names)
    assert "--drop-conflicts" in caught.value.fix
    run = train(labels, tmp_path / "run", drop_conflicts=True, overwrite=True)
    dataset = pd.read_csv(run.path / "dataset.csv", keep_default_na=False).set_index("path")
    assert dataset.loc[twin, "excluded"] == dataset.loc[first["path"], "excluded"] != ""
    assert not run.predictions["path"].isin([twin, first["path"]]).any()


def test_a_damaged_file_is_listed_and_many_stop_the_run(
    train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    labels, table = copy_of(phantoms, tmp_path / "data")
    damaged = [labels.parent / path for path in table["path"]]
    damaged[0].write_bytes(damaged[0].read_bytes()[:100])
    damaged[1].unlink()
    run = train(labels, tmp_path / "run")
    findings = json.loads((run.path / "audit.json").read_text(encoding="utf-8"))["findings"]
    unreadable = next(one for one in findings if one["code"] == "unreadable")
    assert sorted(path for group in unreadable["files"] for path in group) == sorted(
        table["path"].iloc[:2]
    )
    assert len(run.predictions) == len(table) - 2
    for path in damaged[:20]:
        path.write_bytes(b"")
    with pytest.raises(MedlensError) as caught:
        train(labels, tmp_path / "run2")
    assert len(caught.value.names) == 20


def test_a_class_too_small_is_named_with_the_ways_out(
    train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    labels, table = copy_of(phantoms, tmp_path / "data")
    rare = table["label"].unique()[0]
    three = table[table["label"] == rare].drop_duplicates("patient").head(3)
    pd.concat([table[table["label"] != rare], three]).to_csv(labels, index=False)
    with pytest.raises(MedlensError) as caught:
        train(labels, tmp_path / "run")
    said = str(caught.value)
    assert rare in said
    assert "--drop-class" in said
    assert "--min-per-class" in said
    run = train(labels, tmp_path / "run", drop_class=[rare], overwrite=True)
    assert rare not in run.evaluation["classes"]
    assert run.evaluation["positive_class"] == run.evaluation["classes"][1]
    test = run.evaluation["test"]
    assert test["roc_auc"]["value"] == test["roc_auc_macro"]["value"]


def test_labels_without_meaning_are_not_learnt(
    train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    labels, table = copy_of(phantoms, tmp_path / "data")
    table["label"] = np.random.default_rng(0).permutation(table["label"].to_numpy())
    table.to_csv(labels, index=False)
    low, high = train(labels, tmp_path / "run").evaluation["test"]["roc_auc_macro"]["ci95"]
    assert low < 0.5 < high


def test_the_command_line_says_what_got_expected_and_how_to_mend(
    phantoms: Path, tmp_path: Path
) -> None:
    result = command("train", phantoms, "--out", tmp_path / "run", "--split", "1,2,3")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for part in ("--split", "got:", "expected:", "how to mend:"):
        assert part in result.stderr


def test_an_error_is_said_once_and_logged_without_names(
    phantoms: Path, tmp_path: Path, cache: Path
) -> None:
    labels, table = copy_of(phantoms, tmp_path / "data")
    table["split"] = ["train", "test"] * (len(table) // 2)
    table.to_csv(labels, index=False)
    result = command(*arguments(labels, tmp_path / "run", cache))
    assert result.returncode == 2
    assert result.stderr.count("how to mend:") == 1
    assert Path(table["path"][0]).suffix in result.stderr
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "how to mend:" in log
    assert [path for path in table["path"] if path in log] == []


def test_the_audit_command_exits_with_2_where_train_would_stop(
    phantoms: Path, tmp_path: Path, cache: Path
) -> None:
    fine = command("audit", phantoms, "--cache", cache, "--out", tmp_path / "audit")
    assert fine.returncode == 0, fine.stderr
    assert (tmp_path / "audit" / "audit.json").exists()
    labels, table = copy_of(phantoms, tmp_path / "data")
    table["split"] = ["train", "test"] * (len(table) // 2)
    table.to_csv(labels, index=False)
    assert command("audit", labels, "--cache", cache).returncode == 2


def test_folds_test_every_image_once_and_the_report_says_so(
    train: Callable[..., medlens.Run], phantoms: Path, tmp_path: Path
) -> None:
    run = train(
        phantoms,
        tmp_path / "folds",
        folds=3,
        no_images=True,
        robustness=True,
        positive_class="mass",
        epochs=5,
    )
    evaluation, predictions = run.evaluation, run.predictions
    assert "test" not in evaluation
    tested = predictions[predictions["fold"] != ""]
    assert sorted(tested["path"]) == sorted(predictions.loc[predictions["fold"] == "", "path"])
    assert evaluation["out_of_fold"]["n"] == len(tested)
    assert tested.groupby("group")["fold"].nunique().max() == 1
    splits = pd.read_csv(run.path / "splits.csv", dtype=str)
    assert set(splits["split"]) == {"train", "val"}
    assert set(splits["fold"]) == {"1", "2", "3"}
    assert "not itself tested" in " ".join(evaluation["notices"])
    # Nothing of an image leaves the run with --no-images.
    assert not list(run.path.glob("*.png")) + list((run.path).glob("heat_maps/*"))
    assert evaluation["saliency"] is None
    # The saved classifier knows all images by heart: there is nothing to test it on.
    assert evaluation["robustness"] is None
    assert "Robustness was not measured" in " ".join(evaluation["notices"])
    assert run.report.exists()


def test_the_evidence_stands_beside_the_metrics(run: medlens.Run) -> None:
    evaluation = run.evaluation
    roles = run.predictions.groupby("split")["role"].unique()
    assert set(roles["test"]) == {"test"}
    assert set(roles["train"]) == {"fit"}
    calibration = evaluation["calibration"]
    assert calibration["fitted_on"] == "out_of_fold"  # 150 phantoms: val is far too small to halve
    held_out = pd.read_csv(run.path / "out_of_fold.csv", dtype={"fold": str})
    assert len(held_out) == calibration["n"] == (run.predictions["split"] == "train").sum()
    classes = evaluation["classes"]
    logits = run.predictions[[f"logit_{name}" for name in classes]].to_numpy()
    powers = np.exp(logits / calibration["temperature"])
    expected = powers / powers.sum(axis=1, keepdims=True)
    said = run.predictions[[f"prob_{name}" for name in classes]].to_numpy()
    np.testing.assert_allclose(said, expected, atol=1e-7)
    tested = run.predictions[run.predictions["split"] == "test"]
    share = float(tested["unfamiliar"].mean())
    assert evaluation["unfamiliar"]["test_false_alarms"]["value"] == pytest.approx(share)
    assert len(list((run.path / "heat_maps").iterdir())) == len(evaluation["saliency"]["images"])
    assert {probe["name"] for probe in evaluation["baselines"]["probes"]} == {
        "file facts",
        "global pixels",
    }
