from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import medlens
from medlens.cli import _how_to_go_on, _parser, main
from medlens.errors import MedlensError
from medlens.model.classifier import Classifier
from medlens.model.training_cases import SimilarCase
from medlens.report.saliency import grad_cam
from medlens.serve.explain import explain_picture
from medlens.serve.explain_page import draw_page


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def classifier(finished_run: medlens.Run) -> Classifier:
    return finished_run.classifier()


@pytest.fixture(scope="module")
def trained_on(finished_run: medlens.Run, phantoms: Path) -> pd.DataFrame:
    """The images of train: their row in dataset.csv, their file and label."""
    dataset = pd.read_csv(finished_run.path / "dataset.csv", keep_default_na=False)
    splits = pd.read_csv(finished_run.path / "splits.csv").set_index("path")["split"]
    rows = dataset[dataset["path"].map(splits) == "train"]
    files = [phantoms.parent / path for path in rows["path"]]
    return pd.DataFrame({"row": rows.index, "file": files, "label": rows["label"].to_numpy()})


def test_an_explanation_is_the_heat_of_the_class_and_the_nearest_cases(
    classifier: Classifier, trained_on: pd.DataFrame
) -> None:
    for _, row in trained_on.iloc[[0, 5, 11]].iterrows():
        picture = classifier.picture(row["file"])
        for number in range(len(classifier.classes)):
            found = explain_picture(classifier, picture, number)
            wanted = grad_cam(classifier.model, picture[np.newaxis], np.array([number]))[0]
            assert np.allclose(found.heat, wanted, atol=1e-5)
            assert found.overlay.shape == picture.shape
        assert (found.similar[0].row, found.similar[0].label) == (row["row"], row["label"])
        distance = classifier.predict(row["file"])["distance"].iloc[0]
        assert found.similar[0].distance == pytest.approx(distance, rel=5e-3)


def test_the_command_draws_a_page_for_each_image(
    finished_run: medlens.Run, trained_on: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(trained_on["file"].iloc[0], tmp_path / "in" / "one.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    command = ["explain", str(finished_run.path), str(tmp_path / "in"), "-o", str(out)]
    assert main(command) == 3
    assert names_in(out) == {"00002.png", "explain.csv", "explanation.json"}
    table = pd.read_csv(out / "explain.csv", keep_default_na=False)
    assert [Path(path).name for path in table["path"]] == ["bad.png", "one.png"]
    assert list(table["page"]) == ["", "00002.png"]
    assert table["unreadable"].iloc[0] != ""
    assert table["explained"].iloc[1] == table["predicted"].iloc[1]
    assert int(table["similar_1_row"].iloc[1]) == trained_on["row"].iloc[0]
    assert table["similar_1_row"].iloc[0] == ""
    page = np.asarray(Image.open(out / "00002.png").convert("RGB"))
    assert page.std() > 20
    assert min(page.shape[:2]) > 400


def test_a_class_may_be_named_and_must_be_known(
    finished_run: medlens.Run, trained_on: pd.DataFrame, tmp_path: Path
) -> None:
    image = trained_on["file"].iloc[0]
    out = tmp_path / "out"
    medlens.explain(finished_run.path, image, out=out, class_name="mass", quiet=True)
    assert list(pd.read_csv(out / "explain.csv")["explained"]) == ["mass"]
    with pytest.raises(MedlensError, match="does not know the class"):
        medlens.explain(finished_run.path, image, out=tmp_path / "b", class_name="masses")


def test_a_folder_in_use_is_spared(
    finished_run: medlens.Run, trained_on: pd.DataFrame, tmp_path: Path
) -> None:
    image, out = trained_on["file"].iloc[0], tmp_path / "out"
    out.mkdir()
    (out / "00001.png").write_bytes(b"somebody's picture")
    with pytest.raises(MedlensError, match="in use"):
        medlens.explain(finished_run.path, image, out=out, quiet=True, overwrite=True)
    (out / "00001.png").unlink()
    medlens.explain(finished_run.path, image, out=out, quiet=True)
    assert names_in(out) == {"00001.png", "explain.csv", "explanation.json"}
    with pytest.raises(MedlensError, match="in use"):
        medlens.explain(finished_run.path, image, out=out, quiet=True)
    medlens.explain(finished_run.path, image, out=out, quiet=True, overwrite=True)
    (out / "00002.png").write_bytes(b"of no image that was explained")
    (out / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(MedlensError, match="in use"):
        medlens.explain(finished_run.path, image, out=out, quiet=True, overwrite=True)
    assert names_in(out) == {
        *("00001.png", "00002.png", "explain.csv", "explanation.json", "thesis.txt")
    }


def test_a_folder_of_images_is_no_place_for_explanations(
    finished_run: medlens.Run, trained_on: pd.DataFrame, tmp_path: Path
) -> None:
    pictures = tmp_path / "all" / "pictures"
    pictures.mkdir(parents=True)
    for number, file in enumerate(trained_on["file"].iloc[:3], 1):
        shutil.copy(file, pictures / f"{number:05d}.png")
    shutil.copytree(pictures, tmp_path / "all" / "others")
    listed = tmp_path / "all" / "list.csv"
    listed.write_text("path\npictures/00001.png\n", encoding="utf-8")
    before = contents(tmp_path)
    for given, out in (
        (pictures, pictures),
        (pictures, pictures / "out"),
        (pictures, tmp_path / "all"),
        (tmp_path / "all" / "**" / "*.png", tmp_path / "all" / "out"),
        (listed, pictures),
        (listed, tmp_path / "all"),
    ):
        for overwrite in (False, True):
            with pytest.raises(MedlensError, match=r"in use|among the images"):
                medlens.explain(finished_run.path, given, out=out, overwrite=overwrite)
            assert contents(tmp_path) == before


def test_what_cannot_be_done_deletes_nothing(
    finished_run: medlens.Run, trained_on: pd.DataFrame, tmp_path: Path
) -> None:
    image, out = trained_on["file"].iloc[0], tmp_path / "out"
    medlens.explain(finished_run.path, image, out=out, quiet=True)
    before = contents(out)
    for run, given, class_name in (
        (finished_run.path, image, "masses"),
        (finished_run.path, tmp_path / "none.png", None),
        (tmp_path, image, None),
    ):
        with pytest.raises(MedlensError):
            medlens.explain(run, given, out=out, class_name=class_name, overwrite=True, quiet=True)
        assert contents(out) == before


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_goes_on_to_the_same_bytes(
    finished_run: medlens.Run,
    trained_on: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed, whole, out = tmp_path / "list.csv", tmp_path / "whole", tmp_path / "out"
    paths = [*map(str, trained_on["file"].iloc[:23]), "missing.png"]
    # A column that is called as one of the answer.
    listed.write_text("\n".join(["path,page", *[f"{path},7" for path in paths], ""]))
    medlens.explain(finished_run.path, listed, out=whole, quiet=True)
    command = ["explain", str(finished_run.path), str(listed), "-o", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "medlens", *command], stderr=subprocess.PIPE)
    while process.poll() is None and not (out / "00018.png").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert b"the same command goes on." in process.communicate()[1]
    assert process.returncode == 130
    assert not (out / "explain.csv").exists()
    kept = (out / "00001.png").stat().st_mtime_ns
    (out / ".00019.png.1.part").write_bytes(b"half")
    assert main(command) == 3
    assert "Going on after 16 images" in capsys.readouterr().out
    assert (out / "00001.png").stat().st_mtime_ns == kept
    assert contents(out) == contents(whole)
    assert set(pd.read_csv(out / "explain.csv")["given_page"]) == {7}


def test_pages_of_an_interrupted_run_give_way_to_those_of_other_images(
    finished_run: medlens.Run,
    trained_on: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files, out = list(trained_on["file"].iloc[:2]), tmp_path / "out"
    medlens.explain(finished_run.path, files, out=out, quiet=True)
    (out / "explain.csv").unlink()
    medlens.explain(finished_run.path, files[:1], out=out)
    assert "begun anew" in capsys.readouterr().out
    assert names_in(out) == {"00001.png", "explain.csv", "explanation.json"}


@pytest.mark.parametrize("name", ["audit", "plan", "serve", "report"])
def test_only_what_goes_on_says_so(name: str) -> None:
    given = vars(_parser().parse_args([name, "somewhere"]))
    assert _how_to_go_on(given["goes_on"], given) == ""


def test_predictions_on_the_screen_do_not_go_on() -> None:
    for more, goes_on in ([], ""), (["-o", "a.csv"], "the same command goes on"):
        given = vars(_parser().parse_args(["predict", "run", "image", *more]))
        assert _how_to_go_on(given["goes_on"], given) == goes_on


def test_pictures_of_similar_cases_are_shown_where_there_are_any() -> None:
    picture = np.full((32, 32, 3), 90, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), (250, 10, 10), np.uint8)).save(stream, "JPEG")
    cases = [SimilarCase(3, "mass", 1.5, stream.getvalue()), SimilarCase(4, "healthy", 2.0)]
    pages = [
        np.asarray(
            Image.open(io.BytesIO(draw_page(picture, picture, some, "title"))).convert("RGB")
        )
        for some in (cases, cases[1:])
    ]

    def reds(page: np.ndarray) -> int:
        return int(((page[..., 0] > 200) & (page[..., 1] < 60) & (page[..., 2] < 60)).sum())

    with_pictures, without = pages
    assert len(with_pictures) > len(without)
    # The scale of the heat has a little red, too.
    assert reds(with_pictures) > 5000 + reds(without)


def test_training_with_images_lets_their_pictures_travel(
    finished_run: medlens.Run, phantoms: Path, cache: Path, tmp_path: Path
) -> None:
    run = medlens.train(
        phantoms,
        out=tmp_path / "run",
        weights="random",
        image_size=32,
        epochs=2,
        plan="plain",
        no_saliency=True,
        with_images=True,
        cache=str(cache),
        quiet=True,
    )
    classifier = run.classifier()
    dataset = pd.read_csv(run.path / "dataset.csv")
    row = int(classifier.cases.rows[4])
    picture = classifier.picture(phantoms.parent / dataset["path"].iloc[row])
    nearest = explain_picture(classifier, picture, 0).similar[0]
    assert nearest.row == row
    assert nearest.picture is not None
    shown = np.asarray(Image.open(io.BytesIO(nearest.picture)).convert("RGB"))
    assert np.abs(shown.astype(int) - picture).mean() < 8
    (run.path / "classifier" / "training_pictures.zip").write_bytes(b"PK")
    with pytest.raises(MedlensError, match=r"training_pictures\.zip"):
        run.classifier()
