"""ConvNeXt of keras.applications as one flat graph of plain Keras layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def flatten_convnext(network: keras.Model, prepared: Any) -> keras.Model:
    """ConvNeXt as one graph of plain layers, with the weights and the layer names of Keras's own.

    Keras's own holds models within the model, adds branches up in operations whose names differ
    from process to process, and scales them in a layer that is private to Keras's source. Here
    the scale is multiplied into the weights before it, and Dense layers become the 1 x 1
    convolutions that they are. Source: Liu et al., CVPR 2022, 11976-11986.

    Args:
        network: ConvNeXt of keras.applications, without top and without preprocessing.
        prepared: Keras tensor of the preprocessed pixels.
    """
    import keras

    name = network.name
    names = {layer.name for layer in network.layers}
    values = prepared
    for stage in range(4):
        before = f"{name}_downsampling_block_{stage - 1}" if stage else f"{name}_stem"
        for layer in network.get_layer(before).layers:
            values = _copy(layer, values, layer.name)
        block = 0
        while f"{name}_stage_{stage}_block_{block}_layernorm" in names:
            values = _convnext_block(network, f"{name}_stage_{stage}_block_{block}", values)
            block += 1
    values = _copy(network.layers[-1], values, f"{name}_layernorm")
    return keras.Model(network.inputs, values, name=name)


def _convnext_block(network: keras.Model, block: str, values: Any) -> Any:
    import keras

    def weights_of(part: str) -> list[Any]:
        return list(network.get_layer(f"{block}_{part}").get_weights())

    layers = keras.layers
    kernel, bias = weights_of("depthwise_conv")
    depthwise = layers.DepthwiseConv2D(7, padding="same", name=f"{block}_depthwise_conv")
    branch = _call(depthwise, values, [kernel.transpose(0, 1, 3, 2), bias])
    branch = _copy(network.get_layer(f"{block}_layernorm"), branch, f"{block}_layernorm")
    kernel, bias = weights_of("pointwise_conv_1")
    wide = layers.Conv2D(len(bias), 1, activation="gelu", name=f"{block}_pointwise_conv_1")
    branch = _call(wide, branch, [kernel[None, None], bias])
    kernel, bias = weights_of("pointwise_conv_2")
    (scale,) = weights_of("layer_scale")
    narrow = layers.Conv2D(len(bias), 1, name=f"{block}_pointwise_conv_2")
    branch = _call(narrow, branch, [(kernel * scale)[None, None], bias * scale])
    return layers.Add(name=f"{block}_add")([values, branch])


def _copy(layer: keras.layers.Layer, values: Any, name: str) -> Any:
    """The output of a copy of a layer, under a name."""
    copy = type(layer).from_config({**layer.get_config(), "name": name})
    return _call(copy, values, layer.get_weights())


def _call(layer: keras.layers.Layer, values: Any, weights: list[Any]) -> Any:
    """The output of a layer, which is given these weights."""
    output = layer(values)
    layer.set_weights(weights)
    return output
