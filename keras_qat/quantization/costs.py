"""The cost of a layer of a float model: bytes in files."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_qat.integer.storage_sizes import bias_bytes, int8_bytes, planned_weight_bytes
from keras_qat.keras_graph import GraphNode
from keras_qat.kernel_places import kernel_places

_FLOAT_BYTES = 4


def float_bytes(operation: Any) -> int:
    """The bytes of all weights in float32."""
    is_layer = isinstance(operation, keras.layers.Layer)
    return _FLOAT_BYTES * operation.count_params() if is_layer else 0


def stored_bytes(node: GraphNode, bits: int, one_scale: bool = False) -> tuple[int, int]:
    """The bytes of kernel and bias: in int8, and in the smaller of int8 and lookup tables.

    Channels that share one scale share one table.
    """
    weights, channels = math.prod(node.operation.kernel.shape), node.outputs[0].shape[-1]
    bias, tables = bias_bytes(channels), 1 if one_scale else channels
    return int8_bytes(weights) + bias, planned_weight_bytes(weights, tables, bits) + bias


def stored_slopes(layer: Any) -> int:
    """The bytes of the slopes of a PReLU in int8; 0 for any other layer."""
    return int8_bytes(math.prod(layer.alpha.shape)) if isinstance(layer, keras.layers.PReLU) else 0


def stored_bytes_in_float(node: GraphNode, has_kernel: bool) -> int:
    """The bytes of a layer in float: its kernels, if it has any, in int8, the rest in float32."""
    layer = node.operation
    shapes = [place.latent.shape for place in kernel_places(layer)]
    if has_kernel and not shapes:
        shapes = [layer.kernel.shape]
    kernels = sum(map(math.prod, shapes))
    return int8_bytes(kernels) + float_bytes(layer) - _FLOAT_BYTES * kernels
