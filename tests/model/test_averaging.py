"""Averaging over symmetric views: kept = saved = loaded, exact, and nothing is fitted on a view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from medlens.data.augmentation import PRESETS
from medlens.data.scan import PictureRule
from medlens.data.symmetries import mirror, read_symmetric, symmetric_keys
from medlens.model.averaging import Symmetric, average_logits, average_over_views
from medlens.model.backbone import BACKBONES
from medlens.model.calibration import probabilities
from medlens.model.classifier_forward import _Checked, classifier_forward, features_and_logits
from medlens.model.classifier_graph import build_classifier, features_layer
from medlens.model.cross_validation import cross_validate
from medlens.model.development import Development, develop
from medlens.model.engine import FrozenPass
from medlens.model.head import Head
from medlens.model.head_plan import HeadForm, HeadPlan, HeadSpace
from medlens.model.held_out import Choices
from medlens.model.operating_point import parse_rule
from medlens.model.symmetric_graph import views_of
from medlens.model.weights import Weights
from medlens.report.predictions import predict_all
from medlens.report.saliency import grad_cam, randomisation_check

SIZE, CLASSES = 32, 3
COUNTS = sorted({one.symmetries for one in PRESETS.values()})
PLAN = HeadPlan(
    units=(),
    dropout=0.0,
    epochs=8,
    batch_size=32,
    learning_rate=1e-2,
    stop_at_accuracy=None,
    stop_on="val",
    patience=8,
    seed=0,
)
CHOICES = Choices(positive=1, rule=parse_rule("youden"), prevalence=None, seed=0)


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)


def draw_head(columns: int) -> Head:
    generator = np.random.default_rng(0)
    layers = []
    for inputs, outputs in ((columns, 8), (8, CLASSES)):
        kernel = generator.normal(0, 0.3 / np.sqrt(inputs), (inputs, outputs)).astype(np.float32)
        layers.append((kernel, generator.normal(0, 1, outputs).astype(np.float32)))
    return Head(tuple(layers))


def frozen(name: str) -> FrozenPass:
    random = Weights("random", None, 0, "random")
    return FrozenPass(BACKBONES[name], random, PictureRule(SIZE, "pad"), "keras")


def facts_of(name: str) -> dict[str, Any]:
    backbone = BACKBONES[name]
    return {
        "backbone": name,
        "features": "all",
        "features_layer": features_layer(backbone, "all"),
        "image_size": SIZE,
    }


def gather(frozen_pass: FrozenPass, pictures: NDArray[np.uint8], count: int) -> Symmetric:
    """The features of all views, on the road that a run takes."""
    keys = symmetric_keys([str(number) for number in range(len(pictures))], count)
    read = read_symmetric(lambda wanted: pictures[[int(key) for key in wanted]])
    views = read(keys).astype(np.float32) if keys else np.empty((0, SIZE, SIZE, 3), np.float32)
    return Symmetric(np.asarray(frozen_pass.model(views)), "microscopy", count)


def test_the_eight_symmetries_are_a_group_of_eight_and_the_first_changes_nothing() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    views = [mirror(picture, number) for number in range(8)]
    found = {view.tobytes() for view in views}
    assert len(found) == 8
    np.testing.assert_array_equal(views[0], picture)
    np.testing.assert_array_equal(views[1], picture[:, ::-1])
    for view in views:
        assert {mirror(view, number).tobytes() for number in range(8)} == found
    together = mirror(np.stack([picture, views[3]]), 6)
    np.testing.assert_array_equal(together[1], mirror(views[3], 6))


def test_presets_allow_one_two_or_eight() -> None:
    assert COUNTS == [1, 2, 8]


@pytest.mark.parametrize(
    ("name", "count"), [*(("vgg16", count) for count in COUNTS), ("mobilenet_v2", 8)]
)
def test_kept_features_saved_network_and_prediction_say_the_same(
    name: str, count: int, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    frozen_pass = frozen(name)
    own = np.asarray(frozen_pass.model(pictures.astype(np.float32)))
    head = draw_head(own.shape[1])
    symmetric = None if count == 1 else gather(frozen_pass, pictures, count)
    logits = average_logits(head, own, np.arange(3), symmetric)
    kept = probabilities(logits, 2.0)
    model = build_classifier(frozen_pass, head, features="all", temperature=2.0, views=count)
    model.save(tmp_path / "classifier.keras")
    saved = keras.models.load_model(tmp_path / "classifier.keras", compile=False, safe_mode=True)
    assert not any(isinstance(layer, keras.Model) for layer in saved.layers)
    assert views_of(saved) == count
    np.testing.assert_allclose(saved.predict_on_batch(pictures), kept, atol=1e-5)
    forward = classifier_forward(saved, facts_of(name))
    assert isinstance(forward.run, _Checked) == (name == "vgg16")
    found = forward.run(pictures)
    # The features are those of the picture itself, so that it is as familiar as it was.
    scale = np.abs(own).max()
    np.testing.assert_allclose(found[:, :-CLASSES], own, atol=1e-4 * scale)
    np.testing.assert_allclose(found[:, -CLASSES:], logits, atol=1e-4 * np.abs(logits).max())
    if name == "vgg16":
        assert forward.run._run != forward.run._run_keras  # ncnn passed its check
    # Nothing is added inside the file's own graph, whose names may come up again.
    outer = features_and_logits(saved, facts_of(name)["features_layer"])
    assert any(isinstance(layer, keras.Model) for layer in outer.layers)


def test_a_turned_or_mirrored_picture_gets_the_same_probability(
    pictures: NDArray[np.uint8],
) -> None:
    frozen_pass = frozen("vgg16")
    head = draw_head(len(frozen_pass.backbone.columns))
    eight = build_classifier(frozen_pass, head, features="all", temperature=1.0, views=8)
    two = build_classifier(frozen_pass, head, features="all", temperature=1.0, views=2)
    said, by_two = eight.predict_on_batch(pictures), two.predict_on_batch(pictures)
    for number in range(8):
        again = eight.predict_on_batch(mirror(pictures, number))
        np.testing.assert_allclose(again, said, atol=1e-5)
    np.testing.assert_allclose(two.predict_on_batch(mirror(pictures, 1)), by_two, atol=1e-5)
    turned = two.predict_on_batch(mirror(pictures, 2))
    assert np.abs(turned - by_two).max() > 1e-4  # two symmetries hold no turn


def test_heat_maps_are_of_the_picture_itself(pictures: NDArray[np.uint8]) -> None:
    frozen_pass = frozen("vgg16")
    head = draw_head(len(frozen_pass.backbone.columns))
    models = [
        build_classifier(frozen_pass, head, features="all", temperature=1.0, views=views)
        for views in (8, 1)
    ]
    numbers = np.array([0, 1, 2])
    averaged, alone = (grad_cam(model, pictures, numbers) for model in models)
    np.testing.assert_allclose(averaged, alone, atol=1e-4)
    assert averaged.max() == 1
    checked = randomisation_check(models[0], pictures, numbers, draws=1)
    assert checked["head"] == pytest.approx(
        randomisation_check(models[1], pictures, numbers, draws=1)["head"], abs=1e-2
    )


def test_a_function_of_pictures_is_averaged_over_their_views(pictures: NDArray[np.uint8]) -> None:
    corner = average_over_views(lambda some: some[:, 0, 0].astype(float), pictures, 8)
    corners = pictures[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(float)
    np.testing.assert_allclose(corner, corners.mean(axis=1))


def draw_images(count: int = 320, views: int = 8) -> tuple[Any, ...]:
    """Images whose views tell more than they do: each has the class and noise of its own."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, count)
    features = random.normal(size=(count * views, 12))
    features[:, 0] += 1.2 * np.repeat(2 * labels - 1, views)
    seen = features.reshape(count, views, 12).astype(np.float32)
    images = pd.DataFrame(
        {
            "path": [f"{number:04}.png" for number in range(count)],
            "label": np.where(labels, "b", "a"),
            "patient": "",
            "group": np.arange(count),
            "split": np.array(["train", "train", "val", "test"])[np.arange(count) % 4],
        }
    )
    symmetric = Symmetric(seen[:, 1:].reshape(-1, 12), "microscopy", views)
    return np.ascontiguousarray(seen[:, 0]), images, labels.astype(np.int64), symmetric


def develop_on(
    features: Any, images: Any, labels: Any, symmetric: Symmetric | None, space: HeadSpace
) -> Development:
    return develop(features, images, labels, 2, space, CHOICES, lambda _: None, symmetric=symmetric)


SPACES = {
    "one head": HeadSpace.only(PLAN),
    "fold heads": HeadSpace(
        PLAN, {"all": None}, (HeadForm((), 0.0, 0.01), HeadForm((8,), 0.0, 0.01)), folds=4
    ),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
def test_what_is_chosen_is_chosen_on_averaged_logits(space: HeadSpace) -> None:
    features, images, labels, symmetric = draw_images()
    plain = develop_on(features, images, labels, None, space)
    averaged = develop_on(features, images, labels, symmetric, space)
    assert plain.averaged is None
    # The same heads, fitted on pictures as they are.
    for one, other in zip(
        plain.choice.winner.heads if plain.choice.winner else (plain.training.head,),
        averaged.choice.winner.heads if averaged.choice.winner else (averaged.training.head,),
        strict=True,
    ):
        for before, after in zip(one.layers, other.layers, strict=True):
            np.testing.assert_array_equal(before[0], after[0])
    held_out = averaged.held_out
    np.testing.assert_array_equal(held_out.without, plain.held_out.logits)
    np.testing.assert_array_equal(held_out.distances, plain.held_out.distances)
    found = averaged.averaged
    assert found is not None
    assert found.count == 8
    assert found.images == len(held_out.rows)
    truth = labels[held_out.rows]
    assert found.accuracy == (held_out.logits.argmax(1) == truth).mean()
    assert found.accuracy_without == (held_out.without.argmax(1) == truth).mean()
    assert found.accuracy > found.accuracy_without + 0.02
    assert found.loss < found.loss_without
    assert f"{found.loss:.4f}" in found.text
    said = predict_all(features, images, averaged, [], ["a", "b"], "b", symmetric)
    wanted = average_logits(averaged.training.head, features, np.arange(len(features)), symmetric)
    np.testing.assert_allclose(said[["logit_a", "logit_b"]], wanted)
    assert averaged.temperature != plain.temperature


def test_no_view_of_val_or_test_is_fitted_on_and_test_changes_nothing() -> None:
    features, images, labels, symmetric = draw_images()
    space = SPACES["one head"]
    before = develop_on(features, images, labels, symmetric, space)
    changed = symmetric.features.copy().reshape(len(images), 7, 12)
    changed[(images["split"] == "test").to_numpy()] = 99.0
    other = Symmetric(changed.reshape(-1, 12), "microscopy", 8)
    after = develop_on(features, images, labels, other, space)
    assert after.temperature == before.temperature
    assert after.operating_point == before.operating_point
    assert after.set_thresholds == before.set_thresholds
    assert after.averaged == before.averaged
    for one, two in zip(before.training.head.layers, after.training.head.layers, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
    # Views that give the label away would be found out by a head that was fitted on them.
    telling = symmetric.features.copy().reshape(len(images), 7, 12)
    telling[..., 11] = 50.0 * (2 * labels - 1)[:, None]
    told = Symmetric(telling.reshape(-1, 12), "microscopy", 8)
    once_more = develop_on(features, images, labels, told, space)
    for one, two in zip(before.training.head.layers, once_more.training.head.layers, strict=True):
        np.testing.assert_array_equal(one[0], two[0])


def test_every_fold_of_cross_validation_averages() -> None:
    features, images, labels, symmetric = draw_images()
    given = (features, images, labels, 2, SPACES["one head"], CHOICES, 2, (0.7, 0.15, 0.15))
    folds = cross_validate(*given, lambda _: None, symmetric=symmetric)
    assert all(fold.development.averaged is not None for fold in folds)
    development = develop_on(features, images, labels, symmetric, SPACES["one head"])
    said = predict_all(features, images, development, folds, ["a", "b"], "b", symmetric)
    for fold in folds:
        rows = said[said["fold"] == str(fold.number)]
        head = fold.development.training.head
        wanted = average_logits(head, features, fold.rows, symmetric)
        np.testing.assert_allclose(rows[["logit_a", "logit_b"]], wanted)
