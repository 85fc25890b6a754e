"""The plan: what is fixed, what follows from the data by a rule, and what is to be measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medlens.data.augmentation import PRESETS
from medlens.data.fingerprint import Fingerprint
from medlens.errors import MedlensError, in_words
from medlens.model.backbone import BACKBONES, Backbone
from medlens.model.head_plan import CLASS_WEIGHTS, WEIGHT_DECAY, HeadForm, HeadPlan, HeadSpace
from medlens.model.own_backbone import are_backbones

FORMAT = 1
# Kinds of a decision.
GIVEN, FIXED, RULE, MEASURED = "given", "fixed", "rule", "measured"
FEATURES = ("all", "deep", "last")
FITS = ("pad", "crop", "stretch")
# Class weighting is worth measuring where the largest class has so many times the smallest.
IMBALANCE = 1.5
MOST_FOLDS = 5
PLAIN_HEAD = HeadForm((256,), 0.5, WEIGHT_DECAY)
# The first is compared with every depth set. Dropout does harm to components that feed the logits
# directly, so the linear head has none.
CANDIDATES = (
    PLAIN_HEAD,
    HeadForm((), 0.0, WEIGHT_DECAY),
    HeadForm((256, 64), 0.5, WEIGHT_DECAY),
    HeadForm((256,), 0.25, WEIGHT_DECAY),
    HeadForm((256,), 0.5, 1.0),
)


@dataclass(frozen=True)
class Decision:
    """One decision of a plan.

    Args:
        value: What was decided, or, where it is to be measured, a list of what is compared.
        kind: "given" (asked for), "fixed", "rule" (from the fingerprint) or "measured".
        reason: Why, in a sentence.
    """

    value: Any
    kind: str
    reason: str


@dataclass(frozen=True)
class Wishes:
    """What the options ask for; None leaves it to the plan.

    Args:
        backbone: Name of the backbone.
        image_size: In pixels.
        fit: How a picture becomes square.
        features: A depth set.
        units: Of each hidden layer; empty for a linear head.
        dropout: Before the last layer.
        class_weight: See `HeadPlan`.
        augmentation: A preset, or "auto".
        fine_tune: How many of the last blocks.
    """

    backbone: str | None
    image_size: int | None
    fit: str | None
    features: str | None
    units: tuple[int, ...] | None
    dropout: float | None
    class_weight: str | None
    augmentation: str | None
    fine_tune: int | None


Decisions = dict[str, Decision]


def make_plan(
    fingerprint: Fingerprint, wishes: Wishes, image_size: int, *, is_plain: bool
) -> Decisions:
    """Decide what can be decided, and name what is to be measured.

    Args:
        fingerprint: Of the data set.
        wishes: What the options ask for.
        image_size: What the rule for the size came to.
        is_plain: Whether nothing is to be chosen: last layer, one Dense layer of 256, dropout 0.5.
    """

    def decide(name: str, wish: Any, planned: Decision) -> Decision:
        if wish is None:
            return planned
        return Decision(wish, GIVEN, f"Asked for with {name}.")

    side = fingerprint.median_side
    decided = {
        "backbone": decide(
            "--backbone", wishes.backbone, Decision("vgg16", FIXED, "The default backbone.")
        ),
        "image_size": decide(
            "--image-size, or the only size that the backbone takes",
            wishes.image_size,
            Decision(
                image_size,
                RULE,
                "The smallest of 64, 96, 128, 160, 224 px that is not below twice the median "
                f"longer side ({side:g} px), at most 224.",
            ),
        ),
        "fit": decide(
            "--fit", wishes.fit, Decision("pad", FIXED, "Padding keeps all of the picture.")
        ),
    }
    wished_features = None if wishes.features is None else [wishes.features]
    wished_weight = None if wishes.class_weight is None else [wishes.class_weight]
    return {
        **decided,
        "features": decide("--features", wished_features, _features(is_plain)),
        "heads": _heads(wishes, is_plain),
        "class_weight": decide(
            "--class-weight", wished_weight, _class_weight(fingerprint, is_plain)
        ),
        "augmentation": _augmentation(fingerprint, wishes.augmentation),
        "ensemble": _ensemble(is_plain),
        "folds": _folds(fingerprint),
        "fine_tune": decide(
            "--fine-tune",
            wishes.fine_tune,
            Decision(
                0,
                FIXED,
                "The backbone stays frozen. --fine-tune 1 would train its last block as well, in "
                "many passes.",
            ),
        ),
    }


def _features(is_plain: bool) -> Decision:
    if is_plain:
        return Decision(["last"], FIXED, "The plain recipe: the last layer alone.")
    return Decision(
        list(FEATURES),
        MEASURED,
        "How deep the useful features lie differs from data set to data set; all depths come from "
        "one pass of the network.",
    )


def _heads(wishes: Wishes, is_plain: bool) -> Decision:
    forms = [PLAIN_HEAD] if is_plain else list(CANDIDATES)
    if wishes.units is not None:
        same = [form for form in forms if form.units == wishes.units]
        dropout = 0.0 if not wishes.units else PLAIN_HEAD.dropout
        forms = same or [HeadForm(wishes.units, dropout, WEIGHT_DECAY)]
    if wishes.dropout is not None:
        forms = list(
            dict.fromkeys(HeadForm(form.units, wishes.dropout, form.weight_decay) for form in forms)
        )
    value = [_form_json(form) for form in forms]
    if wishes.units is not None and (wishes.dropout is not None or len(forms) == 1):
        return Decision(value[:1], GIVEN, "Asked for with --head.")
    if len(forms) == 1:
        return Decision(value, FIXED, "The plain recipe: one Dense layer.")
    return Decision(
        value,
        MEASURED,
        "Which head does best depends on the number of images and on the task. The first is the "
        "one that depth sets are compared with.",
    )


def _class_weight(fingerprint: Fingerprint, is_plain: bool) -> Decision:
    ratio = f"the largest class has {fingerprint.imbalance:g} times the images of the smallest"
    if is_plain:
        return Decision(["none"], FIXED, "The plain recipe: every image weighs the same.")
    if fingerprint.imbalance < IMBALANCE:
        return Decision(["none"], RULE, f"Not needed: {ratio}.")
    return Decision(list(CLASS_WEIGHTS), MEASURED, f"Rare classes may be overlooked: {ratio}.")


def _augmentation(fingerprint: Fingerprint, wish: str | None) -> Decision:
    guessed = f"{fingerprint.modality} ({fingerprint.modality_evidence})"
    if wish is None:
        return Decision(
            "none",
            FIXED,
            "Each view costs a further pass of the network. --augmentation auto would take the "
            f"preset of the modality guessed: {guessed}.",
        )
    if wish == "auto":
        return Decision(
            fingerprint.modality, RULE, f"The preset of the modality guessed: {guessed}."
        )
    return Decision(wish, GIVEN, "Asked for with --augmentation.")


def _ensemble(is_plain: bool) -> Decision:
    if is_plain:
        return Decision([False], FIXED, "The plain recipe: one head.")
    return Decision(
        [False, True],
        MEASURED,
        "The mean of the fold heads costs no further pass of the network; it is used where its "
        "loss is lower on the images that stop the training.",
    )


def _folds(fingerprint: Fingerprint) -> Decision:
    fewest = min(fingerprint.groups.values(), default=0)
    return Decision(
        max(2, min(MOST_FOLDS, fewest)),
        RULE,
        f"At most {MOST_FOLDS}, and not more than the groups of a class (here {fewest:,}).",
    )


def head_space(
    decisions: Mapping[str, Decision], base: HeadPlan, backbone: Backbone, search: int = 0
) -> HeadSpace:
    """The candidates that a plan names.

    Args:
        decisions: Of the plan.
        base: How heads are trained.
        backbone: Whose depths are meant.
        search: How many further heads are drawn and tried.
    """
    names = decisions["features"].value
    columns = depth_sets(backbone)
    is_gathered_whole = gathered_features(decisions) == "all"
    return HeadSpace(
        base=base,
        features={name: columns[name] if is_gathered_whole else None for name in names},
        heads=tuple(
            HeadForm(tuple(one["units"]), float(one["dropout"]), float(one["weight_decay"]))
            for one in decisions["heads"].value
        ),
        class_weights=tuple(decisions["class_weight"].value),
        ensembles=tuple(decisions["ensemble"].value),
        folds=int(decisions["folds"].value),
        search=search,
    )


def gathered_features(decisions: Mapping[str, Decision]) -> str:
    """The features that are kept for the run: "last" where no other depth is ever looked at."""
    return "last" if decisions["features"].value == ["last"] else "all"


def depth_sets(backbone: Backbone) -> dict[str, tuple[int, int] | None]:
    """The columns of each depth set: all; the deeper half; the means of the last depth."""
    widths = [2 * count for count in backbone.channels]
    total = sum(widths)
    half = sum(widths[: len(widths) // 2])
    last = backbone.channels[-1]
    return {"all": None, "deep": (half, total), "last": (total - 2 * last, total - last)}


def plan_json(decisions: Mapping[str, Decision], fingerprint: Fingerprint) -> dict[str, Any]:
    """The content of plan.json."""
    return {
        "format": FORMAT,
        "fingerprint": fingerprint.to_json(),
        "decisions": {name: vars(one) for name, one in decisions.items()},
    }


def _form_json(form: HeadForm) -> dict[str, Any]:
    return {
        "units": list(form.units),
        "dropout": form.dropout,
        "weight_decay": form.weight_decay,
    }


def read_plan(path: Path) -> Decisions:
    """Read a plan, such as one that `medlens plan` wrote and a person edited.

    Raises:
        MedlensError: If it cannot be read or a decision cannot be used. Nothing is guessed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["decisions"]
        version = content["format"]
        values = {str(name): one["value"] for name, one in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedlensError(
            "The file given with --plan cannot be read.",
            got=in_words(error),
            expected="auto, plain, or a plan.json as `medlens plan DATA --out DIR` writes it",
            fix="Write one with `medlens plan DATA --out DIR` and edit that.",
            names=[str(path)],
        ) from None
    if version != FORMAT:
        raise _unusable("format", version, str(FORMAT), path)
    for name in sorted(set(values) - set(_CHECKS)):
        raise _unusable(name, "no such decision", "one of " + ", ".join(_CHECKS), path)
    for name in sorted(set(_CHECKS) - set(values)):
        raise _unusable(name, "nothing", "a value for each of " + ", ".join(_CHECKS), path)
    for name, (check, expected) in _CHECKS.items():
        try:
            is_right = check(values[name])
        except (TypeError, KeyError, ValueError, AttributeError):
            is_right = False
        if not is_right:
            raise _unusable(name, values[name], expected, path)
    return {
        name: Decision(
            values[name], str(found[name].get("kind", GIVEN)), str(found[name].get("reason", ""))
        )
        for name in _CHECKS
    }


def _unusable(name: str, got: Any, expected: str, path: Path) -> MedlensError:
    return MedlensError(
        f"The plan's decision {name!r} cannot be used.",
        got=json.dumps(got),
        expected=expected,
        fix="Mend it in the file, or write a new one with `medlens plan DATA --out DIR`.",
        names=[str(path)],
    )


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_list_of(value: Any, allowed: Sequence[Any]) -> bool:
    is_list = isinstance(value, list) and len(value) > 0
    # True == 1 in Python, so types are compared too.
    kinds = [(type(one), one) for one in allowed]
    return is_list and all((type(one), one) in kinds for one in value) and not _repeats(value)


def _repeats(values: list[Any]) -> bool:
    return any(one in values[:place] for place, one in enumerate(values))


def _are_heads(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and not _repeats(value)
        and all(
            set(one) == {"units", "dropout", "weight_decay"}
            and isinstance(one["units"], list)
            and len(one["units"]) <= 3
            and all(_is_whole(units, 1, 8192) for units in one["units"])
            and _is_number(one["dropout"], 0, 0.95)
            and _is_number(one["weight_decay"], 0, 100)
            for one in value
        )
    )


def _some_of(values: Sequence[str]) -> str:
    return "a list of some of " + ", ".join(values) + ", none twice"


_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "backbone": (
        are_backbones,
        "one or several, with commas, of " + ", ".join(BACKBONES) + ", or .keras files",
    ),
    "image_size": (lambda value: _is_whole(value, 32, 1024), "a whole number from 32 to 1024"),
    "fit": (lambda value: value in FITS, "one of " + ", ".join(FITS)),
    "features": (lambda value: _is_list_of(value, FEATURES), _some_of(FEATURES)),
    "heads": (
        _are_heads,
        'a list of heads, none twice, such as {"units": [256], "dropout": 0.5, '
        '"weight_decay": 0.01}; units: at most three layers, none for a linear head',
    ),
    "class_weight": (lambda value: _is_list_of(value, CLASS_WEIGHTS), _some_of(CLASS_WEIGHTS)),
    "augmentation": (
        lambda value: value == "none" or value in PRESETS,
        "none, or one of " + ", ".join(PRESETS),
    ),
    "ensemble": (
        lambda value: _is_list_of(value, (False, True)),
        "a list of false, true, or both",
    ),
    "folds": (lambda value: _is_whole(value, 2, 20), "a whole number from 2 to 20"),
    "fine_tune": (
        lambda value: _is_whole(value, 0, 20),
        "how many of the last blocks, a whole number from 0 to 20",
    ),
}
