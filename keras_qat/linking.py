"""Tells the layers of a quantized model whose results runtimes round who their neighbours are."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from typing import Any

import keras

from keras_qat.keras_graph import GraphNode, consumers, nodes
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid, Quantizer, SoftmaxRounding
from keras_qat.restrictions import AVERAGE_POOLING
from keras_qat.rule import Output, Stage
from keras_qat.rules import rule_or_float
from keras_qat.wrappers import (
    QuantizeAdd,
    QuantizeBatchNormalization,
    QuantizePReLU,
    QuantizeRescaling,
    QuantizeSubtract,
    QuantizeWrapper,
)
from keras_qat.wrappers.add import AddNeighbours
from keras_qat.wrappers.affine import AffineNeighbours
from keras_qat.wrappers.neighbours import Neighbours
from keras_qat.wrappers.prelu import PReLUNeighbours
from keras_qat.wrappers.product import ProductNeighbours

_YIELDS = {
    **dict.fromkeys((QuantizeAdd, QuantizeSubtract, keras.layers.Multiply), Stage.SUM),
    QuantizePReLU: Stage.COMPLETE,
}
"""What may join the result of a layer, where it is not what may join a linear op."""


def link_neighbours(model: keras.Model) -> None:
    """Finds the neighbours of every wrapper that sits between two grids.

    A weight layer that is called several times has a bias grid for each call, and a quantizer that
    several ops share rounds from the accumulator of each: both are told by the call argument
    `source`. Sums and normalizations have neighbours if they are called once. A quantizer that
    clamps again behind an activation rounds from its grid. Where one of the grids has no integers
    (`Quantizer.deployable`), there is no int32 bias either.
    """
    _Linker(model).link()


@dataclasses.dataclass(frozen=True, eq=False)
class _Follower:
    """The call of a quantizer behind an op, and what joins the op in between.

    Attributes:
        call: of the quantizer.
        affines: the affine maps that join.
        ceiling: where an activation that joins cuts values off, if it does.
    """

    call: GraphNode
    affines: tuple[Any, ...] = ()
    ceiling: float | None = None

    @property
    def quantizer(self) -> ActivationQuantizer:
        return self.call.operation


class _Linker:
    def __init__(self, model: keras.Model):
        self._nodes = list(nodes(model))
        self._producers = {id(tensor): node for node in self._nodes for tensor in node.outputs}
        self._readers = consumers(model)
        self._calls = Counter(map(_call_key, filter(self._rounds, self._nodes)))

    def link(self) -> None:
        """Tells every layer of the model."""
        self._tell_signs()
        for node in self._nodes:
            layer = node.operation
            if isinstance(layer, Quantizer):
                layer.accumulators.clear()
            elif isinstance(layer, QuantizeWrapper):
                layer.neighbours.clear()
        for node in self._nodes:
            layer, follower = node.operation, self._follower(node)
            once = self._calls[_call_key(node)] == 1
            if isinstance(layer, QuantizePReLU):
                source = self._grid_before(node.inputs[0])
                grids = () if source is None or follower is None else (source, follower.quantizer)
                if once and grids and _deployable(*grids):
                    layer.neighbours[_source(node)] = PReLUNeighbours(*grids)
            elif isinstance(layer, QuantizeWrapper):
                neighbours = self._neighbours(node, follower) if once else None
                if neighbours is not None:
                    layer.neighbours[_source(node)] = neighbours
                    self._round_from(neighbours, follower)
            elif isinstance(layer, QuantizeAdd | QuantizeSubtract):
                found = self._between_grids(node, follower) if once else None
                layer.neighbours = None if found is None else AddNeighbours(*found)
            elif type(layer) is keras.layers.Multiply:
                found = self._between_grids(node, follower)
                if found is not None and follower is not None:
                    self._round_from(ProductNeighbours(*found, follower.ceiling), follower)
            elif isinstance(layer, QuantizeBatchNormalization | QuantizeRescaling):
                layer.neighbours = self._affine_neighbours(node, follower) if once else None
                self._round_from(layer.neighbours, follower)

    def _tell_signs(self) -> None:
        """Tells every quantizer whether anything it reads, in any of its calls, can be negative."""
        never_negative: set[int] = set()
        read: dict[Quantizer, list[Any]] = defaultdict(list)
        for node in self._nodes:
            operands_are = all(id(tensor) in never_negative for tensor in node.inputs)
            if isinstance(node.operation, Quantizer):
                read[node.operation].extend(node.inputs)
            elif not isinstance(node.operation, SoftmaxRounding):
                rule = rule_or_float(node)
                keeps = rule.lower is not None and rule.yields is not Stage.LINEAR
                operands_are = operands_are and keeps and not rule.signed
                operands_are = operands_are or rule.unsigned
            if operands_are:
                never_negative.update(map(id, node.outputs))
        for quantizer, tensors in read.items():
            quantizer.never_negative = all(id(tensor) in never_negative for tensor in tensors)

    def _round_from(self, accumulator: Any, follower: _Follower | None) -> None:
        """Lets the quantizer round from an accumulator, if no other call of it has that source."""
        if accumulator is not None and follower is not None:
            call = follower.call
            if self._calls[_call_key(call)] == 1:
                follower.quantizer.accumulators[_source(call)] = accumulator

    def _neighbours(self, node: GraphNode, follower: _Follower | None) -> Neighbours | None:
        layer, source = node.operation, self._grid_before(node.inputs[0])
        own = layer.weight_quantizer
        if source is None or follower is None:
            return None
        if not _deployable(source, own, follower.quantizer):
            return None
        behind = (follower.affines, follower.quantizer, follower.ceiling)
        return Neighbours(source, own, *behind, layer.input_gain)

    def _affine_neighbours(
        self, node: GraphNode, follower: _Follower | None
    ) -> AffineNeighbours | None:
        """Those of an affine map that is an op of its own; `None` where another one joins it."""
        source = self._grid_before(node.inputs[0])
        if source is None or follower is None or follower.affines:
            return None
        if not _deployable(source, follower.quantizer):
            return None
        return AffineNeighbours(node.operation, source, follower.quantizer, follower.ceiling)

    def _between_grids(
        self, node: GraphNode, follower: _Follower | None
    ) -> tuple[PutsOnGrid, PutsOnGrid, Quantizer] | None:
        """The grids of both operands and of the result of a sum or product."""
        left, right = (self._grid_before(tensor) for tensor in node.inputs)
        if left is None or right is None or follower is None:
            return None
        grids = (left, right, follower.quantizer)
        return grids if _deployable(*grids) else None

    def _follower(self, node: GraphNode) -> _Follower | None:
        """The quantizer behind an op and the layers that join it."""
        affines: list[Any] = []
        ceiling = None
        stage = _YIELDS.get(type(node.operation), Stage.LINEAR)
        follower = self._only_reader(node.outputs[0])
        while follower is not None and stage in _joins(follower):
            rule = rule_or_float(follower)
            if rule.output is Output.QUANTIZE:
                affines.append(follower.operation)
            elif rule.output is Output.ROUND_TO_INPUT:
                ceiling = 6.0
            follower = self._only_reader(follower.outputs[0])
        if follower is None or not isinstance(follower.operation, Quantizer):
            return None
        return _Follower(follower, tuple(affines), ceiling)

    def _rounds(self, node: GraphNode) -> bool:
        """Whether the call rounds what an op yields: not an average, weighted or not, again."""
        source = self._producers.get(id(node.inputs[0]))
        return not (
            isinstance(node.operation, Quantizer)
            and source is not None
            and type(source.operation) in (*AVERAGE_POOLING, keras.layers.UpSampling2D)
            and rule_or_float(source).output is Output.ROUND_TO_INPUT
        )

    def _grid_before(self, tensor: Any) -> PutsOnGrid | None:
        """The layer whose grid a tensor is on."""
        node = self._producers.get(id(tensor))
        while node is not None and not isinstance(node.operation, PutsOnGrid):
            if isinstance(node.operation, QuantizeWrapper) or _moves_the_grid(node):
                return None
            node = self._producers.get(id(node.inputs[0]))
        return None if node is None else node.operation

    def _only_reader(self, tensor: Any) -> GraphNode | None:
        found = self._readers.get(id(tensor), [])
        return found[0] if len(found) == 1 else None


def _source(node: GraphNode) -> int:
    return int(node.option("source", 0))


def _call_key(node: GraphNode) -> tuple[int, int]:
    return id(node.operation), _source(node)


def _deployable(*quantizers: PutsOnGrid) -> bool:
    return all(quantizer.deployable for quantizer in quantizers)


def _joins(node: GraphNode) -> frozenset[Stage]:
    """The stages of an input that a layer of the float model fuses with."""
    ours = isinstance(node.operation, PutsOnGrid | QuantizeWrapper)
    return frozenset() if ours else rule_or_float(node).joins


def _moves_the_grid(node: GraphNode) -> bool:
    return rule_or_float(node).output in (Output.QUANTIZE, Output.FIXED, Output.FLOAT)
