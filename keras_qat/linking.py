"""Tells the layers of a quantized model whose results runtimes round who their neighbours are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras

from keras_qat.keras_graph import GraphNode, consumers, nodes
from keras_qat.quantizers import Quantizer
from keras_qat.restrictions import AVERAGE_POOLING
from keras_qat.rule import Output, Stage
from keras_qat.rules import rule_or_float
from keras_qat.wrappers import (
    QuantizeAdd,
    QuantizeBatchNormalization,
    QuantizeRescaling,
    QuantizeSubtract,
    QuantizeWrapper,
)
from keras_qat.wrappers.add import AddNeighbours
from keras_qat.wrappers.affine import AffineNeighbours
from keras_qat.wrappers.neighbours import Neighbours
from keras_qat.wrappers.product import ProductNeighbours


def link_neighbours(model: keras.Model) -> None:
    """Finds the neighbours of every wrapper that is called once and sits between two grids.

    A layer that is called several times has a bias grid for each call: its bias stays real, and
    lowering rounds it. A quantizer that clamps again behind an activation rounds from its grid.
    Where one of the grids has no integers (`Quantizer.deployable`), there is no int32 bias either.
    """
    producers = {id(tensor): node for node in nodes(model) for tensor in node.outputs}
    readers = consumers(model)
    calls = Counter(id(node.operation) for node in nodes(model) if not _averages(node, producers))
    for node in nodes(model):
        wrapper = node.operation
        if isinstance(wrapper, QuantizeWrapper):
            found = _neighbours(node, producers, readers) if calls[id(wrapper)] == 1 else None
            wrapper.neighbours = found
            if found is not None and calls[id(found.output_quantizer)] == 1:
                found.output_quantizer.accumulator = found
        elif isinstance(wrapper, QuantizeAdd | QuantizeSubtract):
            found = _between_grids(node, producers, readers) if calls[id(wrapper)] == 1 else None
            wrapper.neighbours = None if found is None else AddNeighbours(*found[:3])
        elif type(wrapper) is keras.layers.Multiply:
            found = _between_grids(node, producers, readers)
            if found is not None and calls[id(found[2])] == 1:
                found[2].accumulator = ProductNeighbours(*found)
        elif isinstance(wrapper, QuantizeBatchNormalization | QuantizeRescaling):
            found = (
                _affine_neighbours(node, producers, readers) if calls[id(wrapper)] == 1 else None
            )
            wrapper.neighbours = found
            if found is not None and calls[id(found.output_quantizer)] == 1:
                found.output_quantizer.accumulator = found


def _neighbours(
    node: GraphNode,
    producers: dict[int, GraphNode],
    readers: dict[int, list[GraphNode | None]],
) -> Neighbours | None:
    source = _grid_before(node.inputs[0], producers)
    affines, ceiling, output = _behind(node, readers)
    quantizers = (source, node.operation.weight_quantizer, output)
    if source is None or output is None or not _deployable(*quantizers):
        return None
    return Neighbours(source, node.operation.weight_quantizer, affines, output, ceiling)


def _affine_neighbours(
    node: GraphNode,
    producers: dict[int, GraphNode],
    readers: dict[int, list[GraphNode | None]],
) -> AffineNeighbours | None:
    """Those of an affine map that is an op of its own; `None` where another one joins it."""
    source = _grid_before(node.inputs[0], producers)
    affines, ceiling, output = _behind(node, readers)
    if source is None or output is None or affines or not _deployable(source, output):
        return None
    return AffineNeighbours(node.operation, source, output, ceiling)


def _behind(
    node: GraphNode, readers: dict[int, list[GraphNode | None]]
) -> tuple[tuple[Any, ...], float | None, Quantizer | None]:
    """The affine maps, the ceiling and the quantizer that follow what a linear op yields."""
    affines: list[Any] = []
    ceiling = None
    follower = _only_reader(node.outputs[0], readers)
    while follower is not None and Stage.LINEAR in _joins(follower):
        rule = rule_or_float(follower)
        if rule.output is Output.QUANTIZE:
            affines.append(follower.operation)
        elif rule.output is Output.ROUND_TO_INPUT:
            ceiling = 6.0
        follower = _only_reader(follower.outputs[0], readers)
    output = None if follower is None else follower.operation
    return tuple(affines), ceiling, output if isinstance(output, Quantizer) else None


def _deployable(*quantizers: Any) -> bool:
    return all(quantizer.deployable for quantizer in quantizers)


def _between_grids(
    node: GraphNode,
    producers: dict[int, GraphNode],
    readers: dict[int, list[GraphNode | None]],
) -> tuple[Quantizer, Quantizer, Quantizer, float | None] | None:
    """The grids of both operands and of the result of a sum or product, and a ReLU6's ceiling."""
    left, right = (_grid_before(tensor, producers) for tensor in node.inputs)
    follower, ceiling = _only_reader(node.outputs[0], readers), None
    if follower is not None and Stage.SUM in _joins(follower):
        ceiling = 6.0 if rule_or_float(follower).output is Output.ROUND_TO_INPUT else None
        follower = _only_reader(follower.outputs[0], readers)
    if left is None or right is None or follower is None:
        return None
    output = follower.operation
    if not isinstance(output, Quantizer):
        return None
    return (left, right, output, ceiling) if _deployable(left, right, output) else None


def _joins(node: GraphNode) -> frozenset[Stage]:
    """The stages of an input that a layer of the float model fuses with."""
    ours = isinstance(node.operation, Quantizer | QuantizeWrapper)
    return frozenset() if ours else rule_or_float(node).joins


def _averages(node: GraphNode, producers: dict[int, GraphNode]) -> bool:
    """Whether the node rounds an average, weighted or not, to its own grid again."""
    source = producers.get(id(node.inputs[0]))
    return (
        isinstance(node.operation, Quantizer)
        and source is not None
        and type(source.operation) in (*AVERAGE_POOLING, keras.layers.UpSampling2D)
        and rule_or_float(source).output is Output.ROUND_TO_INPUT
    )


def _grid_before(tensor: Any, producers: dict[int, GraphNode]) -> Quantizer | None:
    """The quantizer whose grid a tensor is on."""
    node = producers.get(id(tensor))
    while node is not None and not isinstance(node.operation, Quantizer):
        if isinstance(node.operation, QuantizeWrapper) or _moves_the_grid(node):
            return None
        node = producers.get(id(node.inputs[0]))
    return None if node is None else node.operation


def _moves_the_grid(node: GraphNode) -> bool:
    return rule_or_float(node).output in (Output.QUANTIZE, Output.FIXED, Output.FLOAT)


def _only_reader(tensor: Any, readers: dict[int, list[GraphNode | None]]) -> GraphNode | None:
    found = readers.get(id(tensor), [])
    return found[0] if len(found) == 1 else None
