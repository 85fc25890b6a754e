"""TensorBoard and MLflow show what history.csv holds, in the run folder, and change nothing."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import medlens
from medlens import tracking
from medlens.config import make_options
from medlens.errors import MedlensError
from medlens.model.head import TrainingRows, train_head
from medlens.model.head_plan import HeadPlan
from medlens.run_dir import RunDir
from medlens.tracking import Tracking, check_tracking, parameters, store_address, track

# MLflow's own use of SQLAlchemy; not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``")

NAMES = ["loss", "accuracy", "val_loss", "val_accuracy"]
FAST = {"weights": "random", "image_size": 32, "epochs": 4, "quiet": True, "no_saliency": True}
PLAN = HeadPlan(
    units=(4,),
    dropout=0.0,
    epochs=12,
    batch_size=16,
    learning_rate=1e-2,
    stop_at_accuracy=None,
    stop_on="val",
    patience=12,
    seed=0,
)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """By tag what an event file holds, by step."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {
        tag: {one.step: float(make_ndarray(one.tensor_proto)) for one in events.Tensors(tag)}
        for tag in events.Tags()["tensors"]
        if tag != "options"
    }


def curves(folder: Path) -> pd.DataFrame:
    """The curves below a folder of TensorBoard, in the shape of history.csv."""
    found = {}
    for place, prefix in (("train", ""), ("validation", "val_")):
        for tag, values in scalars(folder / place).items():
            found[prefix + tag.removeprefix("epoch_")] = values
    table = pd.DataFrame(found).sort_index()
    return table.set_index(table.index + 1)


def store(run: medlens.Run) -> Any:
    return client_of(store_address(run.path / "mlflow"))


def client_of(address: str) -> Any:
    # Not above: medlens is to be the first that imports it.
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=address)


def told(client: Any) -> Any:
    experiment = client.get_experiment_by_name("medlens")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def in_mlflow(client: Any, name: str) -> pd.DataFrame:
    number = told(client).info.run_id
    return pd.DataFrame(
        {
            key: {one.step: one.value for one in client.get_metric_history(number, f"{name}/{key}")}
            for key in NAMES
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def plain(phantoms: Path, cache: Path, place: Path) -> medlens.Run:
    return medlens.train(phantoms, out=place / "plain", plan="plain", cache=str(cache), **FAST)


@pytest.fixture(scope="module")
def tracked(phantoms: Path, cache: Path, place: Path) -> medlens.Run:
    both = ["tensorboard,mlflow"]
    return medlens.train(
        phantoms, out=place / "tracked", plan="plain", track=both, cache=str(cache), **FAST
    )


def test_event_files_and_store_hold_what_history_holds(tracked: medlens.Run) -> None:
    history = tracked.history.set_index("epoch")[NAMES]
    assert len(history) > 1
    shown = curves(tracked.path / "tensorboard" / "head")
    assert set(shown) == {*NAMES, "learning_rate"}
    np.testing.assert_array_equal(shown[NAMES], history.astype(np.float32))
    pd.testing.assert_frame_equal(
        in_mlflow(store(tracked), "head"), history, check_names=False, check_exact=True
    )


def test_nothing_that_is_computed_changes(tracked: medlens.Run, plain: medlens.Run) -> None:
    columns = ["epoch", *NAMES]
    first, second = (run.history[columns].to_csv() for run in (plain, tracked))
    assert first == second
    for name in ("predictions.csv", "evaluation.json", "config.toml", "training.json"):
        assert (plain.path / name).read_bytes() == (tracked.path / name).read_bytes(), name
    more = {path.name for path in tracked.path.iterdir()} - {
        path.name for path in plain.path.iterdir()
    }
    assert more == {"tensorboard", "mlflow"}


def test_the_numbers_tested_and_the_options_are_told(tracked: medlens.Run) -> None:
    measured = tracked.evaluation["test"]["accuracy"]
    numbers = {
        "test/accuracy": measured["value"],
        "test/accuracy_low": measured["ci95"][0],
        "test/accuracy_high": measured["ci95"][1],
    }
    run = told(store(tracked))
    assert run.info.status == "FINISHED"
    assert {name: run.data.metrics[name] for name in numbers} == numbers
    assert run.data.params["epochs"] == "4"
    assert run.data.params["weights"] == "random"
    shown = scalars(tracked.path / "tensorboard" / "result")
    for name, value in numbers.items():
        assert shown[name] == {0: pytest.approx(value)}
    events = EventAccumulator(str(tracked.path / "tensorboard" / "result")).Reload()
    (text,) = make_ndarray(events.Tensors("options")[0].tensor_proto).ravel()
    assert b"| epochs | 4 |" in text


def test_no_file_name_no_patient_and_no_place_is_told(tracked: medlens.Run) -> None:
    dataset = pd.read_csv(tracked.path / "dataset.csv", keep_default_na=False)
    secret = {Path(path).name for path in dataset["path"]} | set(dataset["patient"])
    secret |= set(dataset["pixels_sha256"])
    files = [path for path in (tracked.path / "tensorboard").rglob("*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in [*files, tracked.path / "mlflow/mlflow.db"])
    assert len(content) > 10_000
    assert [name for name in secret if name.encode() in content] == []
    assert not [path for path in (tracked.path / "mlflow").rglob("*") if path.suffix != ".db"]
    data = str(Path(tracked.path).parent.parent / "phantoms")
    assert data.encode() not in content


def test_mlflow_does_not_tell_its_makers(tracked: medlens.Run) -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    from mlflow.telemetry import get_telemetry_client

    assert get_telemetry_client() is None


def test_parameters_hold_no_path_of_the_user() -> None:
    given = {
        "data": "/home/someone/data",
        "out": "/home/someone/run",
        "split": "/home/someone/splits.csv",
        "plan": "/home/someone/plan.json",
        "weights": "imagenet,/home/someone/a.h5",
        "backbone": "vgg16",
        "drop_class": ["a", "b"],
    }
    said = parameters(make_options(given))
    assert not any("someone" in value for value in said.values())
    assert said["weights"] == "imagenet,a file"
    assert said["split"] == said["plan"] == "a file"
    assert said["drop_class"] == "a,b"
    assert {"data", "out", "cache", "quiet", "track"}.isdisjoint(said)


def test_curves_of_fold_heads_and_of_fine_tuning_are_shown_as_history_has_them(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(0)
    rows = [
        {"epoch": epoch, "fold": fold, "stage": "head"}
        for epoch in range(1, 4)
        for fold in (1.0, 2.0)
    ]
    rows += [{"epoch": epoch, "fold": np.nan, "stage": "fine_tune"} for epoch in (4, 5)]
    history = pd.DataFrame(rows).assign(**{name: random.random(8) for name in NAMES})
    run = RunDir(tmp_path)
    options = make_options({"track": ["tensorboard", "mlflow"]})
    with track(options, run) as trackers:
        trackers.replay(history)
    client = store(medlens.Run(tmp_path))
    for name, part in (
        ("fold_1", history[history["fold"] == 1]),
        ("fold_2", history[history["fold"] == 2]),
        ("fine_tune", history[history["stage"] == "fine_tune"]),
    ):
        wanted = part.set_index("epoch")[NAMES]
        shown = curves(run.tensorboard / name)
        assert list(shown.index) == list(wanted.index)
        np.testing.assert_array_equal(shown[NAMES], wanted.astype(np.float32))
        kept = in_mlflow(client, name)
        pd.testing.assert_frame_equal(kept, wanted, check_names=False, check_exact=True)


def test_a_run_that_an_error_ends_is_marked_and_begun_anew(tmp_path: Path) -> None:
    run, options = RunDir(tmp_path), make_options({"track": "mlflow"})
    with pytest.raises(ZeroDivisionError), track(options, run):
        raise ZeroDivisionError
    client = store(medlens.Run(tmp_path))
    assert told(client).info.status == "FAILED"
    with track(options, run):
        pass
    assert told(store(medlens.Run(tmp_path))).info.status == "FINISHED"


def test_without_tracking_nothing_is_made(tmp_path: Path) -> None:
    with track(make_options({}), RunDir(tmp_path)) as trackers:
        assert trackers.callbacks() == []
        trackers.replay(pd.DataFrame({"fold": [1]}))
        trackers.tell({"test": {}})
    assert list(tmp_path.iterdir()) == []
    assert isinstance(trackers, Tracking)


def test_a_missing_package_is_named_with_its_command_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, phantoms: Path
) -> None:
    find = importlib.util.find_spec
    gone = {"mlflow", "tensorboard"}
    monkeypatch.setattr(
        tracking.importlib.util, "find_spec", lambda name: None if name in gone else find(name)
    )
    for kind in ("tensorboard", "mlflow"):
        with pytest.raises(MedlensError, match=f"--track {kind}") as caught:
            medlens.train(phantoms, out=tmp_path / "run", track=[kind], **FAST)
        assert "pip install 'medlens[tracking]'" in caught.value.fix
    assert not (tmp_path / "run").exists()


def test_a_server_is_used_only_where_it_is_asked_for_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    asked = make_options({"track": "mlflow_server"})
    with pytest.raises(MedlensError, match="address of your server"):
        check_tracking(asked)
    own = f"sqlite:///{tmp_path / 'own.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own)
    check_tracking(asked)
    with track(make_options({"track": "mlflow"}), RunDir(tmp_path / "local")):
        pass
    assert not (tmp_path / "own.db").exists()
    with track(asked, RunDir(tmp_path / "told")) as trackers:
        trackers.tell({"test": {"accuracy": {"value": 0.5, "ci95": [0.4, 0.6]}}})
    assert told(client_of(own)).data.metrics["test/accuracy"] == 0.5
    assert not (tmp_path / "told" / "mlflow").exists()


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(MedlensError, match="--track"):
        make_options({"track": "wandb"})
    given = make_options({"track": ["mlflow", "tensorboard,mlflow"]})
    assert given.track == ("mlflow", "tensorboard")


class Noting(keras.callbacks.Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []
        self.logs: list[dict[str, float]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.calls.append(("train", -1))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(("begin", epoch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(("end", epoch))
        self.logs.append(logs)

    def on_train_end(self, logs: Any = None) -> None:
        self.calls.append(("train", -2))


def test_any_keras_callback_works_and_may_stop_training(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(120, 6)).astype(np.float32)
    labels = random.integers(0, 2, 120)
    rows = TrainingRows(np.arange(80), np.arange(80, 120))
    given = (features, labels, rows, 2, PLAN, lambda _: None)
    noting, table = Noting(), tmp_path / "log.csv"
    training = train_head(*given, callbacks=[noting, keras.callbacks.CSVLogger(str(table))])
    epochs = len(training.history)
    assert noting.calls[0] == ("train", -1)
    assert noting.calls[-1] == ("train", -2)
    steps = [(name, epoch) for epoch in range(epochs) for name in ("begin", "end")]
    assert noting.calls[1:-1] == steps
    pd.testing.assert_frame_equal(pd.DataFrame(noting.logs)[NAMES], training.history[NAMES])
    assert len(pd.read_csv(table)) == epochs
    plain = train_head(*given)
    pd.testing.assert_frame_equal(plain.history[NAMES], training.history[NAMES])
    early = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=10)
    stopped = train_head(*given, callbacks=[early])
    assert stopped.stop_reason == "callback"
    assert len(stopped.history) == 2
