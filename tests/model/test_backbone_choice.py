"""Several backbones: the one with the signal is taken, on train alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medlens.errors import MedlensError
from medlens.model.backbone_choice import Contender, choose_backbone
from medlens.model.head_plan import HeadForm, HeadPlan, HeadSpace

IMAGES = 240
BASE = HeadPlan(
    units=(),
    dropout=0.0,
    epochs=8,
    batch_size=64,
    learning_rate=1e-2,
    stop_at_accuracy=None,
    stop_on="val",
    patience=8,
    seed=0,
)
SPACE = HeadSpace(
    base=BASE,
    features={"last": None},
    heads=(HeadForm((), 0.0, 0.01),),
    class_weights=("none",),
    ensembles=(False,),
    folds=3,
)


def images() -> pd.DataFrame:
    numbers = np.arange(IMAGES)
    return pd.DataFrame(
        {
            "path": [f"{number}.png" for number in numbers],
            "label": np.where(numbers % 2, "b", "a"),
            "group": numbers // 2,
            "split": np.where(numbers < 160, "train", np.where(numbers < 200, "val", "test")),
        }
    )


def contender(strength: float, seed: int) -> Contender:
    features = np.random.default_rng(seed).normal(size=(IMAGES, 12)).astype(np.float32)
    features[:, 0] += strength * (np.arange(IMAGES) % 2)
    # What only the test set tells must not matter: there the weak one is perfect.
    if strength < 1:
        features[200:, 1] += 100 * (np.arange(200, IMAGES) % 2)
    return features, SPACE


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_better_features_win_whatever_their_place(order: tuple[int, int]) -> None:
    both = [contender(0.2, 1), contender(4.0, 2)]
    names = ["weak", "strong"]
    done: list[int] = []
    chosen = choose_backbone(
        [names[place] for place in order],
        lambda place: both[order[place]],
        images(),
        np.arange(IMAGES) % 2,
        2,
        0,
        done.append,
    )
    assert (chosen.name, chosen.place) == ("strong", order.index(1))
    assert "strong is better than weak in 100.0 %" in chosen.reason
    table = chosen.candidates
    assert list(table["backbone"]) == [names[place] for place in order]
    assert list(table.loc[table["chosen"] == 1, "backbone"]) == ["strong"]
    assert set(chosen.curves["backbone"]) == {"weak", "strong"}
    losses = table.set_index("backbone")["loss"]
    assert f"strong {losses['strong']:.4f}; weak {losses['weak']:.4f}" in chosen.reason
    assert sum(done) == 2


def test_too_few_groups_are_refused() -> None:
    table = images()
    table["group"] = 0
    with pytest.raises(MedlensError, match="cannot be compared"):
        choose_backbone(
            ["one", "two"],
            lambda place: contender(4.0, place),
            table,
            np.arange(IMAGES) % 2,
            2,
            0,
            lambda _: None,
        )
