"""One epoch of a head's training, compiled once: what `fit` does, without its cost per epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
# (inputs, one-hot targets, weights of the images) in the order of the steps -> the sum of the
# images' losses and how many were right: numbers, or one for each fold.
Steps = Callable[[Array, Array, Array], tuple[NDArray[np.float64], NDArray[np.float64]]]


def compile_steps(model: keras.Model, *, batch_size: int) -> Steps:
    """Compile gradient steps over many images, a batch at a time.

    Args:
        model: A compiled model from inputs (images, columns) to logits (images, classes), or from
            (images, folds, columns) to (images, folds, classes). Its loss is categorical
            cross-entropy from logits.
        batch_size: Images of a step.

    Returns:
        Trains, and gives sums of losses and of right answers: with TensorFlow those of the steps,
        with dropout on; with another backend those before each step, without dropout.
    """
    if keras.backend.backend() == "tensorflow":
        return _compile_for_tensorflow(model, batch_size)
    return _step_by_step(model, batch_size)


def _step_by_step(model: keras.Model, batch_size: int) -> Steps:
    shape = model.outputs[0].shape[1:-1]
    # Keras takes the mean of the folds; each fold is to step as if it were alone.
    folds = int(np.prod(shape))

    def run(
        inputs: Array, targets: Array, weights: Array
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        loss, right = np.zeros(shape), np.zeros(shape)
        for start in range(0, len(inputs), batch_size):
            batch = slice(start, start + batch_size)
            logits = keras.ops.convert_to_numpy(model(inputs[batch], training=False))
            losses = keras.losses.categorical_crossentropy(targets[batch], logits, from_logits=True)
            loss += (keras.ops.convert_to_numpy(losses) * weights[batch]).sum(axis=0)
            right += (logits.argmax(-1) == targets[batch].argmax(-1)).sum(axis=0)
            model.train_on_batch(inputs[batch], targets[batch], weights[batch] * folds)
        return loss, right

    return run


def _compile_for_tensorflow(model: keras.Model, batch_size: int) -> Steps:
    """All steps in one graph: Keras's `fit` spends more on an epoch of a small head than it does.

    The layers, the loss and the optimizer are Keras's.
    """
    import tensorflow as tf

    variables = model.trainable_variables
    input_shape, output_shape = model.inputs[0].shape[1:], model.outputs[0].shape[1:]

    def step(inputs: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            losses = keras.losses.categorical_crossentropy(targets, logits, from_logits=True)
            losses *= weights
            # The mean over the images; the sum over the folds, as each steps as if it were alone.
            loss = tf.reduce_sum(tf.reduce_mean(losses, axis=0))
        model.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        same = tf.cast(tf.equal(tf.argmax(logits, -1), tf.argmax(targets, -1)), tf.float32)
        return tf.reduce_sum(losses, axis=0), tf.reduce_sum(same, axis=0)

    signature = [
        tf.TensorSpec((None, *shape)) for shape in (input_shape, output_shape, output_shape[:-1])
    ]

    @tf.function(autograph=False, input_signature=signature)  # type: ignore[untyped-decorator]
    def steps(inputs: Any, targets: Any, weights: Any) -> Any:
        def body(start: Any, loss: Any, right: Any) -> tuple[Any, Any, Any]:
            end = start + batch_size
            more = step(inputs[start:end], targets[start:end], weights[start:end])
            return end, loss + more[0], right + more[1]

        zeros = tf.zeros(output_shape[:-1])
        count = tf.shape(inputs)[0]
        return tf.while_loop(
            lambda start, *_: start < count,
            body,
            (tf.constant(0), zeros, zeros),
            parallel_iterations=1,
        )

    def run(
        inputs: Array, targets: Array, weights: Array
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        _, loss, right = steps(inputs, targets, weights)
        return loss.numpy().astype(np.float64), right.numpy().astype(np.float64)

    return run
