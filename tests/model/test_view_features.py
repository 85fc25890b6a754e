"""Heads fitted on views: only where that is better, and never on a view of what they answer for."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.model.choice import Choice, choose_head
from medlens.model.fold_heads import FoldRows, add_views, fit_fold_inputs
from medlens.model.head import TrainingRows, train_head
from medlens.model.head_plan import HeadForm, HeadPlan, HeadSpace
from medlens.model.view_features import Views

COUNT, COLUMNS = 200, 20
LABELS = np.arange(COUNT) % 2
PLAN = HeadPlan(
    units=(),
    dropout=0.0,
    epochs=20,
    batch_size=32,
    learning_rate=3e-3,
    stop_at_accuracy=None,
    stop_on="val",
    patience=20,
    seed=0,
)
SPACE = HeadSpace(PLAN, {"all": None}, (HeadForm((16,), 0.0, 0.01),), folds=4)


def noise(rows: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, COLUMNS)).astype(np.float32)


def choose(features: NDArray[np.float32], views: Views) -> Choice:
    images = pd.DataFrame(
        {
            "path": [f"{number:03}.png" for number in range(COUNT)],
            "label": np.where(LABELS, "b", "a"),
            "group": np.arange(COUNT),
        }
    )
    rows = np.arange(160)
    return choose_head(features, images, LABELS, rows, 2, SPACE, lambda _: None, views=views)


def repeated(features: NDArray[np.float32], count: int = 3) -> tuple[NDArray, NDArray]:
    return np.repeat(features, count, axis=0), np.repeat(np.arange(len(features)), count)


def test_views_that_tell_more_are_used() -> None:
    # The class is the sign of one column; the views vary all the others, the images little.
    features = noise(COUNT, 0)
    features[:, 0] = (2.0 * LABELS - 1) * 0.7 + 0.5 * features[:, 0]
    more, owner = repeated(features, 6)
    more[:, 1:] = noise(len(more), 1)[:, 1:]
    choice = choose(features, Views(more, owner, "mri", 6))
    assert choice.plan.is_augmented
    assert list(choice.candidates["augmented"]) == [0, 1]
    losses = choice.candidates.set_index("augmented")["loss"]
    assert losses[1] < losses[0]
    assert f"{losses[1]:.4f} with 6 views" in choice.reasons["augmentation"]


def test_views_that_mislead_are_left_out() -> None:
    features = noise(COUNT, 0)
    features[:, 0] += 1.5 * LABELS
    more, owner = repeated(features)
    more[:, 0] = -more[:, 0]
    choice = choose(features, Views(more, owner, "mri", 3))
    assert not choice.plan.is_augmented
    assert "left out" in choice.reasons["augmentation"]


def test_a_view_of_an_image_held_out_is_never_fitted_on() -> None:
    # Images are noise; each one's views are exact copies: seen, they would give its label away.
    features = noise(COUNT, 0)
    views = Views(*repeated(features), "mri", 3)
    choice = choose(features, views)
    losses = choice.candidates["loss"]
    assert losses.min() > 0.6  # guessing has 0.69
    fold = np.arange(160) % 4 + 1
    folds = FoldRows(np.arange(160), fold)
    inputs = add_views(fit_fold_inputs(features, folds, None), views, folds)
    for number, (rows, owner) in enumerate(inputs.views, start=1):
        assert not set(owner) & set(folds.out(number))
        assert set(owner) == set(folds.fit(number))
        assert len(rows) == len(owner) == 3 * len(folds.fit(number))


def test_the_head_is_fitted_on_views_of_its_own_images_only() -> None:
    features = noise(COUNT, 0)
    views = Views(*repeated(features), "mri", 3)
    rows = TrainingRows(np.arange(0, 120), np.arange(120, 160))
    plan = HeadPlan(**{**vars(PLAN), "units": (16,), "is_augmented": True, "epochs": 60})
    training = train_head(features, LABELS, rows, 2, plan, lambda _: None, keep="last", views=views)
    right = training.head.logits(features).argmax(1) == LABELS
    assert right[rows.fit].mean() > 0.9  # it knows these by heart
    assert right[120:].mean() < 0.7  # and none of the others
