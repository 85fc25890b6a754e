from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from medlens.errors import MedlensError
from medlens.model.head import Head, Training, TrainingRows, merge_heads
from medlens.model.head import train_head as train_on_rows
from medlens.model.head_inputs import apply_inputs, fit_inputs
from medlens.model.head_plan import HeadPlan

PLAN = HeadPlan(
    units=(),
    dropout=0.2,
    epochs=60,
    batch_size=32,
    learning_rate=1e-2,
    stop_at_accuracy=None,
    stop_on="val",
    patience=10,
    seed=0,
)


def examples(count: int, seed: int, shares: tuple[float, ...] = (0.4, 0.3, 0.3)) -> tuple:
    """Three classes that differ in five of twenty features, one of which is of a large scale."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, count, p=shares)
    features = random.normal(size=(count, 20))
    features[:, :5] += 1.5 * np.eye(5)[labels]
    features[:, 0] = 500 + 100 * features[:, 0]
    features[:, 19] = 7.0
    return features.astype(np.float32), labels.astype(np.int64)


def quiet(_: int) -> None:
    pass


def train_head(train, val, classes, plan, progress) -> Training:  # type: ignore[no-untyped-def]
    """Train on two sets that lie in one matrix, shuffled among each other."""
    count = len(train[1]) + len(val[1])
    places = np.random.default_rng(5).permutation(count)
    fit, stop = np.sort(places[: len(train[1])]), np.sort(places[len(train[1]) :])
    features = np.empty((count, train[0].shape[1]), np.float32)
    labels = np.empty(count, np.int64)
    features[fit], labels[fit] = train
    features[stop], labels[stop] = val
    return train_on_rows(features, labels, TrainingRows(fit, stop), classes, plan, progress)


@pytest.mark.parametrize("units", [(), (16,), (16, 8)])
def test_it_learns_and_its_logits_are_those_of_the_history(units: tuple[int, ...]) -> None:
    train, val = examples(600, 0), examples(300, 1)
    training = train_head(train, val, 3, replace(PLAN, units=units), quiet)
    accuracy = float((training.head.logits(val[0]).argmax(1) == val[1]).mean())
    best = training.history.set_index("epoch").loc[training.best_epoch]
    assert accuracy > 0.7
    # The folded weights are the network of the best epoch: the same validation accuracy.
    assert accuracy == pytest.approx(best["val_accuracy"], abs=1e-6)
    assert training.columns_kept == 19


def test_shuffled_labels_teach_nothing() -> None:
    train, val = examples(600, 0), examples(600, 1)
    shuffled = np.random.default_rng(2).permutation(train[1])
    training = train_head((train[0], shuffled), val, 3, PLAN, quiet)
    accuracy = float((training.head.logits(val[0]).argmax(1) == val[1]).mean())
    assert accuracy < 0.48


def test_it_stops_at_the_accuracy_asked_for_and_keeps_that_epoch() -> None:
    plan = replace(PLAN, stop_at_accuracy=0.6)
    training = train_head(examples(600, 0), examples(300, 1), 3, plan, quiet)
    assert training.stop_reason == "accuracy"
    assert training.best_epoch == len(training.history)
    assert training.history["val_accuracy"].iloc[-1] >= 0.6
    assert (training.history["val_accuracy"].iloc[:-1] < 0.6).all()


def test_it_can_watch_the_training_accuracy() -> None:
    plan = replace(PLAN, stop_at_accuracy=0.6, stop_on="train")
    training = train_head(examples(600, 0), examples(300, 1), 3, plan, quiet)
    assert training.stop_reason == "accuracy"
    assert (training.history["accuracy"].iloc[:-1] < 0.6).all()


def test_patience_ends_training_and_the_best_epoch_is_restored() -> None:
    plan = replace(PLAN, epochs=500, patience=3, units=(64,), dropout=0.0)
    training = train_head(examples(60, 0), examples(300, 1), 3, plan, quiet)
    assert training.stop_reason == "patience"
    assert training.best_epoch == len(training.history) - 3
    assert training.best_epoch == int(training.history["val_loss"].idxmin()) + 1


def test_the_most_epochs_end_training() -> None:
    done: list[int] = []
    training = train_head(examples(60, 0), examples(60, 1), 3, replace(PLAN, epochs=2), done.append)
    assert training.stop_reason == "epochs"
    assert len(training.history) == sum(done) == 2


def test_the_same_seed_gives_the_same_head_and_another_seed_another() -> None:
    train, val = examples(200, 0), examples(100, 1)
    plan = replace(PLAN, epochs=3)
    first, again = (train_head(train, val, 3, plan, quiet).head.layers[0][0] for _ in range(2))
    other = train_head(train, val, 3, replace(plan, seed=1), quiet).head.layers[0][0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("class_weight", ["balanced", "logit_adjusted"])
def test_weighting_raises_the_recall_of_a_rare_class(class_weight: str) -> None:
    shares = (0.94, 0.03, 0.03)
    train, val = examples(800, 0, shares), examples(800, 1, shares)
    recalls = []
    for one in ("none", class_weight):
        plan = replace(PLAN, class_weight=one, patience=60, epochs=30)
        head = train_head(train, val, 3, plan, quiet).head
        predicted = head.logits(val[0]).argmax(1)
        recalls.append(float((predicted[val[1] > 0] == val[1][val[1] > 0]).mean()))
    assert recalls[1] > recalls[0] + 0.1


def test_logit_adjustment_takes_the_logarithm_of_the_class_shares() -> None:
    train, val = examples(400, 0), examples(100, 1)
    plan = replace(PLAN, epochs=3)
    plain = train_head(train, val, 3, plan, quiet).head.logits(val[0])
    adjusted = train_head(
        train, val, 3, replace(plan, class_weight="logit_adjusted"), quiet
    ).head.logits(val[0])
    shares = np.bincount(train[1]) / len(train[1])
    np.testing.assert_allclose(plain - adjusted, np.tile(np.log(shares), (100, 1)), atol=1e-5)


@pytest.mark.parametrize("widths", [(), (7,), (7, 5), (7, 5, 3)])
def test_merged_heads_give_the_mean_of_their_logits(widths: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    sizes = [20, *widths, 3]

    def draw() -> Head:
        return Head(
            tuple(
                (
                    random.normal(size=(rows, columns)).astype(np.float32),
                    random.normal(size=columns).astype(np.float32),
                )
                for rows, columns in itertools.pairwise(sizes)
            )
        )

    heads = [draw() for _ in range(4)]
    features = examples(50, 2)[0]
    mean = np.mean([head.logits(features) for head in heads], axis=0)
    np.testing.assert_allclose(merge_heads(heads).logits(features), mean, rtol=1e-4, atol=1e-2)


def test_a_head_within_some_columns_ignores_all_others() -> None:
    train, val = examples(300, 0), examples(100, 1)
    plan = replace(PLAN, within=(2, 9), epochs=5)
    training = train_head(train, val, 3, plan, quiet)
    assert training.columns_kept == 7
    changed = val[0].copy()
    changed[:, :2] = changed[:, 9:] = -1234.0
    np.testing.assert_array_equal(training.head.logits(val[0]), training.head.logits(changed))


def test_features_that_are_all_the_same_are_refused() -> None:
    same = np.ones((20, 4), np.float32)
    labels = np.arange(20) % 2
    with pytest.raises(MedlensError, match="No feature differs"):
        train_head((same, labels), (same, labels), 2, PLAN, quiet)


def test_inputs_have_length_one_and_fold_into_the_first_layer() -> None:
    features, _ = examples(300, 3)
    rows = np.arange(0, 300, 2)
    random = np.random.default_rng(0)
    for length, within, columns in ((1.0, None, 30), (4.0, None, 30), (10.0, (3, 12), 9)):
        inputs = fit_inputs(features, rows, within=within, inputs=columns).longer(length)
        assert inputs.columns == columns
        values = apply_inputs(inputs, features, rows)
        assert np.sqrt(np.square(values).sum(1).mean()) == pytest.approx(length, rel=1e-3)
        np.testing.assert_allclose(values.mean(0), 0, atol=1e-4)
        kernel = random.normal(size=(columns, 4)).astype(np.float32)
        bias = random.normal(size=4).astype(np.float32)
        folded_kernel, folded_bias = inputs.fold(kernel, bias)
        np.testing.assert_allclose(
            features[rows] @ folded_kernel + folded_bias, values @ kernel + bias, atol=5e-3
        )


def test_the_components_are_those_of_largest_variance() -> None:
    random = np.random.default_rng(1)
    count, columns, hidden = 900, 700, 5
    directions = np.linalg.qr(random.normal(size=(columns, hidden)))[0]
    features = random.normal(size=(count, hidden)) * 40 @ directions.T
    features = (features + random.normal(size=(count, columns))).astype(np.float32)
    inputs = fit_inputs(features, np.arange(count))
    assert inputs.columns == 512
    centred = (features - features.mean(0)) / features.std(0)
    expected = np.linalg.svd(centred, full_matrices=False)[1][:hidden] ** 2
    found = np.square(apply_inputs(inputs, features, np.arange(count))).sum(0)[:hidden]
    np.testing.assert_allclose(found * columns, expected, rtol=1e-3)


def test_a_feature_that_hardly_any_image_has_cannot_drown_the_others() -> None:
    train, val = examples(600, 0), examples(300, 1)
    train[0][:, 18] = val[0][:, 18] = 0.0
    train[0][:2, 18] = 0.01
    plain = train_head(train, val, 3, PLAN, quiet)
    val[0][0, 18] = 10.0  # a thousand times what was ever seen
    strange = train_head(train, val, 3, PLAN, quiet)
    assert strange.columns_kept == plain.columns_kept == 18
    np.testing.assert_array_equal(plain.history["val_loss"], strange.history["val_loss"])
