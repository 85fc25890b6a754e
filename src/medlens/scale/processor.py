"""What the workers of a cluster compute on: all with the same, since last digits depend on it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from medlens.errors import MedlensError
from medlens.model.engine import choose_precision
from medlens.model.gpu import gpus, processor
from medlens.scale.cluster import find_gpu_kinds, find_pool, import_ray, no_room
from medlens.scale.worker import this_node

# The more careful first.
PRECISIONS = ("float32", "bfloat16")
SECONDS_FOR_A_GPU = 300.0


def find_processor(begun_on: str = "", *, patience: float = SECONDS_FOR_A_GPU) -> str:
    """What the connected cluster runs networks on: "GPU" where it has one, else "CPU".

    Args:
        begun_on: What finished parts of the job were made on: for a GPU it waits, then.
        patience: How many seconds.

    Raises:
        MedlensError: If there is no node, other jobs hold the GPUs, or Keras cannot use them.
    """
    find_pool(gpus=0)  # waits for a first node
    if begun_on == "GPU":
        with suppress(MedlensError):  # what is to be done without one, the job decides
            find_pool(gpus=1, patience=patience)
    answers = _ask_gpus(processor)
    if "CPU" in answers:
        raise MedlensError(
            "Keras cannot use the GPUs of the cluster.",
            got="a node to whose workers Ray gives a GPU, and where Keras finds none",
            expected="the libraries for the GPU beside Keras's backend on every node that has one",
            fix="Install them there (for TensorFlow: pip install 'tensorflow[and-cuda]'), or start "
            "Ray on these nodes with --num-gpus=0.",
        )
    return "GPU" if answers else "CPU"


def check_processor(wanted: str) -> None:
    """Refuse to compute on this node with something else than the other parts are made with.

    Args:
        wanted: "GPU" or "CPU".

    Raises:
        MedlensError: If Keras would.
    """
    found = processor()
    if found != wanted:
        raise MedlensError(
            "A node of the cluster would compute with something else than the others.",
            got=f"on the node {this_node()}: {found}",
            expected=f"{wanted}: the last digits depend on it",
            fix="Tell Ray how many GPUs the node has (ray start --num-gpus), or hide them from it "
            "(CUDA_VISIBLE_DEVICES=); then repeat the command.",
        )


def find_precision() -> tuple[str, str] | None:
    """What the connected cluster runs networks on, and a precision that all of it is fast in.

    Returns:
        "CPU" or "GPU", and "bfloat16" or "float32"; None where neither the cluster nor this machine
        has a GPU, so that the engine is chosen as on one machine.

    Raises:
        MedlensError: As `find_processor`.
    """
    if find_processor() == "CPU":
        return ("CPU", "float32") if gpus() else None
    return "GPU", min(_ask_gpus(_precision_of_keras), key=PRECISIONS.index)


def _precision_of_keras() -> str:
    return choose_precision("keras")


def _ask_gpus(question: Callable[[], str]) -> list[str]:
    """The answer of a node of each kind of GPU; none where there is no GPU.

    Raises:
        MedlensError: If other jobs hold the GPUs for long.
    """
    ray: Any = import_ray()
    ask = ray.remote(question)
    asked = [
        ask.options(num_cpus=0, num_gpus=1, resources=kind).remote() for kind in find_gpu_kinds()
    ]
    if not asked:
        return []
    answered, waiting = ray.wait(asked, num_returns=len(asked), timeout=SECONDS_FOR_A_GPU)
    for one in waiting:
        ray.cancel(one)
    if waiting:
        raise no_room(f"no GPU free for {SECONDS_FOR_A_GPU:g} s")
    return [str(answer) for answer in ray.get(answered)]
