"""Two tables of predictions of the same test set -> which run does better, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medlens.errors import MedlensError
from medlens.report.evaluation import as_arrays, evaluate, headline, headline_rows
from medlens.report.measures import Measure
from medlens.report.paired import Pair, differences
from medlens.report.paired_tests import delong_test, mcnemar_test

METRICS: Mapping[str, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc_macro": "ROC AUC",
    "log_loss": "log loss",
}


def compare_predictions(
    first: pd.DataFrame,
    second: pd.DataFrame,
    classes: Sequence[str],
    positive_class: str | None,
    *,
    seed: int,
    draws: int,
    second_classes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Compare two runs image by image on what both were tested on.

    Only test images count; of runs by cross-validation alone, the folds' test images. Images that
    either run has in one group are in one group here.

    Args:
        first: The table predictions.csv of one run.
        second: That of the other.
        classes: Class names of the first.
        positive_class: The class of interest. Of two classes, None means the second.
        seed: Of the bootstrap, 0 or more.
        draws: How many bootstrap draws, 100 at least.
        second_classes: Class names of the second; None for the same.

    Returns:
        tested ("test" or "out_of_fold"), n and groups; first, second and difference (second minus
        first), each with accuracy, balanced_accuracy, roc_auc_macro, log_loss and recall by class;
        mcnemar and delong; is_same: whether both say the same of every image.

    Raises:
        MedlensError: If the classes or the test sets differ, or a table is not one of predictions.
    """
    classes = [str(name) for name in classes]
    _check_classes(classes, second_classes)
    rows = [headline_rows(table) for table in (first, second)]
    _check_same_images(rows[0], rows[1])
    evaluations = [
        evaluate(own, classes=classes, positive_class=positive_class, seed=seed, draws=draws)
        for own in rows
    ]
    tested, named = headline(evaluations[0]), evaluations[0]["positive_class"]
    pair = _pair(rows[0], rows[1], classes)
    positive = classes.index(named) if len(classes) == 2 else None
    compared: dict[str, Any] = {
        "classes": classes,
        "positive_class": named,
        "seed": int(seed),
        "draws": int(draws),
        "tested": tested,
        "n": len(pair.first.truth),
        "groups": pair.first.group_count,
    }
    for name, evaluation in zip(("first", "second"), evaluations, strict=True):
        block = evaluation[headline(evaluation)]
        recalls = {one: numbers["recall"] for one, numbers in block["per_class"].items()}
        compared[name] = {**{metric: block[metric] for metric in METRICS}, "recall": recalls}
    found = differences(pair, classes, positive, seed=seed, draws=draws)
    compared["difference"] = {name: found[name] for name in (*METRICS, "recall")}
    compared["mcnemar"] = mcnemar_test(pair)
    compared["delong"] = delong_test(pair, classes, positive)
    names = [f"prob_{name}" for name in classes]
    before, after = (own.set_index("path").sort_index()[names].to_numpy() for own in rows)
    compared["is_same"] = bool(np.array_equal(before, after))
    return compared


def compare_lines(compared: Mapping[str, Any]) -> list[str]:
    """The comparison in plain sentences for the screen.

    Args:
        compared: From `compare_predictions`.
    """
    what = "test set" if compared["tested"] == "test" else "cross-validation"
    lines = [
        f"Both runs on the same {what}: {_count(compared['n'], 'image')}, "
        f"{_count(compared['groups'], 'group')}."
    ]
    if compared["is_same"]:
        return [*lines, "Both say exactly the same of every image: there is no difference."]
    values = compared["first"], compared["second"]
    for name, words in METRICS.items():
        own = [one[name]["value"] for one in values]
        line = _difference_line(words, own, compared["difference"][name], name == "log_loss")
        lines.append(line)
    for name in compared["classes"]:
        own = [one["recall"][name]["value"] for one in values]
        words = f"recall of \N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"
        lines.append(_difference_line(words, own, compared["difference"]["recall"][name], False))
    lines += [_mcnemar_line(compared["mcnemar"]), _delong_line(compared["delong"])]
    lines.append(
        "With many numbers compared, one may differ by chance: decide beforehand which one counts."
    )
    return lines


def _check_classes(classes: Sequence[str], second_classes: Sequence[str] | None) -> None:
    others = set(classes if second_classes is None else map(str, second_classes))
    if others == set(classes):
        return
    raise MedlensError(
        "The two runs have different classes.",
        got=f"{', '.join(classes)} in the first; {', '.join(sorted(others))} in the second",
        expected="the same classes in both",
        fix="Compare runs that were trained on the same classes.",
    )


def _check_same_images(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Refuse test sets that are not the same images with the same labels."""
    labels = []
    for rows, which in ((first, "first"), (second, "second")):
        paths = rows["path"].astype(str)
        repeated = sorted(set(paths[paths.duplicated()]))
        if rows.empty or repeated:
            raise MedlensError(
                f"The {which} run's test images cannot be paired.",
                got=f"{len(repeated)} images more than once" if repeated else "no test image",
                expected="each test image once",
                fix="Compare runs that were tested.",
                names=repeated[:20],
            )
        labels.append(pd.Series(rows["label"].astype(str).to_numpy(), index=paths.to_numpy()))
    shared = labels[0].index.intersection(labels[1].index, sort=False)
    only = [sorted(set(own.index) - set(shared)) for own in labels]
    relabelled = sorted(shared[(labels[0][shared] != labels[1][shared]).to_numpy()])
    differing = [*only[0], *only[1], *relabelled]
    if differing:
        raise MedlensError(
            "The two runs were not tested on the same images.",
            got=f"{len(differing):,} images differ: {len(only[0]):,} only in the first run's test "
            f"set, {len(only[1]):,} only in the second's, {len(relabelled):,} with another label "
            f"({len(shared):,} are in both)",
            expected="the same test images with the same labels",
            fix="Train both with the same --split file or the same data and --seed, then compare.",
            names=differing[:20],
        )


def _pair(first: pd.DataFrame, second: pd.DataFrame, classes: Sequence[str]) -> Pair:
    """Both tables by path, with the groups of both joined."""
    tables = [
        rows.assign(path=rows["path"].astype(str)).sort_values("path") for rows in (first, second)
    ]
    groups = _join_groups(*(table["group"].astype(str).to_numpy(str) for table in tables))
    splits = [as_arrays(table.assign(group=groups), classes) for table in tables]
    return Pair(splits[0], splits[1], np.stack([_folds(table) for table in tables]))


def _join_groups(first: NDArray[np.str_], second: NDArray[np.str_]) -> NDArray[np.int64]:
    """Numbers of the smallest groups that keep both groupings whole."""
    ends = [np.unique(own, return_inverse=True)[1] for own in (first, second)]
    count = int(ends[0].max()) + 1
    size = count + int(ends[1].max()) + 1
    links = coo_array((np.ones(len(first)), (ends[0], ends[1] + count)), shape=(size, size))
    joined = connected_components(links, directed=False)[1]
    return np.asarray(joined[ends[0]], dtype=np.int64)


def _folds(table: pd.DataFrame) -> NDArray[np.str_]:
    if "fold" not in table:
        return np.full(len(table), "")
    return table["fold"].astype(str).where(table["fold"].notna(), "").to_numpy(str)


def _difference_line(
    words: str, values: Sequence[float | None], difference: Measure, lower_is_better: bool
) -> str:
    if difference["value"] is None:
        return f"The difference of {words} is not available: {difference['reason']}."
    value, (low, high) = difference["value"], difference["ci95"]
    how = f"{_decimal(abs(value))} {'higher' if value > 0 else 'lower'}" if value else "the same"
    numbers = f"95 % interval of the difference {_decimal(low)} to {_decimal(high)}"
    if None not in values:
        numbers = f"{_decimal(values[1])} against {_decimal(values[0])}; {numbers}"
    verdict = "no clear difference"
    if low > 0 or high < 0:
        verdict = f"the {'second' if (value < 0) == lower_is_better else 'first'} does better"
    if lower_is_better:
        verdict += " (lower is better)"
    return f"The second run's {words} is {how} ({numbers}): {verdict}."


def _mcnemar_line(test: Mapping[str, Any]) -> str:
    line = (
        f"The first run alone is right on {_count(test['first_only_right'], 'image')}, the second "
        f"alone on {test['second_only_right']:,} (McNemar's exact test, {_p_text(test['p'])}"
    )
    if test["clustered"] is None:
        return f"{line})."
    return (
        f"{line}, which takes images as independent; with whole groups, "
        f"{_p_text(test['clustered']['p'])})."
    )


def _delong_line(test: Mapping[str, Any]) -> str:
    if test["p"] is None:
        return f"DeLong's test of the ROC AUC is not available: {test['reason']}."
    return f"ROC AUC: {_p_text(test['p'])} ({test['method']})."


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value + 0.0:.3f}".replace("-", "\N{MINUS SIGN}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
