"""One epoch of a head's training, compiled once: what `fit` does, without its cost per epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
# (inputs, one-hot targets, weights of the images) in the order of the steps -> the sum of the
# images' losses and how many were right, both with dropout on.
Steps = Callable[[Array, Array, Array], tuple[float, float]]


def compile_steps(model: keras.Model, *, batch_size: int) -> Steps:
    """Compile gradient steps over many images, a batch at a time.

    Args:
        model: A compiled model from inputs to logits, of one input and one output. Its loss is
            categorical cross-entropy from logits, its only metric the accuracy.
        batch_size: Images of a step.
    """
    if keras.backend.backend() == "tensorflow":
        return _compile_for_tensorflow(model, batch_size)
    return _step_by_step(model, batch_size)


def _step_by_step(model: keras.Model, batch_size: int) -> Steps:
    def run(inputs: Array, targets: Array, weights: Array) -> tuple[float, float]:
        loss = right = 0.0
        for start in range(0, len(inputs), batch_size):
            batch = slice(start, start + batch_size)
            model.reset_metrics()
            logs = model.train_on_batch(
                inputs[batch], targets[batch], weights[batch], return_dict=True
            )
            count = len(inputs[batch])
            loss += float(logs["loss"]) * count
            right += float(logs["accuracy"]) * count
        return loss, right

    return run


def _compile_for_tensorflow(model: keras.Model, batch_size: int) -> Steps:
    """All steps in one graph: Keras's `fit` spends more on an epoch of a small head than it does.

    The layers, the loss and the optimizer are Keras's.
    """
    import tensorflow as tf

    variables = model.trainable_variables
    cross_entropy = keras.losses.CategoricalCrossentropy(from_logits=True)

    def step(inputs: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            loss = cross_entropy(targets, logits, sample_weight=weights)
        model.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        same = tf.equal(tf.argmax(logits, 1), tf.argmax(targets, 1))
        count = tf.cast(tf.shape(inputs)[0], tf.float32)
        return loss * count, tf.reduce_sum(tf.cast(same, tf.float32))

    columns, classes = model.inputs[0].shape[1], model.outputs[0].shape[1]
    signature = [tf.TensorSpec(shape) for shape in ((None, columns), (None, classes), (None,))]

    @tf.function(autograph=False, input_signature=signature)  # type: ignore[untyped-decorator]
    def steps(inputs: Any, targets: Any, weights: Any) -> Any:
        def body(start: Any, loss: Any, right: Any) -> tuple[Any, Any, Any]:
            end = start + batch_size
            more = step(inputs[start:end], targets[start:end], weights[start:end])
            return end, loss + more[0], right + more[1]

        zero = (tf.constant(0), tf.constant(0.0), tf.constant(0.0))
        count = tf.shape(inputs)[0]
        return tf.while_loop(lambda start, *_: start < count, body, zero, parallel_iterations=1)

    def run(inputs: Array, targets: Array, weights: Array) -> tuple[float, float]:
        _, loss, right = steps(inputs, targets, weights)
        return float(loss), float(right)

    return run
