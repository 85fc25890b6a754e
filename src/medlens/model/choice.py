"""Candidates for the head -> the one that says most of images it was not fitted on, and why.

All of it happens inside the images that heads are fitted on, in folds of whole groups. The images
that stop the training, those that calibrate and the test set take no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.data.roles import assign_folds
from medlens.model.fold_heads import (
    GIVEN_UP,
    FoldInputs,
    FoldRows,
    FoldTraining,
    add_views,
    adjust_logits,
    compile_fold_heads,
    fit_fold_inputs,
    train_fold_heads,
)
from medlens.model.head import CompiledHead, cross_entropy
from medlens.model.head_plan import HeadForm, HeadPlan, HeadSpace
from medlens.model.paired_bootstrap import BOOTSTRAP_DRAWS, SURE
from medlens.model.search import Drawn, GiveUp, search_heads
from medlens.model.view_features import Views

# Candidates are compared on at most so many images, drawn by group.
MOST_COMPARED = 6000


# By number of folds, inputs and classes, and form; all of one seed, batch size and learning rate.
CompiledHeads = dict[tuple[int, int, int, HeadForm], CompiledHead]


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Args:
        plan: Of the head.
        features: Name of its depth set.
        reasons: By what was chosen ("features", "head", "search", "class_weight"): why, in words.
        candidates: One row per candidate: candidate, features, units, dropout, weight_decay,
            class_weight, augmented, loss, accuracy, balanced_accuracy, best_epoch, epochs,
            given_up, chosen.
        curves: One row per candidate, epoch and fold.
        folds: The images it was compared on; None where nothing could be compared.
        winner: The winner's fold heads.
        unweighted: Those of the same head before class weighting was looked at.
    """

    plan: HeadPlan
    features: str
    reasons: Mapping[str, str] = field(default_factory=dict)
    candidates: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    folds: FoldRows | None = None
    winner: FoldTraining | None = None
    unweighted: FoldTraining | None = None


def choose_head(
    features: NDArray[np.float32],
    images: pd.DataFrame,
    labels: NDArray[np.int64],
    rows: NDArray[np.intp],
    num_classes: int,
    space: HeadSpace,
    progress: Callable[[int], None],
    compiled: CompiledHeads | None = None,
    *,
    is_forced: bool = False,
    views: Views | None = None,
) -> Choice:
    """Compare candidates by grouped cross-validation: depth sets first, then heads, then weights.

    The lowest mean cross-entropy over images that a head was not fitted on wins. Class weighting
    is judged by balanced accuracy, and must be surely better.

    Args:
        features: Of shape (images, columns).
        images: One row per feature row, with `path`, `label` and `group`.
        labels: Class numbers of shape (images,).
        rows: The images that may be used, in ascending order.
        num_classes: Number of classes.
        space: What may be chosen.
        progress: Called with 1 after every candidate.
        compiled: Networks compiled before, to be used again and added to.
        views: Of the images; whether to fit on them as well is then compared, too.
        is_forced: Whether to train the fold heads even where there is nothing to choose.

    Raises:
        MedlensError: If no feature varies, or a loss is not a number.
    """
    first = next(iter(space.features))
    unchosen = Choice(space.first, first)
    if not space.is_open and not is_forced and views is None:
        progress(1)
        return unchosen
    folds = divide_for_comparison(
        images, labels, rows, num_classes, count=space.folds, seed=space.base.seed
    )
    if folds is None:
        reason = "A class has too few groups to compare anything: the first of each kind is taken."
        return replace(
            unchosen, reasons=dict.fromkeys(("features", "head", "class_weight"), reason)
        )
    groups = images["group"].to_numpy()[folds.rows]
    trials = _Trials(features, labels, folds, num_classes, space, groups, progress, compiled, views)
    best = trials.best(
        [(name, space.heads[0], space.class_weights[0], False) for name in space.features]
    )
    reasons = {"features": trials.reason("features", list(space.features))}
    if not space.search:
        trials.forget_inputs(but=best[0])
    best = trials.best([(best[0], form, *best[2:]) for form in space.heads])
    reasons["head"] = trials.reason("head", [form.text for form in space.heads])
    if space.search:
        before = best
        best, reasons["search"] = trials.search(best)
        if best != before:
            words = "Before the search: "
            reasons = {k: v if k == "search" else words + v for k, v in reasons.items() if v}
    if views is not None:
        best, reasons["augmentation"] = trials.augment(best, views)
    unweighted = trials.done[best]
    best, reasons["class_weight"] = trials.weigh(best)
    return Choice(
        plan=space.plan(*best),
        features=best[0],
        reasons={what: reason for what, reason in reasons.items() if reason},
        candidates=trials.table(best),
        curves=pd.concat(trials.curves, ignore_index=True),
        folds=folds,
        winner=trials.done[best],
        unweighted=unweighted,
    )


def divide_for_comparison(
    images: pd.DataFrame,
    labels: NDArray[np.int64],
    rows: NDArray[np.intp],
    num_classes: int,
    *,
    count: int,
    seed: int,
    most: float = MOST_COMPARED,
) -> FoldRows | None:
    """Folds of whole groups, of at most so many images; None where a class has too few groups."""
    if len(rows) > most:
        groups = images["group"].to_numpy()[rows]
        order = np.random.default_rng(seed).permutation(np.unique(groups))
        sizes = pd.Series(groups).value_counts().reindex(order).cumsum()
        drawn = order[: max(1, int((sizes <= most).sum()))]
        rows = rows[np.isin(groups, drawn)]
    used = images.iloc[rows]
    count = min(count, int(used.groupby("label")["group"].nunique().min()))
    if count < 2 or used["label"].nunique() < num_classes:
        return None
    folds = FoldRows(rows, assign_folds(used, count=count, seed=seed))
    for number in range(1, count + 1):
        if len(np.unique(labels[folds.fit(number)])) < num_classes:
            return None
    return folds


# Depth set, form, class weighting, and whether it is also fitted on views.
Candidate = tuple[str, HeadForm, str, bool]


class _Trials:
    """The candidates tried so far."""

    def __init__(
        self,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        folds: FoldRows,
        num_classes: int,
        space: HeadSpace,
        groups: NDArray[Any],
        progress: Callable[[int], None],
        compiled: CompiledHeads | None,
        views: Views | None,
    ) -> None:
        self.features, self.labels, self.folds = features, labels, folds
        self.num_classes, self.space, self.progress = num_classes, space, progress
        self.groups = groups
        self.truth = labels[folds.rows]
        self.done: dict[Candidate, FoldTraining] = {}
        self.curves: list[pd.DataFrame] = []
        self.last: list[Candidate] = []
        self._inputs: dict[str, FoldInputs] = {}
        self._compiled: CompiledHeads = {} if compiled is None else compiled
        self._views = views

    def best(self, candidates: Sequence[Candidate]) -> Candidate:
        """The candidate with the lowest loss; the first of equals."""
        self.last = list(candidates)
        return min(candidates, key=self.loss)

    def loss(self, candidate: Candidate) -> float:
        """Mean cross-entropy over all images, each by the head that did not see it."""
        return float(cross_entropy(self.train(candidate).logits, self.truth).mean())

    def balanced_accuracy(self, candidate: Candidate) -> float:
        """Mean of the classes' recall over all images."""
        right = self.train(candidate).logits.argmax(1) == self.truth
        return float(np.mean([right[self.truth == k].mean() for k in range(self.num_classes)]))

    def train(self, candidate: Candidate, give_up: GiveUp | None = None) -> FoldTraining:
        """The candidate's fold heads; trained once."""
        if candidate not in self.done:
            trained = self._train(candidate, give_up)
            self.done[candidate] = trained
            self.curves.append(
                trained.history.drop(columns="seconds").assign(candidate=len(self.done))
            )
            self.progress(1)
        return self.done[candidate]

    def _train(self, candidate: Candidate, give_up: GiveUp | None) -> FoldTraining:
        name, form, class_weight, is_augmented = candidate
        if class_weight == "logit_adjusted":
            plain = self.train((name, form, "none", is_augmented))
            return adjust_logits(plain, self.labels, self.folds, self.num_classes)
        plan, inputs = self.space.plan(*candidate), self._inputs_of(name)
        if is_augmented and self._views is not None:
            inputs = add_views(inputs, self._views, self.folds)
        compiled = self._compile(inputs.columns, plan)
        return train_fold_heads(
            inputs,
            self.labels,
            self.folds,
            self.num_classes,
            plan,
            compiled,
            give_up=give_up,
        )

    def _compile(self, columns: int, plan: HeadPlan) -> CompiledHead:
        """The network of that form; those of the plan are kept, one that was drawn comes once."""
        key = (self.folds.count, columns, self.num_classes, plan.form)
        if key in self._compiled:
            return self._compiled[key]
        compiled = compile_fold_heads(self.folds.count, columns, self.num_classes, plan)
        if plan.form in self.space.heads:
            self._compiled[key] = compiled
        return compiled

    def _inputs_of(self, name: str) -> FoldInputs:
        if name not in self._inputs:
            within = self.space.features[name]
            self._inputs[name] = fit_fold_inputs(self.features, self.folds, within)
        return self._inputs[name]

    def forget_inputs(self, *, but: str) -> None:
        """Free the memory of the depth sets that lost."""
        self._inputs = {but: self._inputs_of(but)}

    def reason(self, kind: str, names: Sequence[str]) -> str:
        """Why the best of the candidates compared last won; "" where there was only one."""
        if len(self.last) == 1:
            return ""
        losses = [self.loss(candidate) for candidate in self.last]
        order = np.argsort(losses, kind="stable")
        said = "; ".join(f"{names[place]} {losses[place]:.4f}" for place in order)
        return (
            f"Lowest mean cross-entropy out of fold ({self.folds.count} folds of "
            f"{len(self.truth):,} images): {said}."
        )

    def augment(self, best: Candidate, views: Views) -> tuple[Candidate, str]:
        """Fit on views as well where the loss on images, never on views, is lower for it."""
        plain, augmented = self.loss(best), (*best[:3], True)
        text = (
            f"Cross-entropy out of fold, on the images themselves: {plain:.4f} without and "
            f"{self.loss(augmented):.4f} with {views.count} views of each image "
            f"({views.preset})."
        )
        if self.loss(augmented) < plain:
            return augmented, text + " The head is fitted on them as well."
        return best, text + " They are left out."

    def search(self, best: Candidate) -> tuple[Candidate, str]:
        """Try further heads at all depth sets; the best of all goes on."""
        rest = best[2:]
        before = self.loss(best)

        def measure(drawn: Drawn, give_up: GiveUp) -> tuple[float, bool]:
            candidate = (*drawn, *rest)
            if candidate in self.done:
                self.progress(1)
            trained = self.train(candidate, give_up)
            return self.loss(candidate), trained.stop_reason == GIVEN_UP

        known = {one[:2]: self.loss((*one[:2], *rest)) for one in self.done}
        search_heads(
            list(self.space.features), known, self.space.search, self.space.base.seed, measure
        )
        finished = [one for one, trained in self.done.items() if trained.stop_reason != GIVEN_UP]
        found = min(finished, key=self.loss)
        text = (
            f"{self.space.search:,} further heads were drawn by Optuna, "
            f"{len(self.done) - len(finished):,} of them given up early. Cross-entropy out of fold "
            f"before {before:.4f}, of the best {self.loss(found):.4f}"
        )
        if found == best:
            return best, text + ": none was better."
        return found, f"{text} ({found[0]}; {found[1].text}). The best of many looks too good."

    def weigh(self, best: Candidate) -> tuple[Candidate, str]:
        """Take class weighting where it surely raises the balanced accuracy."""
        first, *others = (
            (best[0], best[1], weight, best[3]) for weight in self.space.class_weights
        )
        if not others:
            return first, ""
        winner = max(others, key=self.balanced_accuracy)
        share = self._share_of_draws_better(winner, first)
        figures = ", ".join(
            f"{one[2]} {self.balanced_accuracy(one):.4f}" for one in (first, *others)
        )
        text = (
            f"Balanced accuracy out of fold: {figures}. {winner[2]} is better than {first[2]} in "
            f"{100 * share:.1f} % of {BOOTSTRAP_DRAWS:,} draws by group; {100 * SURE:g} % are asked"
        )
        if share >= SURE:
            return (
                winner,
                text + ": it is used. The probabilities then hold for classes of one size.",
            )
        return first, text + f": {first[2]} stays."

    def _share_of_draws_better(self, one: Candidate, other: Candidate) -> float:
        """Share of bootstrap draws of groups in which one has the higher balanced accuracy."""
        codes, names = pd.factorize(self.groups)
        gain = np.zeros((len(names), self.num_classes))
        size = np.zeros_like(gain)
        right = [self.train(two).logits.argmax(1) == self.truth for two in (one, other)]
        np.add.at(gain, (codes, self.truth), right[0].astype(float) - right[1])
        np.add.at(size, (codes, self.truth), 1.0)
        random = np.random.default_rng(self.space.base.seed)
        better = 0
        for _ in range(BOOTSTRAP_DRAWS):
            drawn = np.bincount(random.integers(len(names), size=len(names)), minlength=len(names))
            totals = drawn @ size
            better += float(((drawn @ gain) / np.maximum(totals, 1)).mean()) > 0
        return better / BOOTSTRAP_DRAWS

    def table(self, chosen: Candidate) -> pd.DataFrame:
        """One row per candidate."""
        rows = []
        for number, (candidate, trained) in enumerate(self.done.items(), start=1):
            name, form, class_weight, is_augmented = candidate
            rows.append(
                {
                    "candidate": number,
                    "features": name,
                    "units": " ".join(map(str, form.units)) or "0",
                    "dropout": form.dropout,
                    "weight_decay": form.weight_decay,
                    "class_weight": class_weight,
                    "augmented": int(is_augmented),
                    "loss": self.loss(candidate),
                    "accuracy": float((trained.logits.argmax(1) == self.truth).mean()),
                    "balanced_accuracy": self.balanced_accuracy(candidate),
                    "best_epoch": trained.best_epoch,
                    "epochs": int(trained.history["epoch"].max()),
                    "given_up": int(trained.stop_reason == GIVEN_UP),
                    "chosen": int(candidate == chosen),
                }
            )
        return pd.DataFrame(rows)
