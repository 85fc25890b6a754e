"""Training shown in TensorBoard or MLflow, beside history.csv, which stays the truth.

All of it lies in the run folder; nothing is sent anywhere unless a server of the user's own is
asked for by name. Neither file names nor images nor patients are told.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from medlens.config import FIELDS, Options
from medlens.errors import MedlensError
from medlens.run_dir import RunDir

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

TENSORBOARD, MLFLOW, MLFLOW_SERVER = "tensorboard", "mlflow", "mlflow_server"
URI = "MLFLOW_TRACKING_URI"
EXPERIMENT = "medlens"
# By what is asked for: the modules it needs, and the packages that have them.
PACKAGES: Mapping[str, tuple[tuple[str, ...], str]] = {
    TENSORBOARD: (("tensorboard",), "tensorboard"),
    MLFLOW: (("mlflow", "sqlalchemy", "alembic"), "mlflow-skinny sqlalchemy alembic"),
    MLFLOW_SERVER: (("mlflow",), "mlflow-skinny"),
}
# Options whose values are files of the user's, unless they are one of these words.
FILES: Mapping[str, tuple[str, ...]] = {
    "plan": ("auto", "plain"),
    "weights": ("imagenet", "random"),
    "exclude": ("",),
}
MEASURED = ("loss", "accuracy", "val_loss", "val_accuracy")


class Tracker(Protocol):
    """Where training is shown."""

    def callback(self, name: str) -> keras.callbacks.Callback:
        """Shows the epochs of one training: head, fold_1, fine_tune."""

    def tell(self, numbers: Mapping[str, float]) -> None:
        """Show the result."""

    def close(self, *, is_done: bool) -> None:
        """Nothing more comes."""


class Tracking:
    """All trackers that were asked for; with none, nothing happens."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self.trackers = tuple(trackers)

    def callbacks(self, name: str = "head") -> list[keras.callbacks.Callback]:
        """A Keras callback for each tracker."""
        return [tracker.callback(name) for tracker in self.trackers]

    def replay(self, history: pd.DataFrame) -> None:
        """Show what history.csv holds beside the epochs of the head alone, which were seen live.

        Which heads answer together, and whether a fine-tuned network does, is known afterwards.

        Args:
            history: As in history.csv, with its columns fold and stage where there are some.
        """
        if not self.trackers:
            return
        if "fold" in history:
            folds = history["fold"].dropna().astype(int)
            for fold in sorted(folds.unique()):
                _replay(self.callbacks(f"fold_{fold}"), history.loc[folds.index[folds == fold]])
        if "stage" in history:
            _replay(self.callbacks("fine_tune"), history[history["stage"] == "fine_tune"])

    def tell(self, evaluation: Mapping[str, Any]) -> None:
        """Show the numbers tested, each with the limits of its interval.

        Args:
            evaluation: The content of evaluation.json.
        """
        name = "test" if "test" in evaluation else "out_of_fold"
        numbers = {}
        for measure, one in evaluation[name].items():
            if isinstance(one, Mapping) and isinstance(one.get("value"), int | float):
                numbers[f"{name}/{measure}"] = float(one["value"])
                if one.get("ci95"):
                    numbers[f"{name}/{measure}_low"] = float(one["ci95"][0])
                    numbers[f"{name}/{measure}_high"] = float(one["ci95"][1])
        for tracker in self.trackers:
            tracker.tell(numbers)


def _replay(callbacks: list[keras.callbacks.Callback], rows: pd.DataFrame) -> None:
    import keras

    model = keras.Sequential()
    model.optimizer = None  # callbacks ask for it, to show its rate
    watching = keras.callbacks.CallbackList(callbacks, model=model)
    watching.on_train_begin()
    for row in rows.to_dict("records"):
        epoch = int(row["epoch"]) - 1
        watching.on_epoch_begin(epoch)
        watching.on_epoch_end(epoch, {name: float(row[name]) for name in MEASURED})
    watching.on_train_end()


def check_tracking(options: Options) -> None:
    """Say what is missing for --track, before anything slow.

    Raises:
        MedlensError: If a package is missing, or a server is asked for and not named.
    """
    for kind in options.track:
        modules, packages = PACKAGES[kind]
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            raise MedlensError(
                f"--track {kind} needs a package that is not installed.",
                got=f"no package {', '.join(missing)}",
                expected=f"the packages {packages}",
                fix=f"pip install 'medlens[tracking]', or leave --track {kind} out.",
            )
    if MLFLOW_SERVER in options.track and not os.environ.get(URI):
        raise MedlensError(
            "--track mlflow_server needs the address of your server.",
            got=f"no {URI} in the environment",
            expected=f"{URI}=http://... , a server that you trust with options and numbers",
            fix=f"Set {URI}, or use --track mlflow, which stays in the run folder.",
        )


@contextmanager
def track(options: Options, run: RunDir) -> Iterator[Tracking]:
    """Open what --track asks for, and close it however the block ends.

    Raises:
        MedlensError: If a server does not answer.
    """
    folders = {TENSORBOARD: run.tensorboard, MLFLOW: run.mlflow}
    for kind in set(options.track) & set(folders):
        shutil.rmtree(folders[kind], ignore_errors=True)  # of a run that was interrupted
    said = parameters(options)
    tracking = Tracking([_open(kind, run, said) for kind in options.track])
    is_done = False
    try:
        yield tracking
        is_done = True
    finally:
        with ExitStack() as closing:  # each is closed, whatever becomes of the others
            for tracker in tracking.trackers:
                closing.callback(tracker.close, is_done=is_done)


def _open(kind: str, run: RunDir, said: Mapping[str, str]) -> Tracker:
    if kind == TENSORBOARD:
        return TensorBoardTracker(run.tensorboard, said)
    return MlflowTracker(None if kind == MLFLOW_SERVER else run.mlflow, said)


def parameters(options: Options) -> dict[str, str]:
    """The options that say what is computed, without the data's place and the user's files."""
    said = {}
    for name, field in FIELDS.items():
        if name == "data" or not field.metadata["what"]:
            continue
        value = getattr(options, name)
        parts = list(map(str, value)) if isinstance(value, tuple) else str(value).split(",")
        if name in FILES:
            parts = [one if one in FILES[name] else "a file" for one in parts]
        elif name in ("split", "backbone"):
            is_file = {"split": ".csv", "backbone": ".keras"}[name]
            parts = ["a file" if one.lower().endswith(is_file) else one for one in parts]
        said[name] = ",".join(parts)
    return said


class TensorBoardTracker:
    """Event files that TensorBoard reads, by Keras's own callback.

    Args:
        folder: Receives them: a folder for each training, and `result`.
        said: The options.
    """

    def __init__(self, folder: Path, said: Mapping[str, str]) -> None:
        import tensorflow

        self.folder, self.summary = folder, tensorflow.summary
        self.writer = self.summary.create_file_writer(str(folder / "result"))
        rows = [f"| {name} | {value} |" for name, value in said.items()]
        with self.writer.as_default():
            self.summary.text(
                "options", "\n".join(["| option | value |", "| --- | --- |", *rows]), 0
            )

    def callback(self, name: str) -> keras.callbacks.Callback:
        """As for `Tracker`."""
        import keras

        folder = str(self.folder / name)
        return keras.callbacks.TensorBoard(folder, write_graph=False, profile_batch=0)

    def tell(self, numbers: Mapping[str, float]) -> None:
        """As for `Tracker`."""
        with self.writer.as_default():
            for name, value in numbers.items():
                self.summary.scalar(name, value, 0)

    def close(self, *, is_done: bool) -> None:
        """As for `Tracker`."""
        self.writer.close()


class MlflowTracker:
    """A run of MLflow, in a local file or on the user's own server.

    MLflow's callback for Keras needs a global current run and writes in the background, where
    mistakes are swallowed; this one says each epoch by its own client.

    Args:
        folder: Holds the file; None for the server that MLFLOW_TRACKING_URI names.
        said: The options.

    Raises:
        MedlensError: If the server does not answer.
    """

    def __init__(self, folder: Path | None, said: Mapping[str, str]) -> None:
        # Read when MLflow is imported; without this it tells its makers how it is used.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        with _mendable():
            if folder is None:
                self.client = MlflowClient(tracking_uri=os.environ[URI])
            else:
                folder.mkdir(parents=True, exist_ok=True)
                self.client = MlflowClient(tracking_uri=store_address(folder))
            experiment = _find_experiment(self.client, folder)
            self.run: str = self.client.create_run(experiment, run_name=EXPERIMENT).info.run_id
            told = [Param(name, value or "none") for name, value in said.items()]
            self.client.log_batch(self.run, params=told)

    def callback(self, name: str) -> keras.callbacks.Callback:
        """As for `Tracker`."""
        import keras

        def on_epoch_end(epoch: int, logs: Mapping[str, float] | None) -> None:
            said = {f"{name}/{key}": float(value) for key, value in (logs or {}).items()}
            self._log(said, epoch + 1)

        return keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)

    def tell(self, numbers: Mapping[str, float]) -> None:
        """As for `Tracker`."""
        self._log(numbers, 0)

    def close(self, *, is_done: bool) -> None:
        """As for `Tracker`."""
        with _mendable():
            self.client.set_terminated(self.run, "FINISHED" if is_done else "FAILED")

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        with _mendable():
            told = [Metric(name, value, now, step) for name, value in numbers.items()]
            self.client.log_batch(self.run, metrics=told)


def store_address(folder: Path) -> str:
    """The address of the store in a folder, another one at each call.

    MLflow keeps what it opened, by address, for as long as the process lives; a file that has taken
    another's place must not meet that. So the seconds to wait for a lock, which are part of it,
    differ by less than one.
    """
    database = (folder / "mlflow.db").resolve().as_posix()
    return f"sqlite:///{database}?timeout=20.{time.time_ns()}"


def _find_experiment(client: MlflowClient, folder: Path | None) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    place = None if folder is None else (folder / "artifacts").resolve().as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=place))


@contextmanager
def _mendable() -> Iterator[None]:
    """What MLflow cannot do, as an error that a person can mend."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise MedlensError(
            "MLflow cannot write.",
            got=f"its error {error.error_code}",
            expected=f"a server that answers at {URI}, or a folder with room",
            fix="Mend that and go on with --resume, or leave --track out.",
        ) from error
