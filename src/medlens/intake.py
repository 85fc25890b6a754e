"""The way in: list the images, read them all once, say what is wrong with them. No network yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from medlens.config import AUDIT_OPTIONS, DEFAULT_RATIOS, FIELDS, Options, flag_name, parse_ratios
from medlens.data.audit import audit, findings_to_json
from medlens.data.dataset import OWN_COLUMNS, Dataset, read_dataset
from medlens.data.finding import Finding
from medlens.data.groups import SPLITS, check_class_sizes, group_images, has_conflict
from medlens.data.images import UnreadableImage, read_image
from medlens.data.leaks import Resolved, resolve_leaks
from medlens.data.remote import is_url, join_path, open_path
from medlens.data.scan import (
    SIZED_IMAGES,
    PictureRule,
    Pictures,
    choose_image_size,
    read_here,
    scan,
)
from medlens.data.split import check_split, read_splits, split_by_ratio, use_given_split
from medlens.environment import cache_folder
from medlens.errors import MedlensError
from medlens.files import write_json
from medlens.progress_file import kept_progress
from medlens.run_dir import RunDir, folder_without_run
from medlens.scale.cluster import connected
from medlens.scale.scan import scan_on_cluster
from medlens.screen import Screen
from medlens.serve.only_writer import only_writer

# What train stops at, unless the option named here tells it how to go on.
MENDED_BY: Mapping[str, str] = {
    "conflicting_label": "drop_conflicts",
    "leak_duplicate": "resolve_leaks",
    "leak_near_duplicate": "resolve_leaks",
    "leak_patient": "resolve_leaks",
}
EXCLUDED = "excluded in the file given with --exclude"
# A note that limits every number: said before anything is trained, too.
ALWAYS_SHOWN = ("no_patient",)
# How many pictures the self-check of the network looks at.
SAMPLED = 4
# Options that change nothing in what an audit or a plan says.
WAYS_ALONE = ("cache", "out", "overwrite", "quiet", "ray")


@dataclass(frozen=True)
class Intake:
    """The images of a data set, read and audited.

    Args:
        dataset: What was listed.
        table: One row per image with its facts; `split` is the given split, "" where none is used.
        findings: What the audit found.
        retried: What is said of parts that a cluster began again.
    """

    dataset: Dataset
    table: pd.DataFrame
    findings: list[Finding]
    retried: tuple[str, ...] = ()

    def audit_json(self) -> dict[str, Any]:
        """The content of audit.json; that of a cluster is the same, unless it began again."""
        content = findings_to_json(self.findings, self.table)
        content["passed_over"] = dict(self.dataset.passed_over)
        return {**content, "retried": list(self.retried)} if self.retried else content


def ratios(options: Options) -> tuple[float, float, float]:
    """The shares of train, val and test."""
    is_file = options.split.lower().endswith(".csv")
    return DEFAULT_RATIOS if options.split == "auto" or is_file else parse_ratios(options.split)


def prevalence(options: Options) -> float | None:
    """The stated share of positive cases; None where it is not stated."""
    return None if options.prevalence == "none" else float(options.prevalence)


def metadata_columns(dataset: Dataset) -> list[str]:
    """The columns of the data set's CSV that medlens does not use itself."""
    return [str(name) for name in dataset.table if name not in OWN_COLUMNS]


def list_images(options: Options) -> Dataset:
    """List the data set; nothing is opened yet."""
    return read_dataset(
        open_path(options.data),
        cache=cache_folder(options.cache),
        patient_regex=options.patient_regex,
        drop_class=options.drop_class,
        exclude=Path(options.exclude) if options.exclude else None,
    )


def say_images(dataset: Dataset, positive_class: str | None, screen: Screen) -> None:
    """Say what was found."""
    counts = dataset.table["label"].value_counts()
    classes = ", ".join(f"{name} {counts[name]:,}" for name in dataset.classes)
    screen.say(f"Found {len(dataset.table):,} images ({dataset.kind}): {classes}")
    if dataset.passed_over:
        said = ", ".join(f"{count:,} {what}" for what, count in dataset.passed_over.items())
        screen.say(f"Passed over: {said}")
    if len(dataset.left_out):
        screen.say(f"Left out by --exclude: {len(dataset.left_out):,}")
    if positive_class:
        screen.say(
            f"Positive class: {positive_class} (sensitivity is about it; --positive-class names "
            "another)"
        )


def take_in(
    dataset: Dataset, options: Options, screen: Screen, pictures: Pictures | None = None
) -> Intake:
    """Read every file once, keep its facts (and its picture, where asked for), and audit them."""
    cache = cache_folder(options.cache)
    on_cluster = partial(scan_on_cluster, cache=cache, say=screen.say_retried)
    with (
        connected(options.ray) as is_connected,
        screen.progress("Reading the images", len(dataset.table), "images") as progress,
    ):
        table = scan(
            dataset,
            cache=cache,
            frame=frame(options),
            progress=progress,
            pictures=pictures,
            read_all=on_cluster if is_connected else read_here,
        )
    return replace(audit_table(dataset, table, options), retried=tuple(screen.retried))


def audit_table(dataset: Dataset, table: pd.DataFrame, options: Options) -> Intake:
    """Audit what the scan found.

    Args:
        dataset: What was listed.
        table: One row per image with the facts of the scan.
        options: Which split counts, and what is left out.
    """
    if options.split.lower().endswith(".csv"):
        table = table.assign(split=read_splits(Path(options.split), table))
    elif options.split != "auto":
        table = table.assign(split="")
    # Images that are left out by an option are none of the audit's business.
    kept = table[~has_conflict(table)] if options.drop_conflicts else table
    if options.split.lower().endswith(".csv"):
        kept = kept[(kept["split"] != "") | (kept["unreadable"] != "")]
    findings = audit(kept, min_per_class=options.min_per_class, ratios=ratios(options))
    return Intake(dataset, table, findings)


def sample_pictures(dataset: Dataset, rule: PictureRule, frame: int | None) -> NDArray[np.uint8]:
    """A few pictures from all over the data set, those that can be read: (n, size, size, 3)."""
    step = max(1, len(dataset.table) // SAMPLED)
    pictures: list[NDArray[np.uint8]] = []
    for path in dataset.table["path"].iloc[::step].iloc[: 2 * SAMPLED]:
        if len(pictures) < SAMPLED:
            with suppress(UnreadableImage):
                image = read_image(join_path(dataset.root, path), frame=frame)
                pictures.append(rule.apply(image.pixels))
    return np.array(pictures, np.uint8).reshape(-1, rule.size, rule.size, 3)


def frame(options: Options) -> int | None:
    """The DICOM frame asked for; None for the middle one."""
    return None if options.frame == "middle" else int(options.frame)


def stopping(findings: list[Finding], options: Options) -> list[Finding]:
    """The findings that stop `train` with these options."""

    def is_mended(finding: Finding) -> bool:
        mended_by = MENDED_BY.get(finding.code)
        return mended_by is not None and bool(getattr(options, mended_by))

    return [one for one in findings if one.severity == "error" and not is_mended(one)]


def stop_at_errors(intake: Intake, options: Options) -> None:
    """Raise the first finding that stops `train`, with the files it is about.

    Raises:
        MedlensError: If there is one.
    """
    found = stopping(intake.findings, options)
    if found:
        first = found[0]
        others = f" There are {len(found) - 1} more such findings." if len(found) > 1 else ""
        raise MedlensError(
            "The audit found what would make the results worthless." + others,
            got=first.message,
            expected="data that can be split without a leak and learnt from",
            fix=first.fix + " All findings stand in audit.json.",
            names=[" = ".join(files) for files in first.files],
        )


def run_audit(options: Options, screen: Screen) -> bool:
    """The command `audit`: print the findings, write audit.json where --out says.

    Returns:
        Whether `train` would go on with this data and these options.
    """
    with only_worker(options.out):
        return _audit(options, screen)


def _audit(options: Options, screen: Screen) -> bool:
    asked = made_with(AUDIT_OPTIONS, vars(options))
    dataset = list_images(options)
    say_images(dataset, choose_positive_class(dataset.classes, options), screen)
    with watched_by(options, "audit", screen) as watched:
        intake = take_in(dataset, options, watched)
    show_findings(intake, screen)
    if options.out:
        run = RunDir(Path(options.out))
        write_json(run.audit, {**intake.audit_json(), "made_with": asked})
        screen.say(f"All findings with their files: {run.audit}")
    elif any(finding.files for finding in intake.findings):
        screen.say("Which files these are: add --out DIR and look into DIR/audit.json.")
    return say_outlook(intake, options, screen)


@contextmanager
def only_worker(out: str) -> Iterator[None]:
    """Let no other process work on a run at the same time, as far as `only_writer` can tell.

    Args:
        out: The run folder; "" for none.

    Raises:
        MedlensError: If one does.
    """
    run = RunDir(Path(out))
    if not out or run.root.is_file():
        yield
        return
    is_new = not run.root.exists()
    with ExitStack() as stack:
        if is_new:
            stack.callback(_remove_if_empty, run.root)
        try:
            stack.enter_context(only_writer(run.root / "run"))
        except MedlensError as error:
            raise MedlensError(
                "This run is being worked on by another process.",
                got=error.got,
                expected="one command at a time in a run folder",
                fix="Wait until it has ended, or name another --out.",
                names=[out],
            ) from None
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it is kept where something was written
        folder.rmdir()


def made_with(names: Iterable[str], given: Mapping[str, Any]) -> str:
    """A digest of the options that an audit or a plan was made with, and of what was left out.

    Args:
        names: The options that the command takes.
        given: Their values by name; one that is missing is at its default.
    """
    values = {
        name: given.get(name, FIELDS[name].default) for name in names if name not in WAYS_ALONE
    }
    exclude = values["exclude"]
    if exclude and Path(exclude).is_file():
        # The same list in another place is the same list.
        values["exclude"] = hashlib.sha256(Path(exclude).read_bytes()).hexdigest()
    if not is_url(values["data"]):
        values["data"] = str(Path(values["data"]).absolute())
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@contextmanager
def watched_by(options: Options, command: str, screen: Screen) -> Iterator[Screen]:
    """A screen that also keeps the progress file of a command, where it has a folder for it.

    Raises:
        MedlensError: If a run is in that folder.
    """
    if not options.out:
        yield screen
        return
    run = folder_without_run(options.out, f"{command}.json")
    with kept_progress(run.progress, command) as watched:
        yield replace(screen, watched=watched)


def say_outlook(intake: Intake, options: Options, screen: Screen) -> bool:
    """Say, and return, whether `train` would go on with this data and these options."""
    found = stopping(intake.findings, options)
    said = "would stop at the findings marked error" if found else "would go on with this data"
    screen.say(f"`medlens train` {said}.")
    return not found


def show_findings(intake: Intake, screen: Screen, severities: tuple[str, ...] = ()) -> None:
    """The findings as a table; where severities are named, only those and what is always shown."""
    wanted = [
        one
        for one in intake.findings
        if not severities or one.severity in severities or one.code in ALWAYS_SHOWN
    ]
    if not wanted:
        screen.say("Audit: nothing found that stops or warns.")
        return
    style: dict[str, str] = {"error": "bold red", "warning": "yellow"}
    table = Table("", "finding", "what to do", show_lines=True)
    for finding in wanted:
        mark = f"[{style.get(finding.severity, 'dim')}]{finding.severity}"
        table.add_row(mark, _plain(finding.message), _plain(finding.fix))
    if not screen.quiet:
        screen.console.print(table)


def _plain(text: str) -> str:
    """Text with rich's markup brackets escaped."""
    return text.replace("[", "\\[")


def divide(intake: Intake, options: Options, screen: Screen) -> pd.DataFrame:
    """Decide for every image whether it is used, in which group it is, and in which split.

    Returns:
        The table with `split` ("train", "val", "test", or "" where not used), `group` (a number)
        and `excluded` ("" or the reason in a few words).
    """
    table = intake.table.reset_index(drop=True)
    excluded = table["unreadable"].where(table["unreadable"] == "", "unreadable")
    if options.drop_conflicts:
        excluded = excluded.mask((excluded == "") & has_conflict(table), "conflicting labels")
    kept = table[excluded == ""]
    groups = group_images(table)
    check_class_sizes(kept, groups[kept.index], min_per_class=options.min_per_class)
    shares = ratios(options)
    if options.split.lower().endswith(".csv"):
        split = kept["split"]
        left_out = (excluded == "") & (table["split"] == "")
        excluded = excluded.mask(left_out, "excluded in the file given with --split")
        screen.say("Split: as in the file given with --split.")
    elif (kept["split"] != "").any():
        if options.resolve_leaks:
            resolved = resolve_leaks(kept, groups[kept.index])
            _say_resolved(resolved, screen)
            gone = kept.index.difference(resolved.table.index)
            excluded[gone] = "leak: a copy, near-duplicate or the patient is in a later split"
            kept = resolved.table
        given = use_given_split(kept, groups[kept.index], ratios=shares, seed=options.seed)
        split = given.split
        carved = f"; {' and '.join(given.carved)} carved out of train" if given.carved else ""
        screen.say(f"Split: the data set's own{carved}.")
    else:
        split = split_by_ratio(kept, groups[kept.index], ratios=shares, seed=options.seed)
        screen.say("Split: by ratio, stratified by class, in whole groups.")
    used = split.index[split != ""]
    check_split(table.loc[used], groups[used], split[used], intake.dataset.classes)
    if options.folds != "none" and not (kept["split"] == "test").any():
        # Every image is tested in one of the folds: none is kept apart for it.
        split = split.mask(split == "test", "train")
        screen.say(f"Cross-validation: {options.folds} folds instead of a test set of its own.")
    divided = table.assign(
        split=split.reindex(table.index).fillna(""), group=groups, excluded=excluded
    )
    _say_split(divided, intake.dataset.classes, screen)
    return divided


def _say_resolved(resolved: Resolved, screen: Screen) -> None:
    for split, counts in resolved.removed.items():
        if sum(counts.values()):
            said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            screen.say(f"Leaks resolved: {sum(counts.values()):,} images left {split}: {said}")
    if sum(resolved.moved.values()):
        said = ", ".join(f"{name} {count:,}" for name, count in resolved.moved.items())
        screen.say(
            f"Leaks resolved: {sum(resolved.moved.values()):,} went from val to train: {said}"
        )


def _say_split(table: pd.DataFrame, classes: tuple[str, ...], screen: Screen) -> None:
    for split in SPLITS:
        rows = table[table["split"] == split]
        if rows.empty:
            continue
        counts = ", ".join(f"{name} {(rows['label'] == name).sum():,}" for name in classes)
        screen.say(
            f"  {split:5} {len(rows):,} images, {rows['group'].nunique():,} groups: {counts}"
        )


def dataset_csv(table: pd.DataFrame, left_out: pd.DataFrame) -> str:
    """The text of dataset.csv: one row per image found, its facts, and why it is left out.

    The split stands in splits.csv, images that look alike in audit.json; of the fingerprint nobody
    can read anything. The images that a person excluded come last: they were never opened.
    """
    known = table.drop(columns=["split", "look_alike", "fingerprint"])
    excluded = left_out.assign(excluded=EXCLUDED).reindex(columns=known.columns)
    # Written by themselves, so that whole numbers stay whole beside what is empty.
    return known.to_csv(index=False) + excluded.to_csv(index=False, header=False)


def image_size(dataset: Dataset, options: Options, screen: Screen) -> int:
    """The side of the network's pictures: as asked, or by the data set's median size."""
    if options.image_size != "auto":
        return int(options.image_size)
    asked = min(len(dataset.table), SIZED_IMAGES)
    with screen.progress("Reading the sizes", asked, "images") as progress:
        size = choose_image_size(dataset, progress=progress)
    by = f" (by {asked:,} of the images, evenly)" if asked < len(dataset.table) else ""
    screen.say(f"Image size: {size} px{by}")
    return size


def choose_positive_class(classes: tuple[str, ...], options: Options) -> str | None:
    """The class that counts as positive: as named, or the second of two in sorted order.

    Raises:
        MedlensError: If --positive-class names no class, or an option needs one.
    """
    if options.positive_class == "auto":
        chosen = classes[1] if len(classes) == 2 else None
        wished = [
            flag_name(name)
            for name in ("operating_point", "prevalence")
            if chosen is None and getattr(options, name) != FIELDS[name].default
        ]
        if wished:
            raise MedlensError(
                f"{wished[0]} needs a positive class.",
                got=f"{len(classes)} classes, and none that is named as positive",
                expected="the class that shall be found",
                fix="Add --positive-class, one of " + ", ".join(classes) + ".",
            )
    elif options.positive_class in classes:
        chosen = options.positive_class
    else:
        raise MedlensError(
            "--positive-class names a class that is not there.",
            got=options.positive_class,
            expected="one of " + ", ".join(classes),
            fix="Write the name as the folder or the CSV has it.",
        )
    return chosen


def say_baseline(used: pd.DataFrame, screen: Screen) -> None:
    """Say what always answering the largest class would reach on val."""
    largest = used.loc[used["split"] == "train", "label"].value_counts().sort_index().idxmax()
    share = (used.loc[used["split"] == "val", "label"] == largest).mean()
    screen.say(
        f"Always answering {largest} is right in {share:.3f} of val: accuracy must beat that."
    )
