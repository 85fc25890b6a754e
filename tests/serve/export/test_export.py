"""Exports: every format answers as the classifier does, or nothing is written."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import medlens
from medlens import exporting
from medlens.cli import EXPORT_FORMATS, main
from medlens.exporting import choose_pictures, run_images
from medlens.model.backbone import BACKBONES
from medlens.model.own_backbone import find_backbone
from medlens.run_dir import RunDir
from medlens.serve.export import Compared, Exported, Wanted, answers, check_equal, export_classifier
from medlens.serve.export_formats import FORMATS, Source, missing_packages

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to.md"
NAMES = {"savedmodel": "model", "onnx": "model.onnx", "litert": "model.tflite"}
NAMES |= {"openvino": "model.xml"}
FILES = {"openvino": {"model.xml", "model.bin", "model.xml.json"}}
Save = Callable[..., Path]

each_format = pytest.mark.parametrize("name", list(FORMATS))


@pytest.fixture(scope="session")
def exported(
    classifier_folder: Path, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Exported]:
    """The same classifier in every format, all in one folder of its own."""
    home = tmp_path_factory.mktemp("exported")
    return {
        name: medlens.export(
            classifier_folder,
            format=name,
            out=home / name / NAMES[name],
            images=images,
            quiet=True,
        )
        for name in FORMATS
    }


@pytest.fixture(scope="session")
def pictures(classifier_folder: Path, images: Path) -> NDArray[np.uint8]:
    classifier = medlens.load(classifier_folder)
    return np.stack([classifier.picture(path) for path in sorted(images.rglob("*.png"))])


def test_the_command_line_knows_all_formats() -> None:
    assert tuple(FORMATS) == EXPORT_FORMATS


@each_format
def test_an_export_answers_as_the_classifier(
    name: str, exported: dict[str, Exported], classifier_folder: Path, pictures: NDArray[np.uint8]
) -> None:
    model = medlens.load(classifier_folder).model
    run = FORMATS[name].open(exported[name].path)
    wanted = np.asarray(model(pictures.astype(np.float32), training=False))
    # Not all the same, and not all 0 or 1: a difference would show.
    assert wanted.std(axis=0).max() > 0.01
    for count in (1, len(pictures), 3):
        found = run(pictures[:count].astype(np.float32))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted[:count], atol=1e-5)


@each_format
def test_what_belongs_to_it_travels_in_the_file_and_beside_it(
    name: str, exported: dict[str, Exported], classifier_folder: Path
) -> None:
    one = exported[name]
    known = json.loads((classifier_folder / "classifier.json").read_text(encoding="utf-8"))
    inside = FORMATS[name].read(one.path)
    beside = json.loads(one.sidecar.read_text(encoding="utf-8"))
    assert beside == one.facts
    for facts in (inside, beside):
        for key in ("classes", "image_size", "fit", "resize_filter", "dicom_rule", "frame"):
            assert facts[key] == known[key]
        assert facts["temperature"] == known["temperature"] == 1.5
        assert facts["operating_point"]["threshold"] == 0.25
        assert facts["notice"] == "Not a medical device."
        assert "unfamiliar_above" not in facts
    network = (classifier_folder / "classifier.keras").read_bytes()
    assert inside["export"]["classifier_sha256"] == hashlib.sha256(network).hexdigest()
    assert 0 <= beside["check"]["largest_difference"] < beside["check"]["limit"] == 1e-4
    assert (beside["check"]["n"], beside["check"]["images"]) == (20, "real images that were named")


@each_format
def test_nothing_else_is_written(name: str, exported: dict[str, Exported]) -> None:
    folder = exported[name].path.parent
    expected = FILES.get(name, {NAMES[name], NAMES[name] + ".json"})
    assert {path.name for path in folder.iterdir()} == expected
    for file, digest in exported[name].facts["sha256"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    files = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } - {exported[name].sidecar.name}
    assert files == set(exported[name].facts["sha256"])


def test_the_labels_stand_in_the_litert_file_as_its_readers_expect(
    exported: dict[str, Exported],
) -> None:
    import zipfile

    with zipfile.ZipFile(exported["litert"].path) as archive:
        labels = archive.read("labels.txt").decode("utf-8").splitlines()
    assert labels == exported["litert"].facts["classes"]


def test_a_tampered_file_does_not_pass(
    exported: dict[str, Exported],
    classifier_folder: Path,
    pictures: NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    content = onnx.load(str(exported["onnx"].path))
    kernel = max(content.graph.initializer, key=lambda one: len(one.raw_data))
    values = onnx.numpy_helper.to_array(kernel) * np.float32(1.01)
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    onnx.save(content, str(tmp_path / "model.onnx"))
    model = medlens.load(classifier_folder).model
    wanted = Wanted(FORMATS["onnx"], tmp_path / "model.onnx")
    for path, is_equal in ((exported["onnx"].path, True), (wanted.out, False)):
        run = FORMATS["onnx"].open(path)
        before, after = answers(model, run, pictures, lambda _: None)
        if is_equal:
            assert check_equal(before, after, wanted)["largest_difference"] < 1e-5
        else:
            with pytest.raises(medlens.MedlensError, match="does not answer as the classifier"):
                check_equal(before, after, wanted)


@each_format
def test_an_export_with_wrong_weights_is_refused_and_leaves_nothing(
    name: str, classifier_folder: Path, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    classifier = medlens.load(classifier_folder)
    right = FORMATS[name]
    wrong = keras.models.clone_model(classifier.model)
    wrong.set_weights([one * np.float32(1.01) for one in classifier.model.get_weights()])

    def write_another(source: Source, path: Path) -> None:
        right.write(replace(source, model=wrong), path)

    out = tmp_path / "there" / NAMES[name]
    with pytest.raises(medlens.MedlensError, match="It is refused; nothing was written") as caught:
        export_classifier(
            classifier,
            Wanted(replace(right, write=write_another), out),
            Compared(pictures, "phantoms"),
            network_sha256="",
            progress=lambda _: None,
        )
    assert "less than 0.0001" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_a_format_cannot_do_is_an_error_and_leaves_nothing(save: Save, tmp_path: Path) -> None:
    layers = keras.layers
    values = pixels = keras.Input((None, None, 3))
    values = layers.Rescaling(1 / 255)(values)
    values = layers.Conv2D(4, 3, strides=2, padding="same")(values)
    values = layers.UpSampling2D(2, interpolation="bicubic")(values)
    values = layers.Conv2D(4, 3, strides=2, padding="same")(values)
    keras.Model(pixels, values).save(tmp_path / "bicubic.keras")
    backbone = find_backbone(str(tmp_path / "bicubic.keras"), "auto")
    folder = save(tmp_path / "classifier", backbone, "imagenet", "all", ())
    out = tmp_path / "out" / "model.tflite"
    with pytest.raises(medlens.MedlensError, match="cannot be written as LiteRT") as caught:
        medlens.export(folder, format="litert", out=out, quiet=True)
    assert "Choose another --format" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"bicubic.keras", "classifier"}


@pytest.mark.parametrize(
    ("backbone", "features"),
    [
        ("mobilenet_v2", "last"),
        *((name, "all") for name in BACKBONES),
    ],
)
@pytest.mark.slow
def test_every_backbone_works_in_every_format(
    backbone: str, features: str, save: Save, tmp_path: Path
) -> None:
    folder = save(tmp_path / "classifier", BACKBONES[backbone], "random", features, ())
    for name in FORMATS:
        # No images are named and there is no run: synthetic pictures, and it says so.
        one = medlens.export(folder, format=name, out=tmp_path / NAMES[name], quiet=True)
        assert one.facts["check"]["largest_difference"] < 1e-4
        assert one.facts["check"]["images"].startswith("synthetic")


@each_format
def test_a_network_that_averages_symmetries_does_so_everywhere(
    name: str, save: Save, own_network: Path, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    backbone = find_backbone(str(own_network), "auto")
    folder = save(tmp_path / "classifier", backbone, "imagenet", "all", (), views=8)
    one = medlens.export(folder, format=name, out=tmp_path / NAMES[name], quiet=True)
    run = FORMATS[name].open(one.path)
    pixels = pictures[:3].astype(np.float32)
    for count in (1, 3):
        np.testing.assert_allclose(
            run(pixels[:count]), run(pixels[:count, :, ::-1].copy()), atol=1e-5
        )


def test_a_run_is_compared_on_its_own_test_images(
    small_run: medlens.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.onnx"
    command = ["export", str(small_run.path), "--format", "onnx", "-o", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert re.search(r"Largest difference of a probability: \S+ \(less than 0\.0001", said)
    assert f"Export: {out}" in said
    assert "Not a medical device." in said
    facts = json.loads((tmp_path / "model.onnx.json").read_text(encoding="utf-8"))
    assert facts["check"]["images"] == "real images, of the run's test set"
    assert facts["check"]["n"] == small_run.evaluation["test"]["n"]
    # It does not replace anything by itself, and nothing but an export at all.
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    out.write_bytes(b"damaged")
    assert main([*command, "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    facts = json.loads((tmp_path / "model.onnx.json").read_text(encoding="utf-8"))
    assert facts["sha256"] == {"model.onnx": hashlib.sha256(out.read_bytes()).hexdigest()}
    (tmp_path / "model.onnx.json").write_text("{}", encoding="utf-8")
    assert main([*command, "--overwrite"]) == 2
    assert "replaces only an export" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.json"}


def test_int8_is_measured_on_the_labelled_test_images(
    small_run: medlens.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.tflite"
    command = ["export", str(small_run.path), "--format", "litert", "--int8", "-o", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    facts = json.loads((tmp_path / "model.tflite.json").read_text(encoding="utf-8"))
    loss = facts["check"]["int8"]
    assert f"{loss['accuracy_after']:.4f} in 8-bit integers" in said
    # The same, once more, from the files.
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(out))
    assert interpreter.get_input_details()[0]["dtype"] == np.float32
    assert any(one["dtype"] == np.int8 for one in interpreter.get_tensor_details())
    rows = small_run.predictions.query("split == 'test' and fold == ''")
    root = Path(re.search(r'^data = "(.*)"', config_of(small_run), re.M).group(1)).parent  # type: ignore[union-attr]
    classifier = small_run.classifier()
    seen = [classifier.picture(root / path) for path in rows["path"]]
    pixels = np.stack(seen).astype(np.float32)
    said_after = np.array(facts["classes"])[FORMATS["litert"].open(out)(pixels).argmax(axis=1)]
    assert loss["n"] == len(rows)
    assert loss["accuracy_after"] == pytest.approx((said_after == rows["label"]).mean())
    accuracy = small_run.evaluation["test"]["accuracy"]["value"]
    assert loss["accuracy_before"] == pytest.approx(accuracy)
    assert loss["loss"] == pytest.approx(loss["accuracy_before"] - loss["accuracy_after"])
    assert facts["check"]["limit"] is None
    assert facts["export"]["input_type"] == "float32"


def config_of(run: medlens.Run) -> str:
    return (run.path / "config.toml").read_text(encoding="utf-8")


def test_int8_without_the_runs_images_takes_labelled_ones_that_are_named(
    classifier_folder: Path, images: Path, tmp_path: Path
) -> None:
    def export(folder: Path) -> Exported:
        out = tmp_path / "model.tflite"
        return medlens.export(
            classifier_folder, format="litert", int8=True, out=out, images=folder, quiet=True
        )

    for folder in (images, ""):
        with pytest.raises(medlens.MedlensError, match="--int8 needs labelled images") as caught:
            export(folder)  # type: ignore[arg-type]
        assert "one sub-folder per class" in str(caught.value)
    labelled = tmp_path / "labelled"
    classes = medlens.load(classifier_folder).classes
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        target = labelled / classes[number % 3] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    facts = export(labelled).facts
    assert facts["check"]["int8"]["n"] == 10
    assert facts["check"]["images"] == "real images that were named, every other one"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "onnx", "--int8", "-o", "model.onnx"], "cannot write ONNX in 8-bit integers"),
        (["--format", "onnx", "-o", "model"], "does not fit ONNX"),
        (["--format", "savedmodel", "-o", "model.onnx"], "does not fit SavedModel"),
        (["--format", "openvino", "-o", "model.bin"], "does not fit OpenVINO"),
        (["--format", "onnx", "-o", "RUN/inside.onnx"], "cannot lie in the classifier's folder"),
        (["--format", "onnx", "-o", "model.onnx", "--images", "none"], "no images to compare on"),
        (["--format", "onnx", "-o", "model.onnx", "--images", "."], "no images to compare on"),
        (["--format", "savedmodel", "-o", "taken"], "something at the place"),
        (["--format", "savedmodel", "-o", "taken", "--overwrite"], "replaces only an export"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_written(
    options: list[str],
    said: str,
    classifier_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    before = sorted(classifier_folder.iterdir())
    typed = [one.replace("RUN", str(classifier_folder)) for one in options]
    assert main(["export", str(classifier_folder), *typed]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "how to mend" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert sorted(classifier_folder.iterdir()) == before


def test_a_file_that_is_none_of_the_export_is_never_deleted_with_it(
    exported: dict[str, Exported],
    classifier_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(exported["savedmodel"].path.parent, tmp_path, dirs_exist_ok=True)
    foreign = tmp_path / "model" / "assets" / "thesis.txt"
    foreign.write_text("years of work", encoding="utf-8")
    command = ["export", str(classifier_folder), "--format", "savedmodel"]
    assert main([*command, "-o", str(tmp_path / "model"), "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert "1 files in the folder that model.json does not list" in said
    assert str(foreign) in said
    assert foreign.read_text(encoding="utf-8") == "years of work"


def test_of_many_images_named_for_int8_a_bounded_number_is_measured(
    classifier_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MEASURED", 4)
    classifier = medlens.load(classifier_folder)
    for name in classifier.classes:
        shutil.copytree(images, tmp_path / "named" / name, ignore=shutil.ignore_patterns("*.csv"))
    wanted = Wanted(FORMATS["litert"], tmp_path / "model.tflite", int8=True)
    given = str(tmp_path / "named")
    found = choose_pictures(classifier, RunDir(tmp_path / "none"), wanted, given, "auto")
    assert len(found.pictures) == 4
    assert set(found.labels) == set(classifier.classes)  # from all over the folder


@pytest.mark.parametrize("data", ["unheard://gone/labels.csv", "closed/data/labels.csv"])
def test_a_run_whose_data_cannot_be_reached_is_exported_all_the_same(
    data: str, own_run: RunDir, tmp_path: Path, as_owner: Callable[[], AbstractContextManager[None]]
) -> None:
    place = data if ":" in data else str(tmp_path / data)
    text = own_run.config.read_text(encoding="utf-8")
    text = re.sub(r'(?m)^data = ".*"$', f'data = "{place}"', text)
    own_run.config.write_text(text, encoding="utf-8")
    (tmp_path / "closed").mkdir(mode=0)
    with as_owner():
        assert run_images(own_run, "auto", 10) is None


def test_an_unknown_format_is_named(classifier_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(medlens.MedlensError, match="no such export format"):
        medlens.export(classifier_folder, format="coreml", out=tmp_path / "model")


def test_a_missing_package_is_named_by_what_brings_it() -> None:
    one = replace(FORMATS["litert"], packages={"json": "json", "no_such_module": "no-such-package"})
    assert missing_packages(one) == ["no-such-package"]
    assert missing_packages(FORMATS["litert"]) == []


def test_the_examples_in_the_docs_work(
    exported: dict[str, Exported],
    classifier_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    section = HOW_TO.read_text(encoding="utf-8").split("## Use it elsewhere")[1].split("\n## ")[0]
    first, *examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == len(FORMATS)
    monkeypatch.chdir(tmp_path)
    for one in exported.values():
        shutil.copytree(one.path.parent, tmp_path, dirs_exist_ok=True)
    drawn = np.random.default_rng(3).integers(0, 256, (60, 91, 3)).astype(np.uint8)
    Image.fromarray(drawn).save("scan.png")
    classifier = medlens.load(classifier_folder)
    (row,) = classifier.predict("scan.png").to_dict("records")
    for example in examples:
        names: dict[str, object] = {}
        exec(first + example, names)  # noqa: S102 -- what a reader would do
        found = np.asarray(names["probabilities"])[0]
        wanted = [row[f"prob_{name}"] for name in classifier.classes]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert classifier.classes[0] in capsys.readouterr().out
