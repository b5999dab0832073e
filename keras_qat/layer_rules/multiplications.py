"""How many multiply-accumulates (MACs) a call of a layer with kernels does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_qat.kernel_places import ATTENTION, kernel_places
from keras_qat.layer_rules.restrictions import TRANSPOSED


def macs(layer: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> int | None:
    """How many multiplications by kernels a call of a layer does, for one example.

    The layer must have a kernel. An Embedding has one, and looks it up instead: 0. The slopes of a
    PReLU do not count: 0.

    Args:
        layer: the float layer.
        inputs, outputs: the symbolic tensors that the call reads and yields.

    Returns:
        The number, or `None` if sizes are unknown.
    """
    found = kernel_macs(layer, inputs, outputs)
    return None if None in found else sum(each or 0 for each in found)


def kernel_macs(
    layer: Any, inputs: Sequence[Any], outputs: Sequence[Any]
) -> tuple[int | None, ...]:
    """The same for each kernel of the layer; an attention layer has several.

    >>> dense = keras.layers.Dense(5)
    >>> x = keras.Input((4, 3))
    >>> kernel_macs(dense, [x], [dense(x)])
    (60,)
    """
    if isinstance(layer, keras.layers.Embedding | keras.layers.PReLU):
        return (0,)
    if isinstance(layer, ATTENTION):
        return _of_attention(layer, inputs)
    if isinstance(layer, keras.layers.EinsumDense):
        return (_of_einsum(layer, outputs),)
    source = inputs if isinstance(layer, TRANSPOSED) else outputs
    return (_times(source[0].shape[1:-1], layer.kernel.shape),)


def _of_attention(layer: Any, inputs: Sequence[Any]) -> tuple[int | None, ...]:
    """The multiplications of the projections; attention itself has no kernel."""
    query: Any = inputs[0]
    value: Any = inputs[min(1, len(inputs) - 1)]
    read: dict[str, Any] = {"key": value, "value": value}
    return tuple(
        _times(read.get(place.name, query).shape[1:-1], place.latent.shape)
        for place in kernel_places(layer)
    )


def _of_einsum(layer: Any, outputs: Sequence[Any]) -> int | None:
    (place,) = kernel_places(layer)
    operands, _, output = place.equation.partition("->")
    kernel = operands.rpartition(",")[2].strip()
    summed = [
        size for axis, size in zip(kernel, place.latent.shape, strict=True) if axis not in output
    ]
    return _times(outputs[0].shape[1:], summed)


def _times(positions: Any, sizes: Any) -> int | None:
    return None if None in positions else math.prod(positions) * math.prod(sizes)
