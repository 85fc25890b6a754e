"""Options and data -> the plan of a run; the command `plan`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from medlens.config import FIELDS, PLAN_OPTIONS, PLANNED, Options, flag_name
from medlens.data.augmentation import PRESETS
from medlens.data.dataset import Dataset
from medlens.data.fingerprint import Fingerprint, take_fingerprint
from medlens.errors import MedlensError
from medlens.files import write_json
from medlens.intake import (
    choose_positive_class,
    frame,
    image_size,
    list_images,
    made_with,
    only_worker,
    say_images,
    say_outlook,
    show_findings,
    take_in,
    watched_by,
)
from medlens.model.plan import (
    MEASURED,
    Decision,
    Decisions,
    Wishes,
    make_plan,
    plan_json,
    read_plan,
)
from medlens.model.search import check_optuna
from medlens.network import find_backbones, with_side_of
from medlens.run_dir import RunDir
from medlens.screen import Screen
from medlens.tracking import check_tracking

# Those that are known before the data is looked at.
SETTLED = ("backbone", "image_size", "fit", "augmentation", "fine_tune")


def settle(options: Options) -> tuple[Options, Decisions | None]:
    """Read the plan that the options name, and let it say backbone, size and fit.

    Returns:
        The options, and the plan; None where it is still to be made.

    Raises:
        MedlensError: If it cannot be used, or an option says otherwise.
    """
    if options.search:
        check_optuna()
    check_tracking(options)
    if options.test_time_averaging and options.augmentation not in ("none", "auto"):
        _require_symmetries(options.augmentation, "asked for with --augmentation")
    if options.search and options.plan == "plain":
        raise MedlensError(
            "--search and --plan plain contradict each other.",
            got="both",
            expected="the plain recipe, where nothing is chosen, or a search",
            fix="Leave one of them out.",
        )
    if options.plan in ("auto", "plain"):
        return options, None
    path = Path(options.plan)
    decisions = read_plan(RunDir(path).plan if path.is_dir() else path)
    named = [name for name in PLANNED if getattr(options, name) != FIELDS[name].default]
    if named:
        raise MedlensError(
            "A plan and an option decide the same.",
            got="--plan with a file, and " + ", ".join(map(flag_name, named)),
            expected="one or the other",
            fix="Write it into the plan's file, or leave --plan out.",
        )
    values = {name: decisions[name].value for name in SETTLED}
    values["fine_tune"] = values["fine_tune"] or "none"
    return dataclasses.replace(options, **values), decisions


def wishes(options: Options) -> Wishes:
    """What the options ask for of what a plan decides."""

    def wish(name: str) -> Any:
        value = getattr(options, name)
        return None if value == FIELDS[name].default else value

    return Wishes(
        backbone=wish("backbone"),
        image_size=wish("image_size"),
        fit=wish("fit"),
        features=wish("features"),
        units=None if options.head == "auto" else hidden_units(options.head),
        dropout=wish("dropout"),
        class_weight=wish("class_weight"),
        augmentation=wish("augmentation"),
        fine_tune=wish("fine_tune"),
    )


def hidden_units(head: int | str) -> tuple[int, ...]:
    """The option --head as units of each hidden layer: `linear`, 256, or `256,64`."""
    return () if head == "linear" else tuple(int(units) for units in str(head).split(","))


def decide(
    table: pd.DataFrame, dataset: Dataset, options: Options, size: int, given: Decisions | None
) -> tuple[Decisions, Fingerprint]:
    """The plan as it was given, or one made from the data.

    Args:
        table: One row per image with its facts.
        dataset: What was listed.
        options: As `settle` gives them.
        size: What the rule for the image size came to, or what was asked for.
        given: The plan as `settle` gives it.
    """
    fingerprint = take_fingerprint(table, dataset.root, frame=frame(options))
    if given is not None:
        return given, fingerprint
    is_plain = options.plan == "plain"
    return make_plan(fingerprint, wishes(options), size, is_plain=is_plain), fingerprint


def averaged_modality(
    options: Options, decisions: Decisions, fingerprint: Fingerprint
) -> str | None:
    """The modality whose symmetries are averaged over: the plan's preset, or the one guessed.

    Returns:
        A name in `PRESETS`; None where averaging was not asked for.

    Raises:
        MedlensError: If it allows no symmetry: a run that went on would not be the one asked for.
    """
    if not options.test_time_averaging:
        return None
    preset = str(decisions["augmentation"].value)
    if preset != "none":
        _require_symmetries(preset, "the preset of the plan or of --augmentation")
        return preset
    modality = fingerprint.modality
    _require_symmetries(modality, f"guessed: {fingerprint.modality_evidence}")
    return modality


def _require_symmetries(modality: str, source: str) -> None:
    if PRESETS[modality].symmetries > 1:
        return
    allowing = [name for name, one in PRESETS.items() if one.symmetries > 1]
    raise MedlensError(
        "--test-time-averaging has nothing to average over.",
        got=f"the modality {modality} ({source}), of which no mirror image or turn may be taken",
        expected="a modality whose pictures have no fixed side: " + ", ".join(allowing),
        fix="Leave --test-time-averaging out; or, if the modality is another, name it: "
        "--augmentation NAME.",
    )


def say_plan(decisions: Mapping[str, Decision], fingerprint: Fingerprint, screen: Screen) -> None:
    """Print the decisions and their reasons."""
    table = Table("decision", "value", "kind", "reason", show_lines=True)
    for name, one in decisions.items():
        table.add_row(name, _value_text(name, one), one.kind, one.reason)
    if not screen.quiet:
        screen.console.print(table)
    screen.say(f"Modality: {fingerprint.modality} ({fingerprint.modality_evidence}).")


def _value_text(name: str, one: Decision) -> str:
    if name == "heads":
        forms = [
            f"{' and '.join(map(str, form['units'])) or 'linear'}, dropout {form['dropout']:g}, "
            f"decay {form['weight_decay']:g}"
            for form in one.value
        ]
        return "\n".join(forms)
    value = one.value if isinstance(one.value, list) else [one.value]
    words = {True: "yes", False: "no"}
    said = [words[each] if isinstance(each, bool) else str(each) for each in value]
    return " or ".join(said) if one.kind == MEASURED else ", ".join(said)


def _is_same(path: Path, content: dict[str, Any]) -> bool:
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    # What it was made with may differ where the plan does not.
    if isinstance(there, dict):
        there.pop("made_with", None)
    return bool(there == json.loads(json.dumps(content)))


def run_plan(options: Options, screen: Screen) -> bool:
    """The command `plan`: say what `train` would decide; write plan.json where --out says.

    Returns:
        Whether `train` would go on with this data and these options.
    """
    with only_worker(options.out):
        return _plan(options, screen)


def _plan(options: Options, screen: Screen) -> bool:
    asked = made_with(PLAN_OPTIONS, vars(options))
    settled, given = settle(options)
    settled = with_side_of(find_backbones(settled), settled)
    dataset = list_images(settled)
    say_images(dataset, choose_positive_class(dataset.classes, settled), screen)
    with watched_by(options, "plan", screen) as watched:
        size = image_size(dataset, settled, watched)
        intake = take_in(dataset, settled, watched)
    show_findings(intake, screen, ("error", "warning"))
    decisions, fingerprint = decide(intake.table, dataset, settled, size, given)
    say_plan(decisions, fingerprint, screen)
    if options.out:
        run = RunDir(Path(options.out))
        content = plan_json(decisions, fingerprint)
        is_other = run.plan.exists() and not _is_same(run.plan, content)
        if is_other and not options.overwrite:
            raise MedlensError(
                "Another plan is in the folder given with --out.",
                got="a plan.json that differs from this one: edited, or of other data or options",
                expected="a folder without plan.json",
                fix="Name another --out, or replace it with --overwrite.",
                names=[options.out],
            )
        write_json(run.plan, {**content, "made_with": asked})
        screen.say(f"Edit it and hand it back: medlens train DATA --out RUN --plan {run.plan}")
    return say_outlook(intake, settled, screen)
