"""The search: better heads are found, bad ones given up early, and the seed decides all."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from medlens.model.choice import choose_head
from medlens.model.head_plan import HeadForm, HeadPlan, HeadSpace
from medlens.model.search import Drawn, GiveUp, search_heads

START = ("all", HeadForm((256,), 0.5, 0.01))


def landscape(drawn: Drawn) -> float:
    """Lowest at one hidden layer of 64, dropout 0.2, decay 1, of the deep features."""
    name, form = drawn
    loss = 0.0 if name == "deep" else 0.3
    loss += 0.0 if form.units == (64,) else 0.2
    return loss + abs(form.dropout - 0.2) + 0.1 * abs(math.log10(form.weight_decay))


def run_search(count: int, seed: int = 0) -> list[tuple[Drawn, float, bool]]:
    found = []

    def measure(drawn: Drawn, give_up: GiveUp) -> tuple[float, bool]:
        for epoch in range(1, 28):
            if give_up(epoch, landscape(drawn) + 1 / epoch):
                found.append((drawn, landscape(drawn), True))
                return landscape(drawn) + 1 / epoch, True
        found.append((drawn, landscape(drawn), False))
        return landscape(drawn), False

    search_heads(["all", "deep"], {START: landscape(START)}, count, seed, measure)
    return found


def test_it_finds_better_heads_and_gives_bad_ones_up() -> None:
    found = run_search(60)
    assert len(found) == 60
    finished = [loss for _, loss, is_given_up in found if not is_given_up]
    given_up = [loss for _, loss, is_given_up in found if is_given_up]
    assert min(finished) < 0.5 * landscape(START)
    assert len(given_up) > 20
    assert np.median(given_up) > np.median(finished)
    # It learns: the later half is better than the first.
    losses = [loss for _, loss, _ in found]
    assert np.mean(losses[30:]) < np.mean(losses[:30])


def test_the_seed_decides_all() -> None:
    assert run_search(12, seed=1) == run_search(12, seed=1)
    assert run_search(12, seed=1) != run_search(12, seed=2)


@pytest.mark.parametrize("form", [HeadForm((7,), 0.5, 0.01), HeadForm((64,), 0.33, 0.01)])
def test_a_known_head_that_would_not_be_drawn_does_no_harm(form: HeadForm) -> None:
    tried = []

    def measure(drawn: Drawn, give_up: GiveUp) -> tuple[float, bool]:
        tried.append(drawn)
        return 1.0, give_up(1, 1.0)

    search_heads(["all"], {("all", form): 0.5}, 3, 0, measure)
    assert len(tried) == 3


def test_a_choice_with_a_search_takes_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    count = 240
    labels = np.arange(count) % 2
    features = random.normal(size=(count, 40)).astype(np.float32)
    features[:, :3] += 0.8 * labels[:, None]
    images = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(count)],
            "label": np.where(labels, "b", "a"),
            "group": np.arange(count),
        }
    )
    base = HeadPlan(
        units=(),
        dropout=0.0,
        epochs=12,
        batch_size=32,
        learning_rate=3e-3,
        stop_at_accuracy=None,
        stop_on="val",
        patience=12,
        seed=0,
    )
    space = HeadSpace(
        base=base,
        features={"all": None, "deep": (20, 40)},
        heads=(HeadForm((512,), 0.0, 1e-4),),
        folds=3,
        search=8,
    )
    done: list[int] = []
    rows = np.arange(200)
    choice = choose_head(features, images, labels, rows, 2, space, done.append)
    table = choice.candidates
    assert sum(done) == space.size == 10
    assert 2 < len(table) <= 10
    finished = table[table["given_up"] == 0]
    chosen = table[table["chosen"] == 1].iloc[0]
    assert chosen["loss"] == finished["loss"].min() <= table["loss"].iloc[0]
    assert "8 further heads were drawn by Optuna" in choice.reasons["search"]
    assert f"{chosen['loss']:.4f}" in choice.reasons["search"]
    assert choice.plan.units == tuple(
        int(one) for one in str(chosen["units"]).split() if one != "0"
    )
    # What a head given up reached counts as epochs trained, fewer than the others'.
    assert (table.loc[table["given_up"] == 1, "epochs"] < base.epochs).all()
