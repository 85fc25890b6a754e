"""How fine-tuning is to be done, and the file from which it goes on after a break."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from medlens.files import write_bytes
from medlens.model.engine import FrozenPass
from medlens.model.head import Head, TrainingRows
from medlens.model.head_plan import HeadPlan
from medlens.model.history import History

BATCH = 32
# Raise it when the same plan trains otherwise.
VERSION = 2
Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class FineTuningPlan:
    """How a head and the last blocks of its backbone are trained together.

    Args:
        head: How the head was trained; epochs, rate, patience and seed are those of fine-tuning.
        blocks: How many of the last blocks learn; a block lies behind one depth of the backbone
            and ends at the next.
        preset: What may change in the views of a training image.
        features: "all" or "last": the features that the head reads.
        batch_size: Images of a step.
    """

    head: HeadPlan
    blocks: int
    preset: str
    features: str
    batch_size: int = BATCH


@dataclass(frozen=True)
class Pictures:
    """Pictures to be trained on or measured, by their keys.

    Args:
        read: Gives pictures of some keys, uint8 of shape (keys, size, size, 3).
        keys: Content keys, one per image.
    """

    read: Callable[[Sequence[str]], NDArray[np.uint8]]
    keys: Sequence[str]

    def of(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """The pictures of some images, float32 as the network takes them."""
        return self.read([self.keys[row] for row in rows]).astype(np.float32)


def settings_digest(
    frozen_pass: FrozenPass,
    head: Head,
    pictures: Pictures,
    labels: NDArray[np.int64],
    rows: TrainingRows,
    plan: FineTuningPlan,
) -> str:
    """Changes with everything that training depends on."""
    facts = [VERSION, keras.version(), keras.backend.backend(), frozen_pass.key(), asdict(plan)]
    digest = hashlib.sha256(json.dumps(facts, default=str).encode())
    for kernel, bias in head.layers:
        digest.update(kernel.tobytes() + bias.tobytes())
    for part in (rows.fit, rows.stop):
        digest.update("\n".join(pictures.keys[row] for row in part).encode())
        digest.update(labels[part].tobytes())
    return digest.hexdigest()


def write_checkpoint(
    path: Path, facts: str, state: Sequence[keras.Variable], history: History[Arrays]
) -> None:
    """All that is needed to go on, in one file that is whole or not there."""
    said = {
        "facts": facts,
        "rows": history.rows,
        "best_epoch": history.best_epoch,
        "best_loss": history.best_loss,
        "stop_reason": history.stop_reason,
        "stop_text": history.stop_text,
    }
    arrays = {f"state_{n}": keras.ops.convert_to_numpy(one) for n, one in enumerate(state)}
    arrays |= {f"best_{n}": one for n, one in enumerate(history.best_weights)}
    buffer = io.BytesIO()
    np.savez(buffer, said=np.array(json.dumps(said)), **arrays)
    write_bytes(path, buffer.getbuffer())


def read_checkpoint(
    path: Path, facts: str, state: Sequence[keras.Variable], history: History[Arrays]
) -> int:
    """Go back to where a checkpoint of the same training was; says after how many epochs."""
    if not path.is_file():
        return 0
    with np.load(path, allow_pickle=False) as kept:
        said = json.loads(str(kept["said"]))
        if said["facts"] != facts:
            return 0
        for number, variable in enumerate(state):
            variable.assign(kept[f"state_{number}"])
        count = sum(name.startswith("best_") for name in kept.files)
        history.best_weights = tuple(kept[f"best_{number}"] for number in range(count))
    history.rows = said["rows"]
    history.best_epoch, history.best_loss = said["best_epoch"], said["best_loss"]
    history.stop_reason, history.stop_text = said["stop_reason"], said["stop_text"]
    return len(history.rows)
