"""What runs the frozen network: Keras on its backend, or ncnn on a processor."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medlens.data.images import RESIZE_FILTER
from medlens.data.remote import local_side
from medlens.data.scan import PictureRule
from medlens.errors import MedlensError
from medlens.files import write_bytes, write_json
from medlens.model import fast_cpu
from medlens.model.backbone import Backbone, build_backbone
from medlens.model.forward import CPU_BATCH, Forward, compile_forward, in_bfloat16
from medlens.model.gpu import gpus, processor
from medlens.model.weights import Weights

if TYPE_CHECKING:
    import keras

# ncnn's features count as Keras's up to this difference, relative to the mean of their kind.
LARGEST_DIFFERENCE = 1e-4
# Raise it when the features of the same picture change.
FEATURES_VERSION = 3
NOT_A_NUMBER = 1e9


@dataclass(frozen=True)
class TunedWeights:
    """The weights of a backbone after fine-tuning.

    Args:
        path: An .npz file of all weights in Keras's order.
        sha256: Of the weights.
    """

    path: Path
    sha256: str

    def read(self) -> list[NDArray[Any]]:
        """The weights in Keras's order."""
        with np.load(self.path, allow_pickle=False) as kept:
            return [kept[f"arr_{number}"] for number in range(len(kept.files))]


def write_tuned(path: Path, weights: Sequence[NDArray[Any]]) -> TunedWeights:
    """Write the weights of a fine-tuned backbone, given in Keras's order."""
    digest = hashlib.sha256()
    for one in weights:
        digest.update(np.ascontiguousarray(one).tobytes())
    buffer = io.BytesIO()
    np.savez(buffer, *weights)
    write_bytes(path, buffer.getbuffer())
    return TunedWeights(path, digest.hexdigest())


@dataclass(frozen=True)
class FrozenPass:
    """Everything that decides the value of a feature, apart from the picture's pixels.

    Args:
        backbone: The network.
        weights: Its weights.
        rule: How an image becomes a picture.
        engine: "keras" or "ncnn".
        precision: Of the convolutions: "float32", or "bfloat16" on GPUs. Features are float32.
        tuned: Take the place of the weights, after fine-tuning; None before.
        processor: "CPU" or "GPU": what Keras runs it on.
    """

    backbone: Backbone
    weights: Weights
    rule: PictureRule
    engine: str
    precision: str = "float32"
    tuned: TunedWeights | None = None
    processor: str = "CPU"

    @property
    def weights_sha256(self) -> str:
        """Changes with the weights that the network really has."""
        return self.tuned.sha256 if self.tuned else self.weights.sha256

    def key(self) -> str:
        """Name of the folder that keeps these features."""
        facts = {
            "backbone": self.backbone.name,
            "weights": self.weights_sha256,
            "size": self.rule.size,
            "fit": self.rule.fit,
            "resize": RESIZE_FILTER,
            "engine": _engine_versions(self.engine),
            "precision": self.precision,
            "processor": self.processor,
            "version": FEATURES_VERSION,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return f"{self.backbone.name}-{self.rule.name}-{self.engine}-{digest}"

    @property
    def bytes_per_image(self) -> int:
        """Disk space of one image's features."""
        return 4 * len(self.backbone.columns)

    @cached_property
    def model(self) -> keras.Model:
        """The backbone in Keras, from raw pixels to features; built when it is first asked for."""
        model = build_backbone(self.backbone, self.weights, size=self.rule.size)
        if self.tuned:
            model.set_weights(self.tuned.read())
        return model

    def forward(self, cache: Path, *, threads: int | None = None) -> Forward:
        """Load the network.

        Args:
            cache: The cache folder; it keeps the network in ncnn's form.
            threads: Pictures side by side in ncnn, which change no digit; None for one per core.
        """
        if self.engine == "ncnn":
            network = _open_network(self, cache, threads)
            # So that the last picture of a batch does not keep many cores waiting.
            return Forward(max(CPU_BATCH, 8 * network.threads), network, network.maps)
        is_wide = self.precision == "float32"
        return compile_forward(self.model if is_wide else in_bfloat16(self.model))


def choose_pass(
    backbone: Backbone,
    weights: Weights,
    rule: PictureRule,
    engine: str,
    cache: Path,
    read_pictures: Callable[[], NDArray[np.uint8]],
    say: Callable[[str], None],
    tuned: TunedWeights | None = None,
) -> FrozenPass:
    """Choose the engine; ncnn only where it gives Keras's features on a few of the user's images.

    Args:
        backbone: The network.
        weights: Its weights.
        rule: How an image becomes a picture.
        engine: "auto", "keras" or "ncnn", as the user asked.
        cache: The cache folder; it keeps the outcome of the comparison.
        read_pictures: Gives a few pictures.
        say: Told when ncnn is passed over.
        tuned: Weights after fine-tuning.

    Raises:
        MedlensError: If ncnn was asked for and cannot be used.
    """
    chosen = choose_engine(backbone, engine)

    def with_engine(name: str) -> FrozenPass:
        runs_on = processor() if name == "keras" else "CPU"
        return FrozenPass(backbone, weights, rule, name, choose_precision(name), tuned, runs_on)

    frozen_pass = with_engine(chosen)
    reason = check_ncnn(frozen_pass, cache, read_pictures) if chosen == "ncnn" else ""
    if not reason:
        return frozen_pass
    if engine == "ncnn":
        raise MedlensError(
            f"The engine ncnn cannot run {backbone.name} here.",
            got=reason,
            expected="features within 1e-4 of Keras's",
            fix="Leave --engine at auto, or ask for keras.",
        )
    say(f"The frozen network runs in Keras, not in ncnn: {reason}.")
    return with_engine("keras")


def choose_precision(engine: str) -> str:
    """Say "bfloat16" for Keras on a GPU that multiplies it natively, else "float32"."""
    found = gpus() if engine == "keras" else []
    return "bfloat16" if found and found[0].has_bfloat16 else "float32"


def choose_engine(backbone: Backbone, engine: str) -> str:
    """The engine by rule, not by timing: features must be the same bytes in every run.

    Args:
        backbone: The network.
        engine: "keras", "ncnn", or "auto": ncnn where it is much faster and there is no GPU.

    Raises:
        MedlensError: If ncnn is asked for and cannot be used.
    """
    if engine == "ncnn" and (reason := fast_cpu.why_not()):
        raise MedlensError(
            "The engine ncnn cannot be used.",
            got=reason,
            expected="the package ncnn, 1.0.20261020 or newer",
            fix="pip install --upgrade ncnn, or leave --engine at auto.",
        )
    if engine != "auto":
        return engine
    is_fast = backbone.cpu_engine == "ncnn" and not fast_cpu.why_not() and not gpus()
    return "ncnn" if is_fast else "keras"


def _open_network(
    frozen_pass: FrozenPass, cache: Path, threads: int | None = None
) -> fast_cpu.Network:
    """Load ncnn's files, which are written into the cache on first use.

    Raises:
        UnsupportedLayer: If ncnn would not compute the same as Keras.
    """
    folder = _ncnn_folder(frozen_pass, cache)
    try:
        return fast_cpu.Network(fast_cpu.read_ncnn(folder), threads=threads)
    except fast_cpu.DamagedFiles:
        depths, size = frozen_pass.backbone.depths, frozen_pass.rule.size
        files = fast_cpu.write_ncnn(frozen_pass.model, depths=depths, size=size, folder=folder)
        return fast_cpu.Network(files, threads=threads)


def _ncnn_folder(frozen_pass: FrozenPass, cache: Path) -> Path:
    backbone = frozen_pass.backbone
    facts = [fast_cpu.FORMAT_VERSION, frozen_pass.weights_sha256, *backbone.depths]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return local_side(cache) / "ncnn" / f"{backbone.name}-{frozen_pass.rule.size}px-{digest}"


def check_ncnn(
    frozen_pass: FrozenPass, cache: Path, read_pictures: Callable[[], NDArray[np.uint8]]
) -> str:
    """Compare ncnn with Keras on real pictures, once for these weights on this machine.

    Args:
        frozen_pass: The network.
        cache: The cache folder; it keeps the outcome.
        read_pictures: Gives a few pictures; called only if the comparison is still to be made.

    Returns:
        Why ncnn must not be used, or "".
    """
    outcome = _ncnn_folder(frozen_pass, cache) / f"checked-{_this_machine()}.json"
    known = _read_difference(outcome)
    if known is not None:
        return _judge(known)
    pictures = read_pictures()
    if not len(pictures):
        return "there is no picture to check it on"
    try:
        features = _open_network(frozen_pass, cache)(pictures)
    except fast_cpu.UnsupportedLayer as error:
        return f"it does not know the layer {error}"
    # Called once: compiling would take longer than running.
    expected = np.asarray(frozen_pass.model(pictures.astype(np.float32), training=False))
    difference = relative_difference(features, expected, frozen_pass.backbone)
    write_json(outcome, {"pictures": len(pictures), "difference": difference})
    return _judge(difference)


def relative_difference(
    features: NDArray[np.float32], expected: NDArray[np.float32], backbone: Backbone
) -> float:
    """The largest difference of a feature, relative to the mean of its depth and statistic.

    Args:
        features: Shape (pictures, columns).
        expected: The same by Keras.
        backbone: Says which columns belong together.

    Returns:
        0 or more; 1e9 where one of them is not a number.
    """
    largest = 0.0
    start = 0
    for count in backbone.channels:
        for _ in ("mean", "spread"):
            columns = slice(start, start + count)
            scale = float(np.abs(expected[:, columns]).mean())
            difference = float(np.abs(features[:, columns] - expected[:, columns]).max())
            # A depth that is dead in every picture has no scale; then any difference is too much.
            relative = difference / scale if scale > 0 else difference
            largest = max(largest, relative if np.isfinite(relative) else NOT_A_NUMBER)
            start += count
    return largest


def _judge(difference: float) -> str:
    if difference < LARGEST_DIFFERENCE:
        return ""
    return f"its features differ from Keras's by {difference:.2g} (relative)"


def _read_difference(outcome: Path) -> float | None:
    try:
        return float(json.loads(outcome.read_text(encoding="utf-8"))["difference"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _this_machine() -> str:
    """Changes with the processor and with ncnn; a cache may be shared by machines."""
    import ncnn

    facts = [ncnn.__version__, platform.machine(), platform.processor(), platform.node()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _engine_versions(engine: str) -> dict[str, str]:
    """Whatever computes the features, with its version."""
    names = ["ncnn"]
    if engine == "keras":
        from keras import backend

        names = ["keras", backend.backend()]
    return {name: importlib.metadata.version(name) for name in names}
