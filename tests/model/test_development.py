from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medlens.errors import MedlensError
from medlens.model.calibration import fit_temperature
from medlens.model.cross_validation import cross_validate
from medlens.model.development import Development, develop, refit_on_all
from medlens.model.head_plan import HeadForm, HeadPlan, HeadSpace
from medlens.model.held_out import Choices
from medlens.model.operating_point import parse_rule

PLAN = HeadPlan(
    units=(),
    dropout=0.2,
    epochs=20,
    batch_size=32,
    learning_rate=1e-2,
    stop_at_accuracy=None,
    stop_on="val",
    patience=5,
    seed=0,
)
ONLY = HeadSpace.only(PLAN)
CHOICES = Choices(positive=1, rule=parse_rule("sensitivity=0.9"), prevalence=None, seed=0)


def quiet(_: int) -> None:
    pass


def draw(patients: int, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Two images a patient, 30 % ill, eight of twenty features tell; split by patient."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 2)
    labels = (random.random(patients) < 0.3).astype(np.int64)[patient]
    own = random.normal(size=(patients, 20))[patient]
    features = random.normal(size=(len(patient), 20)) + 0.7 * own
    features[:, :8] += 0.8 * labels[:, None]
    split = np.array(["train", "train", "val", "test"])[patient % 4]
    images = pd.DataFrame(
        {
            "path": [f"{number:05d}.png" for number in range(len(patient))],
            "label": np.array(["well", "ill"])[1 - labels],
            "group": patient,
            "split": split,
        }
    )
    return features.astype(np.float32), images, labels


def run(patients: int, change_test: bool = False) -> tuple[Development, pd.DataFrame, np.ndarray]:
    features, images, labels = draw(patients)
    if change_test:
        tested = (images["split"] == "test").to_numpy()
        features[tested], labels[tested] = 99.0, 1 - labels[tested]
    return (
        develop(features, images, labels, 2, ONLY, CHOICES, quiet),
        images,
        labels,
    )


def test_a_large_val_is_halved_and_no_group_decides_twice() -> None:
    development, images, labels = run(2000)
    assert development.fitted_on == "val"
    roles = development.roles
    assert roles[roles != ""].groupby(images["group"]).nunique().max() == 1
    assert set(roles[images["split"] == "test"]) == {""}
    rows = development.held_out.rows
    assert set(roles.iloc[rows]) == {"calibrate"}
    np.testing.assert_allclose(
        development.temperature, fit_temperature(development.held_out.logits, labels[rows])
    )


def test_a_small_val_leaves_the_choices_to_train_out_of_fold() -> None:
    development, images, _ = run(300)
    assert development.fitted_on == "out_of_fold"
    held_out = development.held_out
    assert (images["split"].iloc[held_out.rows] == "train").all()
    folds = pd.Series(held_out.fold).groupby(images["group"].to_numpy()[held_out.rows])
    assert folds.nunique().max() == 1
    assert set(held_out.fold) == {1, 2, 3, 4, 5}


def test_out_of_fold_predictions_of_pure_noise_are_no_better_than_chance() -> None:
    features, images, labels = draw(300)
    noise = np.random.default_rng(9).normal(size=(len(features), 400)).astype(np.float32)
    plan = HeadPlan(**{**PLAN.__dict__, "epochs": 40, "patience": 40})
    development = develop(noise, images, labels, 2, HeadSpace.only(plan), CHOICES, quiet)
    held_out = development.out_of_fold
    assert held_out is not None
    truth = labels[held_out.rows]
    fitted = development.training.head.logits(noise[held_out.rows]).argmax(1)
    assert (fitted == truth).mean() > 0.85  # the head knows its own images by heart
    said = held_out.logits[:, 1] - held_out.logits[:, 0]
    ranks = said.argsort().argsort()
    ill, well = ranks[truth == 1], ranks[truth == 0]
    area = (ill[:, None] > well[None]).mean()
    assert 0.38 < area < 0.62  # and says nothing of those it did not see


def test_the_test_set_changes_nothing_that_is_chosen() -> None:
    before, after = run(300)[0], run(300, change_test=True)[0]
    assert before.temperature == after.temperature
    assert before.operating_point == after.operating_point
    assert before.set_thresholds == after.set_thresholds
    assert before.limit == after.limit
    for one, other in zip(before.training.head.layers, after.training.head.layers, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_the_operating_point_reaches_its_rule_where_it_was_chosen() -> None:
    development, _, _labels = run(2000)
    point = development.operating_point
    assert point is not None
    assert point.recall >= 0.9
    assert point.rule == "sensitivity=0.9"


def test_each_group_is_tested_in_one_fold_by_a_head_that_never_saw_it() -> None:
    features, images, labels = draw(120)
    folds = cross_validate(features, images, labels, 2, ONLY, CHOICES, 3, (0.7, 0.15, 0.15), quiet)
    developing = np.flatnonzero(images["split"] != "test")
    tested = np.concatenate([fold.rows for fold in folds])
    np.testing.assert_array_equal(np.sort(tested), developing)
    for fold in folds:
        out = set(images["group"].iloc[fold.rows])
        used = fold.development.roles[fold.development.roles != ""].index
        assert not out & set(images["group"].loc[used])
        assert not set(images.index[images["split"] == "test"]) & set(used)
        assert not out & set(images["group"].iloc[fold.development.held_out.rows])


def test_the_head_that_is_saved_after_cross_validation_knows_all_development_images() -> None:
    features, images, labels = draw(80)
    development = develop(features, images, labels, 2, ONLY, CHOICES, quiet)
    refitted = refit_on_all(features, images, labels, 2, development)
    assert refitted.temperature == development.temperature
    assert refitted.operating_point == development.operating_point

    def loss(one: Development, split: str) -> float:
        rows = (images["split"] == split).to_numpy()
        logits = one.training.head.logits(features[rows])
        of_truth = logits[np.arange(len(logits)), labels[rows]]
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - of_truth))

    # What was val is fitted on now; what is test is not.
    assert loss(refitted, "val") < 0.8 * loss(development, "val")
    changed = features.copy()
    changed[images["split"] == "test"] = 99.0
    again = refit_on_all(changed, images, labels, 2, development)
    np.testing.assert_array_equal(
        again.training.head.layers[0][0], refitted.training.head.layers[0][0]
    )


def test_too_few_groups_for_the_folds_are_refused() -> None:
    features, images, labels = draw(24)
    with pytest.raises(MedlensError, match="too few groups for 10 folds"):
        cross_validate(features, images, labels, 2, ONLY, CHOICES, 10, (0.7, 0.15, 0.15), quiet)


FORMS = (HeadForm((8,), 0.2, 1e-2), HeadForm((), 0.0, 1e-2))
SPACE = HeadSpace(
    PLAN, {"all": None, "last": (15, 20)}, FORMS, ("none", "balanced", "logit_adjusted"), (True,)
)


def test_the_mean_of_the_fold_heads_takes_the_place_of_the_one_head() -> None:
    features, images, labels = draw(300)
    development = develop(features, images, labels, 2, SPACE, CHOICES, quiet)
    choice = development.choice
    assert development.ensemble is not None
    assert development.ensemble.is_used
    assert choice.winner is not None
    mean = np.mean([head.logits(features) for head in choice.winner.heads], axis=0)
    np.testing.assert_allclose(development.training.head.logits(features), mean, atol=1e-3)
    assert set(development.training.history["fold"]) == {1, 2, 3, 4, 5}
    # Out of fold, every image is still judged by the one head that never saw it.
    held_out = development.out_of_fold
    assert held_out is not None
    for number in (1, 5):
        own = held_out.fold == number
        head = choice.winner.heads[number - 1]
        np.testing.assert_allclose(
            held_out.logits[own], head.logits(features[held_out.rows[own]]), atol=1e-3
        )


def test_the_ensemble_is_used_only_where_its_loss_on_the_stopping_images_is_lower() -> None:
    features, images, labels = draw(300)
    space = HeadSpace(PLAN, {"all": None}, FORMS[:1], ("none",), (False, True))
    development = develop(features, images, labels, 2, space, CHOICES, quiet)
    ensemble = development.ensemble
    assert ensemble is not None
    assert ensemble.is_used == (ensemble.loss < ensemble.loss_of_one)
    assert ("fold" in development.training.history) == ensemble.is_used


def test_choosing_never_looks_at_test_or_at_what_stops_the_training() -> None:
    features, images, labels = draw(300)
    before = develop(features, images, labels, 2, SPACE, CHOICES, quiet).choice
    others = (images["split"] != "train").to_numpy()
    features[others], labels[others] = 99.0, 1 - labels[others]
    after = develop(features, images, labels, 2, SPACE, CHOICES, quiet).choice
    pd.testing.assert_frame_equal(before.candidates, after.candidates)


def test_a_refitted_ensemble_knows_all_development_images() -> None:
    features, images, labels = draw(80)
    development = develop(features, images, labels, 2, SPACE, CHOICES, quiet)
    refitted = refit_on_all(features, images, labels, 2, development)
    kernel, before = (one.training.head.layers[0][0] for one in (refitted, development))
    assert kernel.shape == before.shape
    assert not np.array_equal(kernel, before)
    changed = features.copy()
    changed[images["split"] == "test"] = 99.0
    again = refit_on_all(changed, images, labels, 2, development)
    np.testing.assert_array_equal(again.training.head.layers[0][0], kernel)
