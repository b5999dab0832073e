"""Pass: sums, products and averages of tensors become layers on two tensors of one rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_qat.copying import copy_of
from keras_qat.errors import UnsupportedLayerError
from keras_qat.keras_graph import GraphNode, nodes
from keras_qat.layer_rules.restrictions import MERGES
from keras_qat.quantization.passes.layer_copies import (
    LayerCopies,
    StaysFloat,
)
from keras_qat.quantization.passes.rewriting import Names

layers = keras.layers


def has_merges_to_pair(model: keras.Model, stays_float: StaysFloat) -> bool:
    """Whether a merge is an average, or has several ranks or a number of tensors other than two."""
    return any(not (_is_paired(node) or stays_float(node.operation.name)) for node in nodes(model))


def _is_paired(node: GraphNode) -> bool:
    if type(node.operation) not in MERGES:
        return True
    one_rank = len({len(tensor.shape) for tensor in node.inputs}) == 1
    return one_rank and len(node.inputs) == 2 and type(node.operation) is not layers.Average


class Pairing:
    """Calls merge layers on two tensors of one rank at a time.

    `Add(name="sum")([a, b, c, d])` becomes `"sum_partial"`, `"sum_partial_1"` and `"sum"`, the
    order in which Keras adds. `Average(name="mean")([a, b])` becomes the `Add` `"mean_partial"`
    and the `Rescaling` `"mean"` by 1/2. In front of `Multiply(name="gate")([image, features])` a
    `Reshape` `"gate_reshape"` gives the features height and width 1.

    Args:
        copies: makes the layers of the new model.
        names: makes the names of the added layers.
    """

    def __init__(self, copies: LayerCopies, names: Names):
        self._copies = copies
        self._names = names
        self._parts: dict[Any, Any] = {}
        self._divisors: dict[str, int] = {}

    def call(self, layer: Any, tensors: list[Any]) -> Any:
        """Replaces one call of a merge layer."""
        rank = max(len(tensor.shape) for tensor in tensors)
        total, *others = (self._of_rank(rank, tensor, layer) for tensor in tensors)
        average = type(layer) is layers.Average
        for index in range(len(others) - (0 if average else 1)):
            part = self._part(layer, "partial", index, lambda name: _pair_of(layer, name))
            total = part([total, others[index]])
        if average:
            return self._division(layer, len(tensors))(total)
        return self._copies.of(layer)([total, others[-1]])

    def _of_rank(self, rank: int, tensor: Any, layer: Any) -> Any:
        """The tensor with `rank` axes. Missing axes get size 1 and come directly after the batch.

        Keras expands the inputs of a merge layer in the same way. Here an added Reshape layer does
        it. All calls of the merge layer `layer` share one Reshape for each shape.
        """
        missing = rank - len(tensor.shape)
        if not missing:
            return tensor
        shape = (1,) * missing + tuple(tensor.shape[1:])
        reshape = self._part(layer, "reshape", shape, lambda name: _reshape(layer, shape, name))
        return reshape(tensor)

    def _part(self, layer: Any, suffix: str, key: Any, make: Callable[[str], Any]) -> Any:
        """The added layer for a suffix and a key; all calls of `layer` share it."""
        if (layer.name, suffix, key) not in self._parts:
            name = self._names.new(f"{layer.name}_{suffix}", origin=layer.name)
            self._parts[layer.name, suffix, key] = make(name)
        return self._parts[layer.name, suffix, key]

    def _division(self, layer: Any, count: int) -> Any:
        known = self._divisors.setdefault(layer.name, count)
        if known != count:
            raise UnsupportedLayerError(
                f"{layer.name!r} (Average): its calls have different numbers of tensors. "
                f"Received: {known} and {count}. Use one layer for each number"
            )
        return self._copies.of(layer, lambda layer: _rescaling(layer, 1.0 / count))


def _pair_of(layer: Any, name: str) -> Any:
    if type(layer) is layers.Average:
        return layers.Add(name=name, dtype=layer.dtype_policy)
    return copy_of(layer, name=name, activity_regularizer=None)  # only the whole sum has it


def _reshape(layer: Any, shape: tuple[int, ...], name: str) -> Any:
    return layers.Reshape(shape, name=name, dtype=layer.dtype_policy)


def _rescaling(layer: Any, scale: float) -> Any:
    return layers.Rescaling(
        scale,
        name=layer.name,
        dtype=layer.dtype_policy,
        activity_regularizer=layer.activity_regularizer,
    )
