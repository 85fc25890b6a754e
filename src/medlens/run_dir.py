"""Every file name in a run folder; nobody else joins these paths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from medlens.config import Options, config_toml, differences, flag_name, read_config
from medlens.errors import MedlensError
from medlens.files import remove, write_text
from medlens.model.classifier_files import FACTS_FILE

# Names of files that are being written: `files.part_name`, or earlier the number of a process; and
# Keras in `save_classifier`.
PART = re.compile(r"\.(.+\.)?(\d+|[0-9a-f]{16})\.part(\.keras)?")


@dataclass(frozen=True)
class RunDir:
    """The names of the files in one run folder.

    Args:
        root: The run folder.
    """

    root: Path

    @property
    def config(self) -> Path:
        """All options, also the defaults."""
        return self.root / "config.toml"

    @property
    def environment(self) -> Path:
        """Versions, machine, backend, hashes."""
        return self.root / "environment.json"

    @property
    def dataset(self) -> Path:
        """One row per image found."""
        return self.root / "dataset.csv"

    @property
    def audit(self) -> Path:
        """The findings."""
        return self.root / "audit.json"

    @property
    def splits(self) -> Path:
        """path,split."""
        return self.root / "splits.csv"

    @property
    def history(self) -> Path:
        """One row per epoch."""
        return self.root / "history.csv"

    @property
    def training(self) -> Path:
        """Backbone, features, head, why training stopped."""
        return self.root / "training.json"

    @property
    def plan(self) -> Path:
        """What was decided, why, and what was measured."""
        return self.root / "plan.json"

    @property
    def candidates(self) -> Path:
        """The candidates for the head: one row each."""
        return self.root / "candidates.csv"

    @property
    def candidate_curves(self) -> Path:
        """One row per candidate, epoch and fold."""
        return self.root / "candidate_curves.csv"

    @property
    def classifier(self) -> Path:
        """The folder that is all a prediction needs."""
        return self.root / "classifier"

    @property
    def predictions(self) -> Path:
        """The only source of every metric."""
        return self.root / "predictions.csv"

    @property
    def evaluation(self) -> Path:
        """Every number with its interval."""
        return self.root / "evaluation.json"

    @property
    def figures(self) -> Path:
        """PNG and SVG, and the CSV behind each."""
        return self.root / "figures"

    @property
    def report(self) -> Path:
        """All of it in one file."""
        return self.root / "report.html"

    @property
    def out_of_fold(self) -> Path:
        """What heads say of train's images that were not fitted on them."""
        return self.root / "out_of_fold.csv"

    @property
    def label_suspects(self) -> Path:
        """Images whose label may be wrong."""
        return self.root / "label_suspects.csv"

    @property
    def contact_sheet(self) -> Path:
        """What the network sees of some images of each class."""
        return self.root / "contact_sheet.png"

    @property
    def view_sheet(self) -> Path:
        """Some images of train with their views."""
        return self.root / "view_sheet.png"

    @property
    def heat_maps(self) -> Path:
        """Pictures of the test set with their heat maps."""
        return self.root / "heat_maps"

    @property
    def study(self) -> Path:
        """The author's answers for the checklists; medlens writes a template, once."""
        return self.root / "study.toml"

    @property
    def external(self) -> Path:
        """External tests, each a folder."""
        return self.root / "external"

    @property
    def report_pdf(self) -> Path:
        """The report, printed."""
        return self.root / "report.pdf"

    @property
    def model_card(self) -> Path:
        """What the classifier is, in a page."""
        return self.root / "model_card.md"

    @property
    def features(self) -> Path:
        """Features in one file, where they are too many for memory, only while the run goes on."""
        return self.root / ".features.npy"

    @property
    def view_features(self) -> Path:
        """Features of views, in the same way."""
        return self.root / ".view_features.npy"

    @property
    def symmetric_features(self) -> Path:
        """Features of all images in their symmetries, in the same way."""
        return self.root / ".symmetric_features.npy"

    @property
    def fine_tuning(self) -> Path:
        """What fine-tuning goes on from after a break, only while the run goes on."""
        return self.root / ".fine_tuning.npz"

    @property
    def tuned(self) -> Path:
        """Weights and features of the fine-tuned network, only while the run goes on."""
        return self.root / ".tuned"

    @property
    def other_predictions(self) -> Path:
        """What the network says that was not used: the frozen or the fine-tuned one."""
        return self.root / "other_predictions.csv"

    @property
    def pictures(self) -> Path:
        """Pictures at the network's size, only while the run is under way."""
        return self.root / ".pictures"

    @property
    def progress(self) -> Path:
        """How far the run is, for whoever watches it, only while it goes on."""
        return self.root / ".progress.json"

    @property
    def lock(self) -> Path:
        """Held by the one process that works on the run, only while it does."""
        return self.root / ".run.lock"

    @property
    def excluded(self) -> Path:
        """The images that a person left out on the page of `medlens ui`."""
        return self.root / "excluded.csv"

    @property
    def page(self) -> Path:
        """What `medlens ui` knows of the run: what was chosen, and the process at work."""
        return self.root / ".ui"

    @property
    def tensorboard(self) -> Path:
        """Event files of TensorBoard, where they were asked for."""
        return self.root / "tensorboard"

    @property
    def mlflow(self) -> Path:
        """The store of MLflow, where it was asked for."""
        return self.root / "mlflow"

    @property
    def log(self) -> Path:
        """What was said and when."""
        return self.root / "log.txt"

    def passing(self) -> tuple[Path, ...]:
        """What is there only while the run goes on."""
        return (
            self.pictures,
            self.features,
            self.view_features,
            self.symmetric_features,
            self.fine_tuning,
            self.tuned,
            self.progress,
            self.lock,
        )

    def chosen(self) -> tuple[Path, ...]:
        """What a person wrote or chose: it may be there before the run, and is never deleted."""
        return (self.study, self.excluded, self.page)

    def own(self) -> tuple[Path, ...]:
        """Everything that medlens writes into a run folder."""
        return (
            self.config,
            self.environment,
            self.dataset,
            self.audit,
            self.splits,
            self.history,
            self.training,
            self.plan,
            self.candidates,
            self.candidate_curves,
            self.classifier,
            self.predictions,
            self.evaluation,
            self.figures,
            self.report,
            self.report_pdf,
            self.model_card,
            self.out_of_fold,
            self.label_suspects,
            self.contact_sheet,
            self.heat_maps,
            self.external,
            self.view_sheet,
            self.other_predictions,
            self.tensorboard,
            self.mlflow,
            self.log,
            *self.passing(),
        )


def classifier_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of the classifier: inside a run, or the path itself where it is no run."""
    inside = RunDir(Path(path)).classifier
    return inside if inside.is_dir() else Path(path)


def holds_classifier(path: Path) -> bool:
    """Whether a folder is a run with a classifier, or a classifier's own folder."""
    return (classifier_folder(path) / FACTS_FILE).is_file()


def open_run(options: Options) -> RunDir:
    """Make the run folder, or open it again, and write config.toml into it.

    Args:
        options: All options; `out` is the folder.

    Raises:
        MedlensError: If the folder is in use and neither --resume nor --overwrite was given, if
            --resume meets other options, or if --overwrite would delete what is not medlens's.
    """
    if not options.out:
        raise MedlensError(
            "The run folder is not named.",
            got="no --out",
            expected="a folder for the results",
            fix="Add --out RUN, for example --out runs/first.",
        )
    run = RunDir(Path(options.out))
    if options.resume and options.overwrite:
        raise MedlensError(
            "--resume and --overwrite exclude each other.",
            got="both",
            expected="one of them",
            fix="--resume goes on with the run; --overwrite starts it anew.",
        )
    entries = [path for path in _entries(run) if path not in {*run.chosen(), run.progress}]
    if set(entries) <= {run.audit, run.plan} or _has_only_begun(run, entries):
        entries = []  # left by `medlens audit --out` or `medlens plan --out`, or by an error
    if entries and options.overwrite:
        _clear(run, entries, options)
    elif entries and options.resume:
        _check_same_options(run, options)
    elif entries or run.root.is_file():
        raise MedlensError(
            "The run folder is in use.",
            got=f"{len(entries)} files or folders in it" if entries else "a file of that name",
            expected="a new or an empty folder",
            fix="Name another --out, go on with --resume, or replace it with --overwrite."
            if run.config in entries
            else "Name another --out.",
            names=[str(run.root)],
        )
    _clear_parts(run)
    run.root.mkdir(parents=True, exist_ok=True)
    write_text(run.config, config_toml(options))
    return run


def _clear_parts(run: RunDir) -> None:
    """Delete what a process left in the run that was killed while it wrote."""
    for path in run.own():
        parts = path.rglob("*") if path.is_dir() else path.parent.glob(f".{path.name}.*")
        for part in parts:
            if PART.fullmatch(part.name) and part.is_file():
                part.unlink()


def folder_without_run(out: str, file: str) -> RunDir:
    """A folder that a command may write one file into, because no run is in it.

    Args:
        out: As --out names it.
        file: What shall be written there.

    Raises:
        MedlensError: If it holds a run.
    """
    run = RunDir(Path(out))
    if has_begun(run):
        raise MedlensError(
            "The folder given with --out holds a run.",
            got="a folder with config.toml",
            expected=f"a new folder for {file}",
            fix="Name another --out.",
            names=[out],
        )
    return run


def has_begun(run: RunDir) -> bool:
    """Whether a folder holds a run that came as far as a split of its images."""
    return run.config.exists() and bool(set(_entries(run)) - _before_the_split(run))


def _entries(run: RunDir) -> list[Path]:
    """What is in the folder, without what is just being written, and by whom."""
    found = run.root.iterdir() if run.root.is_dir() else ()
    return [path for path in found if not PART.fullmatch(path.name) and path != run.lock]


def _has_only_begun(run: RunDir, entries: list[Path]) -> bool:
    """Whether an error ended a run there before it had a split."""
    return {run.config, run.log} <= set(entries) <= _before_the_split(run)


def _before_the_split(run: RunDir) -> set[Path]:
    early = (run.config, run.log, run.audit, run.plan, run.pictures, run.tensorboard, run.mlflow)
    return {*early, *run.chosen(), run.progress}


def _clear(run: RunDir, entries: list[Path], options: Options) -> None:
    foreign = sorted(set(entries) - set(run.own()))
    for name, given in (("--split", options.split), ("--plan", options.plan)):
        if run.root.resolve() in Path(given).resolve().parents:
            raise MedlensError(
                f"--overwrite would delete the file given with {name}.",
                got="a file inside the run folder",
                expected="a file outside of it",
                fix="Copy the file to another place first.",
                names=[given],
            )
    if foreign or not run.config.exists():
        raise MedlensError(
            "--overwrite deletes only a run of medlens.",
            got=f"{len(foreign)} other files or folders" if foreign else "no config.toml",
            expected="a folder that `medlens train` wrote, and nothing else in it",
            fix="Move the other files away, or name another --out.",
            names=[str(path) for path in foreign or [run.root]],
        )
    for path in entries:
        remove(path)


def list_left_out(run: RunDir, exclude: str) -> str:
    """The file that --exclude names, also after the run with its own excluded.csv was moved.

    Args:
        run: The run.
        exclude: The value in its config.toml.
    """
    before = Path(exclude)
    if before.name != run.excluded.name or not run.excluded.is_file():
        return exclude
    is_other = before.is_file() and before.read_bytes() != run.excluded.read_bytes()
    return exclude if is_other else str(run.excluded)


def _check_same_options(run: RunDir, options: Options) -> None:
    if not run.config.exists():
        raise MedlensError(
            "There is no run to go on with.",
            got="a folder without config.toml",
            expected="the folder of an interrupted run",
            fix="Name another --out.",
            names=[str(run.root)],
        )
    before = read_config(run.config)
    before["exclude"] = list_left_out(run, str(before.get("exclude", "")))
    changed = differences(before, options)
    if changed:
        raise MedlensError(
            "--resume needs the options of the interrupted run.",
            got="other values for " + ", ".join(flag_name(name) for name in changed),
            expected="the same options as in the run's config.toml",
            fix="Give --config RUN/config.toml, or start anew with --overwrite.",
            names=[str(run.config)],
        )
