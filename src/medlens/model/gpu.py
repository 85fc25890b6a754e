"""The GPUs that Keras's backend sees, in plain facts."""

from __future__ import annotations

from dataclasses import dataclass

# GPUs of this compute capability and above have matrix units for bfloat16.
NATIVE_BFLOAT16 = (8, 0)


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Args:
        name: As the backend says it.
        compute_capability: NVIDIA's generation and its minor number; (0, 0) where not said.
    """

    name: str
    compute_capability: tuple[int, int]

    @property
    def has_bfloat16(self) -> bool:
        """Whether it multiplies bfloat16 natively."""
        return self.compute_capability >= NATIVE_BFLOAT16


def gpus() -> list[Gpu]:
    """The GPUs that Keras's backend sees; imports the backend."""
    import keras

    find = {"tensorflow": _by_tensorflow, "torch": _by_torch, "jax": _by_jax}
    return find[keras.backend.backend()]() if keras.backend.backend() in find else []


def processor() -> str:
    """What Keras runs a network on here: "GPU" or "CPU"."""
    return "GPU" if gpus() else "CPU"


def keep_float32() -> None:
    """Have TensorFlow multiply float32 as float32: on GPUs it would drop 13 bits of 23 (TF32)."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_tensor_float_32_execution(False)


def _by_tensorflow() -> list[Gpu]:
    import tensorflow

    found = []
    for device in tensorflow.config.list_physical_devices("GPU"):
        details = tensorflow.config.experimental.get_device_details(device)
        capability = details.get("compute_capability", (0, 0))
        found.append(Gpu(details.get("device_name", device.name), capability))
    return found


def _by_torch() -> list[Gpu]:
    import torch

    return [
        Gpu(torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number))
        for number in range(torch.cuda.device_count())
    ]


def _by_jax() -> list[Gpu]:
    import jax

    found = []
    for device in jax.devices():
        if device.platform == "gpu":
            said = str(getattr(device, "compute_capability", ""))
            numbers = said.split(".") if said.replace(".", "", 1).isdigit() else ("0",)
            found.append(Gpu(device.device_kind, (int(numbers[0]), int([*numbers, "0"][1]))))
    return found
