"""LiteRT in 8-bit integers: calibrated on pictures, with the loss in accuracy measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medlens.serve.export_formats import INPUT_NAME, Source, write_litert_file

# What follows the convolutions stays in float32. Pooled features differ in size by orders of
# magnitude, and 8 bits for all of them together leave nothing of the small ones.
KEPT_IN_FLOAT = (
    "CONCATENATION",
    "FULLY_CONNECTED",
    "MEAN",
    "MUL",
    "RESHAPE",
    "RSQRT",
    "SOFTMAX",
    "SQRT",
    "SQUARED_DIFFERENCE",
    "SUB",
)


def write_int8(source: Source, pictures: NDArray[np.uint8], path: Path) -> None:
    """Write a .tflite file whose convolutions compute in 8-bit integers; pixels go in as before.

    Args:
        source: The network and its facts.
        pictures: For calibration: RGB, 0 to 255, of shape (n, size, size, 3).
        path: Where to write.
    """
    import tensorflow

    def representative() -> Iterator[dict[str, Any]]:
        for picture in pictures:
            yield {INPUT_NAME: picture[None].astype(np.float32)}

    lite = tensorflow.lite
    converter = lite.TFLiteConverter.from_saved_model(str(source.saved_model))
    converter.optimizations = [lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    options = lite.experimental.QuantizationDebugOptions(denylisted_ops=list(KEPT_IN_FLOAT))
    # The converter alone cannot leave operations out; the debugger made for that can.
    debugger = lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=representative, debug_options=options
    )
    write_litert_file(debugger.get_nondebug_quantized_model(), source, path)


def measure_loss(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    labels: Sequence[str],
    classes: Sequence[str],
) -> dict[str, Any]:
    """The accuracy of the original and of the quantised network on the same images.

    Args:
        before: Probabilities of the original, of shape (images, classes).
        after: Those of the quantised network.
        labels: The true classes.
        classes: Class names in the order of the probabilities.

    Returns:
        n; accuracy_before, accuracy_after and loss (before minus after), from 0 to 1;
        other_answers: images whose most probable class changed.
    """
    names = np.asarray(classes)
    first, second = names[before.argmax(axis=1)], names[after.argmax(axis=1)]
    truth = np.asarray(labels)
    accuracies = [float(np.mean(said == truth)) for said in (first, second)]
    return {
        "n": len(truth),
        "accuracy_before": accuracies[0],
        "accuracy_after": accuracies[1],
        "loss": accuracies[0] - accuracies[1],
        "other_answers": int(np.sum(first != second)),
    }
