from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medlens.errors import MedlensError
from medlens.model.head import HeadPlan, Training, TrainingRows
from medlens.model.head import train_head as train_on_rows
from medlens.model.head_inputs import apply_inputs, fit_inputs

PLAN = HeadPlan(
    units=0,
    dropout=0.2,
    epochs=60,
    batch_size=32,
    learning_rate=1e-2,
    stop_at_accuracy=None,
    stop_on="val",
    patience=10,
    balanced=False,
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


@pytest.mark.parametrize("units", [0, 16])
def test_it_learns_and_its_logits_are_those_of_the_history(units: int) -> None:
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
    plan = replace(PLAN, epochs=500, patience=3, units=64, dropout=0.0)
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


def test_balanced_weights_raise_the_recall_of_a_rare_class() -> None:
    shares = (0.94, 0.03, 0.03)
    train, val = examples(800, 0, shares), examples(800, 1, shares)
    recalls = []
    for balanced in (False, True):
        plan = replace(PLAN, balanced=balanced, patience=60, epochs=30)
        head = train_head(train, val, 3, plan, quiet).head
        predicted = head.logits(val[0]).argmax(1)
        recalls.append(float((predicted[val[1] > 0] == val[1][val[1] > 0]).mean()))
    assert recalls[1] > recalls[0] + 0.1


def test_features_that_are_all_the_same_are_refused() -> None:
    same = np.ones((20, 4), np.float32)
    labels = np.arange(20) % 2
    with pytest.raises(MedlensError, match="No feature differs"):
        train_head((same, labels), (same, labels), 2, PLAN, quiet)


def test_a_compiled_head_starts_anew() -> None:
    train, val = examples(200, 0), examples(100, 1)
    plan = replace(PLAN, epochs=4, units=8, patience=9)
    first = train_head(train, val, 3, plan, quiet)
    features, labels = np.concatenate([train[0], val[0]]), np.concatenate([train[1], val[1]])
    rows = TrainingRows(np.arange(200), np.arange(200, 300))
    # Other images in between leave nothing behind in weights, optimizer or dropout.
    fewer = TrainingRows(np.arange(12), rows.stop)
    train_on_rows(features, labels, fewer, 3, plan, quiet, first.compiled)
    again = train_on_rows(features, labels, rows, 3, plan, quiet, first.compiled)
    fresh = train_on_rows(features, labels, rows, 3, plan, quiet)
    columns = ["loss", "accuracy", "val_loss", "val_accuracy"]
    np.testing.assert_allclose(again.history[columns], fresh.history[columns], rtol=1e-6)


def test_inputs_have_the_length_asked_for_and_fold_into_the_first_layer() -> None:
    features, _ = examples(300, 3)
    rows = np.arange(0, 300, 2)
    random = np.random.default_rng(0)
    for hidden, columns in ((False, 20), (True, 30)):
        inputs = fit_inputs(features, rows, hidden=hidden, columns=30)
        assert inputs.columns == columns
        values = apply_inputs(inputs, features, rows)
        length = 4.0 if hidden else 1.0
        assert np.sqrt(np.square(values).sum(1).mean()) == pytest.approx(length, rel=1e-3)
        np.testing.assert_allclose(values.mean(0), 0, atol=1e-4)
        kernel = random.normal(size=(columns, 4)).astype(np.float32)
        bias = random.normal(size=4).astype(np.float32)
        folded_kernel, folded_bias = inputs.fold(kernel, bias)
        np.testing.assert_allclose(
            features[rows] @ folded_kernel + folded_bias, values @ kernel + bias, atol=2e-3
        )


def test_the_components_are_those_of_largest_variance() -> None:
    random = np.random.default_rng(1)
    count, columns, hidden = 900, 700, 5
    directions = np.linalg.qr(random.normal(size=(columns, hidden)))[0]
    features = random.normal(size=(count, hidden)) * 40 @ directions.T
    features = (features + random.normal(size=(count, columns))).astype(np.float32)
    inputs = fit_inputs(features, np.arange(count), hidden=True)
    assert inputs.columns == 512
    centred = (features - features.mean(0)) / features.std(0)
    expected = np.linalg.svd(centred, full_matrices=False)[1][:hidden] ** 2
    found = np.square(apply_inputs(inputs, features, np.arange(count))).sum(0)[:hidden]
    np.testing.assert_allclose(found * columns / 16, expected, rtol=1e-3)
