"""Pass: a separable convolution becomes a depthwise one and a pointwise one."""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.keras_graph import GraphNode, rebuild
from keras_qat.transforms.layer_copies import (
    LayerCopies,
    StaysFloat,
    nothing_stays_float,
    unused_name,
)

_HALVES: dict[type, tuple[type, type]] = {
    keras.layers.SeparableConv1D: (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
    keras.layers.SeparableConv2D: (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
}


def decompose_separable(
    model: keras.Model, stays_float: StaysFloat = nothing_stays_float
) -> keras.Model:
    """The same function; the layer `"sep"` becomes `"sep_depthwise"` and `"sep"`.

    A model without separable convolutions, but for those that stay in float, is returned itself.
    """
    names = {origin: name for name, origin in origins(model, stays_float).items()}
    if not names:
        return model
    copies = LayerCopies()
    pairs: dict[int, tuple[Any, Any, Any]] = {}

    def call(node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = node.operation
        if layer.name in names:
            if id(layer) not in pairs:
                pairs[id(layer)] = (layer, _depthwise(layer, names[layer.name]), _pointwise(layer))
            _, depthwise, pointwise = pairs[id(layer)]
            return pointwise(depthwise(*args, **kwargs))
        copied = copies.of(layer) if isinstance(layer, keras.layers.Layer) else layer
        return copied(*args, **kwargs)

    result = rebuild(model, call)
    copies.copy_weights()
    for layer, depthwise, pointwise in pairs.values():
        depthwise_kernel, *pointwise_weights = layer.get_weights()
        depthwise.set_weights([depthwise_kernel])
        pointwise.set_weights(pointwise_weights)
    return result


def origins(model: keras.Model, stays_float: StaysFloat = nothing_stays_float) -> dict[str, str]:
    """Which layer of `model` each layer that the pass adds comes from, by name."""
    taken = {layer.name for layer in model.layers}
    return {
        unused_name(f"{layer.name}_depthwise", taken): layer.name
        for layer in model.layers
        if type(layer) in _HALVES and not stays_float(layer.name)
    }


def _depthwise(layer: Any, name: str) -> keras.layers.Layer:
    depthwise, _ = _HALVES[type(layer)]
    return depthwise(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        depthwise_initializer=layer.depthwise_initializer,
        depthwise_regularizer=layer.depthwise_regularizer,
        depthwise_constraint=layer.depthwise_constraint,
        name=name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )


def _pointwise(layer: Any) -> keras.layers.Layer:
    _, pointwise = _HALVES[type(layer)]
    return pointwise(
        layer.filters,
        1,
        data_format=layer.data_format,
        use_bias=layer.use_bias,
        kernel_initializer=layer.pointwise_initializer,
        kernel_regularizer=layer.pointwise_regularizer,
        kernel_constraint=layer.pointwise_constraint,
        bias_initializer=layer.bias_initializer,
        bias_regularizer=layer.bias_regularizer,
        bias_constraint=layer.bias_constraint,
        activation=layer.activation,
        activity_regularizer=layer.activity_regularizer,
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )
