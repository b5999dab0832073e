"""Pass: a separable convolution becomes a depthwise one and a pointwise one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from keras_qat.quantization.passes.rewriting import Names, Part, Rewrite

_HALVES: dict[type, tuple[type, type]] = {
    keras.layers.SeparableConv1D: (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
    keras.layers.SeparableConv2D: (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
}


def _applies(layer: Any) -> bool:
    return type(layer) in _HALVES


def _parts(part: Part, names: Names) -> Iterator[Part]:
    layer = part.layer
    name = names.new(f"{layer.name}_depthwise", origin=layer.name)
    yield Part(_depthwise(layer, name), part.source, 0, 1)
    yield Part(_pointwise(layer), part.source, 1)


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


DECOMPOSE = Rewrite(_applies, _parts)
"""The layer `"sep"` becomes `"sep_depthwise"` and `"sep"`."""
