"""`RuledGraph`: a model of layers with the rule of every call."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_qat.keras_graph import GraphNode, consumers, nodes
from keras_qat.keras_masks import mask_tensors
from keras_qat.layer_rules.rule import Output, Rule
from keras_qat.layer_rules.table import rule_or_float
from keras_qat.lowering.shape import lower_identity
from keras_qat.quantization.plan import Place
from keras_qat.quantized_layers import QuantizeWrapper

MASK = Rule(Output.FLOAT)
"""The rule of a raw operation that computes the mask of a sequence."""

ABSORBED = Rule(Output.SAME_AS_INPUT)
"""The rule of a Rescaling whose factor joins the weight scales of the layers that read it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of one layer.

    Attributes:
        node: the call in the graph.
        rule: the rule of the layer here; the rule of a layer in float if it has none.
        index: its index in the order of the graph.
    """

    node: GraphNode
    rule: Rule
    index: int

    @property
    def layer(self) -> Any:
        return self.node.operation

    @property
    def name(self) -> str:
        name: str = self.node.operation.name
        return name


class RuledGraph:
    """The calls of a model, the readers of its tensors, and the absorbed Rescaling layers.

    `Rescaling(1 / 255)` of an input, in front of a convolution, becomes no op. Its output has the
    codes of the input, and the factor joins the weight scales of the convolution. The factor must
    be positive and the same for all channels, the offset must be 0, and every reader must be a
    weight layer. Layers that do nothing in inference, such as image augmentation, may stand before
    it.

    Args:
        model: the normalized float model: linear weight layers, merges of two tensors.
        stays_float: tells for a layer name whether the layer is left in float.
    """

    def __init__(self, model: keras.Model, stays_float: Callable[[str], bool]):
        self.model = model
        self.masks = mask_tensors(model)
        found = [Call(node, self._rule(node), index) for index, node in enumerate(nodes(model))]
        self._by_output = {id(tensor): call for call in found for tensor in call.node.outputs}
        self._consumers = consumers(model)
        self._counts = Counter(id(call.layer) for call in found)
        absorbed = {call.index for call in self._absorbed(found, stays_float)}
        self.calls = [
            dataclasses.replace(call, rule=ABSORBED) if call.index in absorbed else call
            for call in found
        ]
        self._by_output = {id(tensor): call for call in self.calls for tensor in call.node.outputs}

    def _rule(self, node: GraphNode) -> Rule:
        return MASK if id(node.outputs[0]) in self.masks else rule_or_float(node)

    def tensor(self, place: Place) -> Any:
        """The symbolic tensor at a place."""
        if place.call is None:
            return self.model.inputs[place.index]
        return self.calls[place.call].node.outputs[place.index]

    def readers(self, tensor: Any) -> list[Call | None]:
        """All calls that read a tensor; `None` stands for a model output."""
        return [
            None if node is None else self._by_output[id(node.outputs[0])]
            for node in self._consumers.get(id(tensor), [])
        ]

    def is_output(self, tensor: Any) -> bool:
        """Whether the tensor is an output of the model."""
        return None in self._consumers.get(id(tensor), [])

    def index_before(self, call: Call) -> str | None:
        """The name of a layer that yields indices to this call; `None` without one."""
        makers = (self._by_output.get(id(tensor)) for tensor in call.node.inputs)
        found = (each.name for each in makers if each and each.rule.output is Output.INDEX)
        return next(found, None)

    def is_called_once(self, call: Call) -> bool:
        return self._counts[id(call.layer)] == 1

    def input_gain(self, call: Call) -> float:
        """The factor of an absorbed Rescaling before a weight layer; 1 without one."""
        before = self._by_output.get(id(call.node.inputs[0]))
        return _factor(before) if before is not None and before.rule is ABSORBED else 1.0

    def _absorbed(self, calls: list[Call], stays_float: Callable[[str], bool]) -> Iterator[Call]:
        of_inputs = {id(tensor) for tensor in self.model.inputs}
        for call in calls:
            if id(call.node.inputs[0]) not in of_inputs or stays_float(call.name):
                continue
            readers = self.readers(call.node.outputs[0])
            if call.rule.lower is lower_identity:
                of_inputs.update(map(id, call.node.outputs))
            elif self._can_be_absorbed(call) and readers:
                kept = any(each is None or stays_float(each.name) for each in readers)
                if not kept and all(map(self._takes_a_factor, readers)):
                    yield call

    def _can_be_absorbed(self, call: Call) -> bool:
        layer = call.layer
        if type(layer) is not keras.layers.Rescaling or not self.is_called_once(call):
            return False
        factor, offset = np.asarray(layer.scale), np.asarray(layer.offset)
        by_one = factor.size == 1 and np.all(factor > 0) and not np.any(offset)
        return bool(by_one) and layer.activity_regularizer is None

    def _takes_a_factor(self, call: Call | None) -> bool:
        wrapper = None if call is None else call.rule.wrapper
        wraps = wrapper is not None and issubclass(wrapper, QuantizeWrapper)
        return wraps and call is not None and self.is_called_once(call)


def _factor(call: Call) -> float:
    return float(np.asarray(call.layer.scale).item())
