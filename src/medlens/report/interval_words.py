"""How the intervals of evaluation.json were computed, in the words of a paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medlens.report.run_facts import RunFacts

# How intervals are named in evaluation.json (by their first words) -> how a paper says it.
INTERVALS = {
    "Wilson": "for shares such as accuracy and sensitivity Wilson's score method, its sample size "
    "reduced by a design effect where images came in groups [@wilson, @raoscott]",
    "DeLong": "for ROC AUC DeLong's method on groups, on the logit scale [@delong, @obuchowski]",
    "Newcombe": "for ROC AUC where groups were few or ranked almost without error Newcombe's score "
    "method with groups as observations [@newcombe]",
    "mean of class": "for a mean over such classes the mean of their limits",
    "bootstrap": "for other measures a bootstrap over whole groups ({draws} draws), widened for "
    "few groups [@hesterberg]",
    "Dirichlet": "where a bootstrap of few mistakes says nothing draws from a Dirichlet posterior "
    "of the confusion matrix [@dirichlet]",
    "basic bootstrap": "for the expected calibration error a basic bootstrap over whole groups",
    "Wald": "for the calibration slope and intercept a jackknife over groups",
}


def interval_methods(facts: RunFacts) -> list[str]:
    """The methods behind the intervals of the result, calibration and operating point."""
    blocks = [facts.result]
    blocks += [facts.evaluation.get(name) or {} for name in ("calibration", "operating_point")]
    found = {name for block in blocks for name in _methods_in(block)}
    said = []
    for start, text in INTERVALS.items():
        if any(name.startswith(start) for name in found):
            said.append(text.replace("{draws}", f"{facts.evaluation['draws']:,}"))
    known = tuple(INTERVALS)
    return said + sorted(name for name in found if not name.startswith(known))


def _methods_in(block: Any) -> Iterator[str]:
    if isinstance(block, Mapping):
        if block.get("value") is not None and "ci95" in block and block.get("method"):
            yield str(block["method"])
        for value in block.values():
            yield from _methods_in(value)
    elif isinstance(block, list):
        for value in block:
            yield from _methods_in(value)
