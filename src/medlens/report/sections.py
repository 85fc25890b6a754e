"""The evidence of evaluation.json as sections of the report: words, tables, figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medlens.report.evaluation import headline
from medlens.report.wording import Number, per_cent, show_number

Cell = str | Number
MOST_PAIRS = 6
# File names shown of label suspects; all are in label_suspects.csv.
MOST_SUSPECTS = 20


@dataclass(frozen=True)
class Table:
    """A table of a section.

    Args:
        label: What it shows, for those who cannot see it.
        head: Names of the columns; the first is that of the row names.
        rows: The name of each row, then its cells.
        is_folded: Whether it is shown only when asked for: a figure says the same.
    """

    label: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    is_folded: bool = False


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Args:
        id: Its anchor.
        title: Its heading.
        text: Paragraphs.
        tables: Its tables.
        figures: Names of figures, each with its caption; one that was not drawn is not shown.
        pictures: Each as a data: URI, with its caption.
        files: Names of image files to look at, each with what is said of it.
    """

    id: str
    title: str
    text: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()


def list_sections(
    evaluation: Mapping[str, Any],
    *,
    pictures: Sequence[tuple[str, str]] = (),
    suspects: Sequence[Mapping[str, Any]] = (),
    external: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Section]:
    """One section for each block that is there, in the order of the report.

    Args:
        evaluation: The content of evaluation.json.
        pictures: The heat maps, each as a data: URI with its caption.
        suspects: The rows of label_suspects.csv.
        external: evaluation.json of each external test, by its name.
    """
    makers: dict[str, Callable[[Any], Section]] = {
        "calibration": _calibration,
        "operating_point": _operating_point,
        "prediction_sets": _prediction_sets,
        "unfamiliar": _unfamiliar,
        "subgroups": _subgroups,
        "baselines": _probes,
    }
    found = [make(evaluation[name]) for name, make in makers.items() if name in evaluation]
    found.append(replace(_failures(evaluation), pictures=tuple(pictures)))
    if evaluation.get("label_suspects"):
        found.append(_label_suspects(evaluation["label_suspects"], suspects))
    if evaluation.get("robustness"):
        found.append(_robustness(evaluation["robustness"]))
    if external:
        found.append(_external(evaluation, external))
    return found


def picture_caption(image: Mapping[str, Any]) -> str:
    """What is said under a heat map."""
    return (
        f"{image['why'].capitalize()}: labelled {image['label']}, predicted {image['predicted']} "
        f"with a probability of {_probability(image['probability'])}."
    )


def _calibration(block: Mapping[str, Any]) -> Section:
    names = {
        "brier": "Brier score (0 is best)",
        "ece": "Expected calibration error (0 is best)",
        "log_loss": "Log loss (0 is best)",
        "slope": "Calibration slope (1 is best; below 1: too sure)",
        "intercept": "Calibration in the large (0 is best)",
    }
    rows = tuple(
        (label, show_number(name, block["before"][name]), show_number(name, block["after"][name]))
        for name, label in names.items()
    )
    said = (
        f"Logits are divided by a temperature of {block['temperature']:.3f} before the softmax, to "
        f"bring probabilities closer to what they say. {block['text']} Whether that helped is "
        "measured on the images tested."
    )
    bins = tuple(
        (
            f"{_probability(one['low'])} to {_probability(one['high'])}",
            f"{one['n']:,}",
            _probability(one["mean_probability"]),
            show_number("share", one["share"]),
        )
        for one in block["reliability"]["after"]
    )
    head = ("Probability", "Images", "Mean probability", "Share observed")
    tables = [
        Table("Calibration before and after the temperature", ("Metric", "Before", "After"), rows)
    ]
    if bins:
        tables.append(Table("Reliability after the temperature", head, bins, is_folded=True))
    caption = (
        "Share of right answers (of two classes: of the positive class) among images of about the "
        "same probability. On the diagonal a probability means what it says; bars are 95 % "
        "intervals."
    )
    figures = (("reliability", caption),)
    return Section("calibration", "Calibration", (said,), tuple(tables), figures)


def _probability(value: float) -> str:
    """A probability; never 0 or 1 by rounding alone."""
    for digits in (3, 4, 6):
        if f"{value:.{digits}f}" not in (f"{0:.{digits}f}", f"{1:.{digits}f}") or value in (0, 1):
            return f"{value:.{digits}f}"
    return "close to 0" if value < 0.5 else "close to 1"


def _operating_point(block: Mapping[str, Any]) -> Section:
    title = "Operating point"
    decision = (
        "decision_curve",
        "Net benefit of acting on the answer, against the probability from which one would act; "
        "beside acting on every image and on none. The answer is useful where its line is highest.",
    )
    if block["threshold"] is None:
        said = f"The answer is the most probable class; no threshold was chosen: {block['reason']}."
        return Section("operating-point", title, (said,), figures=(decision,))
    test, chosen = block["test"], block["development"]
    said = (
        f"An image is called {block['class']} from a probability of {block['threshold']:.3f} on "
        f"(rule: {block['rule']}). {block['text']} There the sensitivity was "
        f"{per_cent(chosen['recall'])} and the specificity {per_cent(chosen['specificity'])}; what "
        "counts is what the images tested show."
    )
    names = {
        "recall": "Sensitivity",
        "specificity": "Specificity",
        "precision": "Positive predictive value",
        "npv": "Negative predictive value",
        "accuracy": "Accuracy",
    }
    rows = [(label, show_number(name, test[name])) for name, label in names.items()]
    if block["at_prevalence"]:
        share = per_cent(block["at_prevalence"]["prevalence"])
        for name in ("precision", "npv"):
            label = f"{names[name]}, where {share} of the images are positive"
            rows.append((label, show_number(name, block["at_prevalence"][name])))
    table = Table("At the operating point", ("At the operating point", "Value"), tuple(rows))
    confusion = (
        "operating_point",
        "The images tested by label (rows) and answer at the operating point (columns).",
    )
    return Section("operating-point", title, (said,), (table,), (confusion, decision))


def _prediction_sets(block: Mapping[str, Any]) -> Section:
    rows = tuple(
        (
            f"{100 * float(level):g} %",
            show_number("share", one["coverage"]),
            show_number("share", one["one_class"]),
            f"{one['mean_size']:.2f}",
            ", ".join(
                f"{count:,} with {size} {'class' if size == '1' else 'classes'}"
                for size, count in one["sizes"].items()
                if count
            ),
        )
        for level, one in block["levels"].items()
    )
    said = (
        "In place of one answer, all classes that cannot be ruled out. An image whose set has more "
        f"than one class is one to hand to a person. {block['method']} {block['text']}",
        block["class_balance_shift"]["text"],
    )
    head = (
        "Promised",
        "Coverage of the images tested",
        "Sets of one class",
        "Mean size",
        "Sets by size",
    )
    caption = (
        "Accuracy if only the share of images with the highest probabilities is answered and the "
        "rest is left to a person, with its 95 % interval."
    )
    return Section(
        "prediction-sets",
        "Prediction sets and abstention",
        said,
        (Table("Prediction sets", head, rows),),
        (("abstention", caption),),
    )


def _unfamiliar(block: Mapping[str, Any]) -> Section:
    said = (
        f"An image unlike the training images is flagged. {block['method']} {block['text']} The "
        "images tested come from the same data set, so that each flag among them is a false alarm.",
    )
    rows = (("False alarms", show_number("share", block["test_false_alarms"])),)
    table = Table("Unfamiliar images", ("Images tested", "Share"), rows)
    return Section("unfamiliar", "Unfamiliar images", said, (table,))


def _subgroups(blocks: Sequence[Mapping[str, Any]]) -> Section:
    if not blocks:
        none = (
            "There are none: the data set brings no column of metadata (such as sex, age or "
            "hospital) in which two levels at least have enough images and groups. Whether the "
            "classifier does worse for some people or devices is not known."
        )
        return Section("subgroups", "Subgroups", (none,))
    said = tuple(_say_heterogeneity(block) for block in blocks)
    rows = tuple(
        (
            f"{block['column']}: {level['level']}",
            f"{level['n']:,}",
            f"{level['groups']:,}",
            "ROC AUC" if block["metric"] == "roc_auc_macro" else "accuracy",
            show_number(block["metric"], level["value"]),
        )
        for block in blocks
        for level in block["levels"]
    )
    head = ("Subgroup", "Images", "Groups", "Metric", "Value")
    caption = "The result in each subgroup with its 95 % interval; the upright line is the whole."
    return Section(
        "subgroups",
        "Subgroups",
        said,
        (Table("Subgroups", head, rows),),
        (("subgroups", caption),),
    )


def _say_heterogeneity(block: Mapping[str, Any]) -> str:
    test, column = block["heterogeneity"], block["column"]
    if test["p"] is None:
        return f"{column}: whether its levels differ cannot be tested: {test['reason']}."
    p = "below 0.001" if test["p"] < 0.001 else f"{test['p']:.3f}"
    verdict = "the levels differ" if test["p"] < 0.05 else "no difference is shown"
    return f"{column}: {verdict} (p {'' if p.startswith('b') else '= '}{p}; {test['method']})."


def _probes(block: Mapping[str, Any]) -> Section:
    title = "Shortcut probes"
    what = (
        "Small decision trees that never see the picture: one knows only facts of the file, one "
        "only the brightness of the picture and its border. What they can tell, the classifier may "
        "have told in the same way."
    )
    if not block["probes"]:
        none = "They could not be tried: there are too few images to train and test them."
        return Section("probes", title, (what, none))
    rows = tuple(
        (
            probe["name"].capitalize(),
            show_number("roc_auc_macro", probe["roc_auc_macro"]),
            show_number("roc_auc_macro", probe["difference"]),
        )
        for probe in block["probes"]
    )
    said = tuple(f"{probe['name'].capitalize()}: {probe['text']}" for probe in block["probes"])
    head = ("The tree knows only", "Its ROC AUC", "Classifier minus tree")
    return Section("probes", title, (what, *said), (Table(title, head, rows),))


def _failures(evaluation: Mapping[str, Any]) -> Section:
    result, classes = evaluation[headline(evaluation)], evaluation["classes"]
    matrix = result["confusion_matrix"]
    pairs = [
        (matrix[row][column], sum(matrix[row]), classes[row], classes[column])
        for row in range(len(classes))
        for column in range(len(classes))
        if row != column and matrix[row][column]
    ]
    pairs = sorted(pairs, key=lambda pair: (-pair[0], pair[2], pair[3]))
    wrong = sum(pair[0] for pair in pairs)
    said = [f"Of {result['n']:,} images tested, {wrong:,} were put into a wrong class."]
    saliency = evaluation.get("saliency")
    if saliency:
        said.append(f"{saliency['method']} {saliency['text']}")
        if headline(evaluation) == "out_of_fold":
            said.append(
                "The answers are those of the folds; the maps are those of the classifier that is "
                "saved."
            )
    head = ("Labelled", "Predicted", "Images", "Share of the label's images")
    rows = tuple(
        (label, predicted, f"{count:,}", per_cent(count / total))
        for count, total, label, predicted in pairs[:MOST_PAIRS]
    )
    tables = (Table("The most confused pairs of classes", head, rows),) if rows else ()
    return Section("failures", "Failures", tuple(said), tables)


def _label_suspects(block: Mapping[str, Any], suspects: Sequence[Mapping[str, Any]]) -> Section:
    title = "Labels to look at again"
    if block["n"] is None:
        return Section("label-suspects", title, (f"Not looked for: {block['reason']}.",))
    more = " All are listed in label_suspects.csv." if block["n"] else ""
    files = tuple(
        (
            str(one["path"]),
            f"labelled {one['label']}; rather {one['suggested']} ({float(one['probability']):.3f})",
        )
        for one in suspects[:MOST_SUSPECTS]
    )
    return Section("label-suspects", title, (block["text"] + more,), files=files)


def _robustness(block: Sequence[Mapping[str, Any]]) -> Section:
    rows = tuple(
        (
            one["change"].capitalize(),
            show_number("accuracy", one["accuracy"]),
            show_number("accuracy", one["accuracy_difference"])
            if one["change"] != "unchanged"
            else "",
            show_number("roc_auc_macro", one["roc_auc_macro"]),
            one["text"],
        )
        for one in block
    )
    said = ("The same test images, mildly changed, as scanners and exports change them.",)
    head = ("Change", "Accuracy", "Difference", "ROC AUC", "In words")
    return Section("robustness", "Robustness", said, (Table("Robustness", head, rows),))


def _beside(own: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[Cell, ...]]:
    """Rows of numbers of the run and of an external test, "" where the run has none."""

    def row(label: str, kind: str, inside: Sequence[str], outside: Sequence[str]) -> Any:
        value: Any = own
        for key in inside:
            value = (value or {}).get(key)
        shown = show_number(kind, value) if value else ""
        value = other
        for key in outside:
            value = value[key]
        return label, shown, show_number(kind, value)

    def same(label: str, kind: str, *keys: str) -> Any:
        return row(label, kind, keys, keys)

    rows = [
        same("Calibration slope", "slope", "calibration", "after", "slope"),
        same("Expected calibration error", "ece", "calibration", "after", "ece"),
        row(
            "Unfamiliar images",
            "share",
            ("unfamiliar", "test_false_alarms"),
            ("unfamiliar", "share"),
        ),
    ]
    for level in other["prediction_sets"]["levels"]:
        label = f"Coverage of the {100 * float(level):g} % sets"
        rows.append(same(label, "share", "prediction_sets", "levels", level, "coverage"))
    if other["operating_point"]:
        for name, kind in (("Sensitivity", "recall"), ("Specificity", "specificity")):
            label = f"{name} at the operating point"
            rows.append(same(label, kind, "operating_point", "test", kind))
    return rows


def _external(own: Mapping[str, Any], tests: Mapping[str, Mapping[str, Any]]) -> Section:
    said, tables = [], []
    for name, one in tests.items():
        test, inside = one["test"], one["internal"]
        excluded = ", ".join(
            f"{count:,} ({reason})" for reason, count in sorted(one.get("excluded", {}).items())
        )
        said.append(
            f"{name}: {test['n']:,} images of {test['groups']:,} groups, on which nothing was "
            f"fitted or chosen. {f'Left out: {excluded}. ' if excluded else ''}"
            f"{one['class_balance_shift']['text']}"
        )
        said += [f"{name}: {notice}" for notice in one.get("notices", [])]
        names = {
            "accuracy": "Accuracy",
            "balanced_accuracy": "Balanced accuracy",
            "roc_auc_macro": "ROC AUC (mean over the classes)",
        }
        rows: list[tuple[Cell, ...]] = [
            (label, show_number(key, inside[key]), show_number(key, test[key]))
            for key, label in names.items()
        ]
        rows += _beside(own, one)
        is_test = one.get("internal_name", "test") == "test"
        head = ("Metric", "Internal" if is_test else "Cross-validation", "External")
        tables.append(Table(f"External test: {name}", head, tuple(rows)))
    return Section("external", "External tests", tuple(said), tuple(tables))
