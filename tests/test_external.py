"""The command evaluate: another hospital's phantoms."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

import medlens
from medlens.config import Options
from medlens.data.phantom import write_phantoms
from medlens.external import choose_folder, exclude
from medlens.report.sections import list_sections
from medlens.run_dir import RunDir


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("external")


@pytest.fixture(scope="module")
def run(home: Path) -> medlens.Run:
    """A run on phantoms of one hospital."""
    data = write_phantoms(home / "here", images=120, size=64, seed=0)
    return medlens.train(
        data,
        out=home / "run",
        weights="random",
        backbone="mobilenet_v2",
        image_size=64,
        epochs=15,
        plan="plain",
        features="all",
        positive_class=pd.read_csv(data)["label"].min(),
        cache=str(home / "cache"),
        no_saliency=True,
        quiet=True,
    )


def listing(home: Path, name: str, rows: pd.DataFrame) -> Path:
    """A CSV beside copies of the images that it names."""
    folder = home / name
    folder.mkdir()
    for row in rows.itertuples():
        target = folder / str(row.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(home / str(row.source) / str(row.path), target)
    rows.drop(columns="source").to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def there(home: Path, run: medlens.Run) -> Path:
    """Sixty new phantoms, two of the run's own images among them."""
    new = pd.read_csv(write_phantoms(home / "new", images=60, size=64, seed=5), dtype=str)
    new = new.assign(source="new", patient="there-" + new["patient"])
    own = pd.read_csv(home / "here" / "labels.csv", dtype=str).head(2)
    own = own.assign(source="here", patient="")
    rows = pd.concat([new, own]).drop_duplicates("path", keep="last")
    return listing(home, "there", rows[["path", "label", "patient", "source"]])


def test_an_external_test_stands_beside_the_internal_one(run: medlens.Run, there: Path) -> None:
    external = medlens.evaluate(run.path, there, quiet=True)
    assert external.path == run.path / "external" / "there"
    evaluation = external.evaluation
    predictions = external.predictions
    assert set(predictions["split"]) == {"test"}
    assert evaluation["test"]["n"] == len(predictions)
    assert evaluation["internal"]["accuracy"] == run.evaluation["test"]["accuracy"]
    assert evaluation["calibration"]["after"]["brier"]["value"] is not None
    assert evaluation["unfamiliar"]["share"]["value"] is not None
    assert evaluation["operating_point"]["test"]["recall"]["value"] is not None
    # Each number stands beside the run's own.
    sections = list_sections(run.evaluation, external={"there": evaluation})
    (beside,) = (one for one in sections if one.id == "external")
    assert len(beside.tables[0].rows) == 10
    assert all(row[1] for row in beside.tables[0].rows)
    # What the saved network says is what the saved network says.
    again = run.classifier().predict([there.parent / path for path in predictions["path"]])
    columns = [f"prob_{name}" for name in evaluation["classes"]]
    assert (again[columns].to_numpy() - predictions[columns].to_numpy()).max() < 1e-5
    assert list(again["decision"]) == list(predictions["decision"])
    assert list(again["unfamiliar"]) == list(predictions["unfamiliar"])


def test_images_that_the_run_knows_are_left_out(run: medlens.Run, there: Path) -> None:
    external = medlens.Run(run.path / "external" / "there")
    dataset = pd.read_csv(external.path / "dataset.csv", keep_default_na=False)
    assert (dataset["excluded"] == "the run knows the same image").sum() == 2
    known = set(pd.read_csv(run.path / "dataset.csv")["pixels_sha256"])
    used = dataset[dataset["excluded"] == ""]
    assert not known & set(used["pixels_sha256"])


def test_unknown_classes_are_refused(run: medlens.Run, home: Path) -> None:
    rows = pd.read_csv(home / "new" / "labels.csv", dtype=str).head(24).assign(source="new")
    rows.loc[::2, "label"] = "other"
    data = listing(home, "strange", rows[["path", "label", "source"]])
    with pytest.raises(medlens.MedlensError, match="classes that the classifier does not know"):
        medlens.evaluate(run.path, data, quiet=True)


def test_a_second_test_does_not_replace_the_first_by_itself(run: medlens.Run, there: Path) -> None:
    with pytest.raises(medlens.MedlensError, match="in use"):
        medlens.evaluate(run.path, there, quiet=True)
    before = (run.path / "external" / "there" / "evaluation.json").read_bytes()
    medlens.evaluate(run.path, there, quiet=True, overwrite=True)
    assert (run.path / "external" / "there" / "evaluation.json").read_bytes() == before


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("site.v1", "site.v1"),
        ("site.v2/", "site.v2"),
        ("site.v1/..", "work"),
        ("site.v1/labels.csv", "site.v1"),
        ("chestmnist.v3.npz", "chestmnist.v3"),
    ],
)
def test_the_folder_is_named_after_the_data(tmp_path: Path, data: str, name: str) -> None:
    work = tmp_path / "work"
    for folder in ("site.v1", "site.v2", "run"):
        (work / folder).mkdir(parents=True)
    (work / "site.v1" / "labels.csv").touch()
    (work / "chestmnist.v3.npz").touch()
    run = RunDir(work / "run")
    assert choose_folder(run, Options(data=str(work / data))) == run.external / name


@pytest.mark.parametrize("out", ["run", "run/external/..", "run/figures", "run/external", "."])
def test_an_external_test_never_lands_on_the_run(tmp_path: Path, out: str) -> None:
    (tmp_path / "run").mkdir()
    options = Options(data=str(tmp_path / "there"), out=str(tmp_path / out), overwrite=True)
    with pytest.raises(medlens.MedlensError, match="belongs to the run"):
        choose_folder(RunDir(tmp_path / "run"), options)
    assert list((tmp_path / "run").iterdir()) == []


def test_whole_groups_are_left_out() -> None:
    rows = [
        # path, label, patient, pixels, near copies, unreadable
        ("known", "ill", "A", "k", "", ""),
        ("of the same patient", "ill", "A", "1", "2", ""),
        ("its near-duplicate", "ill", "", "2", "2", ""),
        ("patient of a known id", "ill", "P001", "3", "", ""),
        ("of two labels", "ill", "", "4", "", ""),
        ("of another label", "well", "", "4", "", ""),
        ("damaged", "ill", "", "", "", "no image"),
        ("new", "well", "B", "5", "", ""),
        ("also new", "well", "", "6", "", ""),
    ]
    columns = ["path", "label", "patient", "pixels_sha256", "near_copies", "unreadable"]
    known = pd.DataFrame({"pixels_sha256": ["k", ""], "patient": ["", "P001"]})
    excluded = exclude(pd.DataFrame(rows, columns=columns), known)
    assert list(excluded) == [
        "the run knows the same image",
        "belongs with an image or a patient that the run knows",
        "belongs with an image or a patient that the run knows",
        "the run knows a patient of that id",
        "conflicting labels",
        "conflicting labels",
        "unreadable",
        "",
        "",
    ]


def test_what_was_left_out_and_what_limits_the_test_is_written(
    run: medlens.Run, there: Path
) -> None:
    external = medlens.Run(run.path / "external" / "there")
    dataset = pd.read_csv(external.path / "dataset.csv", keep_default_na=False)
    counts = dataset.loc[dataset["excluded"] != "", "excluded"].value_counts()
    assert external.evaluation["excluded"] == counts.to_dict()
    assert external.evaluation["internal_name"] == "test"
    shift = external.evaluation["class_balance_shift"]
    assert "only what was measured" in shift["text"]
    assert "the internal test set" in shift["text"]
    said = " ".join(external.evaluation["notices"])
    for words in ("random filters", "is small", "Near-duplicates of the run's images"):
        assert words in said
    assert "patient of that id" not in said


def test_ids_of_two_hospitals_may_collide(run: medlens.Run, home: Path) -> None:
    rows = pd.read_csv(home / "new" / "labels.csv", dtype=str).assign(source="new")
    taken = pd.read_csv(home / "here" / "labels.csv", dtype=str)["patient"].iloc[0]
    rows["patient"] = "far-" + rows["patient"]
    rows.loc[0, "patient"] = taken
    data = listing(home, "far", rows[["path", "label", "patient", "source"]])
    evaluation = medlens.evaluate(run.path, data, quiet=True).evaluation
    assert evaluation["excluded"]["the run knows a patient of that id"] == 1
    assert any("may collide" in one for one in evaluation["notices"])
