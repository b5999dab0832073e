"""The cost of a layer of a float model: multiplications, and bytes in files."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_qat.integer.storage_sizes import bias_bytes, int8_bytes, planned_weight_bytes
from keras_qat.keras_graph import GraphNode
from keras_qat.kernel_places import ATTENTION, kernel_places
from keras_qat.layer_rules.restrictions import TRANSPOSED

_FLOAT_BYTES = 4


def macs(node: GraphNode) -> int | None:
    """How many multiplications by kernels a call of a layer does, for one example.

    The layer must have a kernel. An Embedding has one, and looks it up instead: 0.

    Returns:
        The number, or `None` if sizes are unknown.
    """
    layer = node.operation
    if isinstance(layer, keras.layers.Embedding):
        return 0
    if isinstance(layer, ATTENTION):
        return _of_attention(node)
    if isinstance(layer, keras.layers.EinsumDense):
        return _of_einsum(node)
    source = node.inputs if isinstance(layer, TRANSPOSED) else node.outputs
    return _times(source[0].shape[1:-1], layer.kernel.shape)


def float_bytes(operation: Any) -> int:
    """The bytes of all weights in float32."""
    is_layer = isinstance(operation, keras.layers.Layer)
    return _FLOAT_BYTES * operation.count_params() if is_layer else 0


def stored_bytes(node: GraphNode, bits: int) -> tuple[int, int]:
    """The bytes of kernel and bias: in int8, and in the smaller of int8 and lookup tables."""
    weights, channels = math.prod(node.operation.kernel.shape), node.outputs[0].shape[-1]
    bias = bias_bytes(channels)
    return int8_bytes(weights) + bias, planned_weight_bytes(weights, channels, bits) + bias


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


def _of_attention(node: GraphNode) -> int | None:
    """The multiplications of the projections; attention itself has no kernel."""
    query: Any = node.inputs[0]
    value: Any = node.inputs[min(1, len(node.inputs) - 1)]
    read: dict[str, Any] = {"key": value, "value": value}
    found = [
        _times(read.get(place.name, query).shape[1:-1], place.latent.shape)
        for place in kernel_places(node.operation)
    ]
    return None if None in found else sum(each or 0 for each in found)


def _of_einsum(node: GraphNode) -> int | None:
    (place,) = kernel_places(node.operation)
    operands, _, output = place.equation.partition("->")
    kernel = operands.rpartition(",")[2].strip()
    summed = [
        size for axis, size in zip(kernel, place.latent.shape, strict=True) if axis not in output
    ]
    return _times(node.outputs[0].shape[1:], summed)


def _times(positions: Any, sizes: Any) -> int | None:
    return None if None in positions else math.prod(positions) * math.prod(sizes)
