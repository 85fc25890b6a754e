"""A .keras file as one flat graph of plain layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlens.errors import MedlensError

if TYPE_CHECKING:
    import keras


def load_flat(path: Path) -> keras.Model:
    """The model of a .keras file without models inside models; nothing in it is executed.

    Raises:
        MedlensError: If it cannot be read or made flat.
    """
    import keras

    expected = "a Sequential or Functional model of Keras's own layers, saved with model.save"
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
        flat = copy_graph(flatten(network))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise unusable(
            f"{type(error).__name__}: {first[:200]}",
            expected,
            "Save it anew with the Keras of this machine, without Lambda or custom layers.",
            path,
        ) from None
    shape = flat.input_shape
    is_picture = isinstance(shape, tuple) and len(shape) == 4 and shape[3] == 3
    if not is_picture or shape[1] != shape[2]:
        raise unusable(
            f"an input of shape {shape}",
            "one square picture of three channels, channels last",
            "Save it with an Input of shape (side, side, 3) or (None, None, 3).",
            path,
        )
    return flat


def flatten(network: keras.Model) -> keras.Model:
    """The same layers in one graph, however deep models lie within models."""
    import keras

    def call(layer: Any, *values: Any, **options: Any) -> Any:
        if isinstance(layer, keras.Model):
            return flatten(layer).call(*values)
        return layer(*values, **options)

    if isinstance(network, keras.Sequential):
        values = pixels = keras.Input(network.input_shape[1:])
        for layer in network.layers:
            values = call(layer, values)
        return keras.Model(pixels, values)
    return keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)


def maps_of_file(path: Path, depths: Sequence[str], prepared: Any) -> list[Any]:
    """The output of each depth of the network in a .keras file.

    Args:
        path: The file.
        depths: Names of its layers.
        prepared: Keras tensor of the preprocessed pixels.
    """
    import keras

    network = load_flat(path)
    outputs = [network.get_layer(depth).output for depth in depths]
    found = keras.Model(network.input, outputs).call(prepared)
    return list(found) if isinstance(found, list | tuple) else [found]


def copy_graph(network: keras.Model) -> keras.Model:
    """The same graph with layers of its own: one that is used in two has no one output."""
    import keras

    copied = keras.models.clone_model(network)
    copied.set_weights(network.get_weights())
    return copied


def unusable(got: str, expected: str, fix: str, path: Path) -> MedlensError:
    """The error of a file that is no backbone."""
    return MedlensError(
        "The file given with --backbone cannot be used.",
        got=got,
        expected=expected,
        fix=fix,
        names=[str(path)],
    )
