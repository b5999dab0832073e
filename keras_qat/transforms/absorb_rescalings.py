"""Pass: a Rescaling of an input, by one factor, is left to the weight layers that read it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np

from keras_qat.keras_graph import GraphNode, consumers, nodes, rebuild
from keras_qat.lowering.shape import lower_identity
from keras_qat.rules import rule_or_float
from keras_qat.transforms.layer_copies import LayerCopies, StaysFloat, nothing_stays_float
from keras_qat.wrappers import AbsorbedRescaling, QuantizeWrapper

layers = keras.layers


def absorb_rescalings(
    model: keras.Model, stays_float: StaysFloat = nothing_stays_float
) -> keras.Model:
    """The same function with such layers marked, as `AbsorbedRescaling`; else the model itself.

    `Rescaling(1 / 255)` in front of a convolution is no op of its own then: the integers of its
    output are those of the input, and the factor joins the convolution's weight scales. A factor
    must be positive and the same for all channels, and the offset 0. Layers that do nothing in
    inference, such as those that augment images, may stand before it.
    """
    found = _Absorbable(model, stays_float)
    absorbed = {id(node.operation) for node in nodes(model) if found.holds(node)}
    if not absorbed:
        return model
    copies = LayerCopies()

    def call(node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mark = AbsorbedRescaling.of if id(node.operation) in absorbed else None
        return copies.of(node.operation, mark)(*args, **kwargs)

    result = rebuild(model, call)
    copies.copy_weights()
    return result


class _Absorbable:
    def __init__(self, model: keras.Model, stays_float: StaysFloat):
        self._stays_float = stays_float
        self._readers = consumers(model)
        self._calls = Counter(id(node.operation) for node in nodes(model))
        self._input_values = {id(tensor) for tensor in model.inputs}
        for node in nodes(model):
            if id(node.inputs[0]) in self._input_values and self._does_nothing(node):
                self._input_values.update(map(id, node.outputs))

    def holds(self, node: GraphNode) -> bool:
        """Whether a call is one of a Rescaling that all its readers can take on."""
        layer = node.operation
        if type(layer) is not layers.Rescaling or self._calls[id(layer)] > 1:
            return False
        if layer.activity_regularizer is not None:
            return False
        factor, offset = np.asarray(layer.scale), np.asarray(layer.offset)
        if factor.size != 1 or not np.all(factor > 0) or np.any(offset):
            return False
        if id(node.inputs[0]) not in self._input_values or self._stays_float(layer.name):
            return False
        readers = self._readers.get(id(node.outputs[0]), [])
        return bool(readers) and all(map(self._takes_a_factor, readers))

    def _does_nothing(self, node: GraphNode) -> bool:
        """Whether a call yields its input in inference, on the same grid."""
        name = node.operation.name
        return rule_or_float(node).lower is lower_identity and not self._stays_float(name)

    def _takes_a_factor(self, reader: GraphNode | None) -> bool:
        if reader is None or self._stays_float(reader.operation.name):
            return False
        wrapper = rule_or_float(reader).wrapper
        once = self._calls[id(reader.operation)] == 1
        return once and wrapper is not None and issubclass(wrapper, QuantizeWrapper)
