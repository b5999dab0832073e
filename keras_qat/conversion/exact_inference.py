"""Connections: what a layer must know about its neighbours to infer as the integer model does.

A runtime rounds the int32 accumulator of an op to the grid behind it, and so do the Keras layers
that become one op. A convolution must know the scales around it, and the quantizer behind it the
accumulator. `connections` finds both and changes nothing. Only `attach` tells the layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras

from keras_qat.conversion.folded_affines import folded_affines
from keras_qat.keras_graph import GraphNode, consumers, nodes
from keras_qat.layer_rules.rule import Output, Rule, Stage
from keras_qat.layer_rules.table import RULES, rule_or_float
from keras_qat.lowering.pooling import lower_global_average
from keras_qat.quantized_layers import (
    LearnedRescaling,
    QuantizeAdd,
    QuantizeBatchNormalization,
    QuantizePReLU,
    QuantizeRescaling,
    QuantizeSubtract,
    QuantizeWrapper,
)
from keras_qat.quantized_layers.accumulators import WeightAccumulator
from keras_qat.quantized_layers.add import SumGrids
from keras_qat.quantized_layers.affine import AffineAccumulator, DeferredAffine, FoldedAffine
from keras_qat.quantized_layers.mean import MeanOfCodes
from keras_qat.quantized_layers.prelu import PReLUGrids
from keras_qat.quantized_layers.product import ProductAccumulator
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid, SoftmaxRounding
from keras_qat.quantizers.softmax_rounding import CodesOfScores


@dataclasses.dataclass(frozen=True)
class Connection:
    """What one call of a layer is told.

    Attributes:
        layer: a quantizer, or a layer with a dict `connections`.
        source: the call argument `source`, which numbers the calls of a layer; 0 by default.
        told: for a quantizer, the accumulator that it rounds from; for another layer, the scales
            around it.
    """

    layer: Any
    source: int
    told: Any


def connections(model: keras.Model) -> tuple[Connection, ...]:
    """All connections of a quantized model, in the order of its graph. The model is not changed.

    A layer that is called several times has a connection for each `source`. Two calls with the same
    `source` are ambiguous and get no connection. An op next to a grid that integers cannot state
    (see `Quantizer.deployable`) has no int32 accumulator and gets no connection.
    """
    return tuple(_Graph(model).connections())


def never_negative(model: keras.Model) -> dict[ActivationQuantizer, bool]:
    """For every quantizer: whether its inputs can never be negative, in any of its calls."""
    known: set[int] = set()
    read: dict[ActivationQuantizer, list[Any]] = defaultdict(list)
    for node in nodes(model):
        operands_are = all(id(tensor) in known for tensor in node.inputs)
        if isinstance(node.operation, ActivationQuantizer):
            read[node.operation].extend(node.inputs)
        elif not isinstance(node.operation, SoftmaxRounding):
            rule = rule_or_float(node)
            keeps = rule.lower is not None and rule.yields is not Stage.LINEAR
            operands_are = operands_are and keeps and not rule.signed
            operands_are = operands_are or rule.unsigned
        if operands_are:
            known.update(map(id, node.outputs))
    return {
        quantizer: all(id(tensor) in known for tensor in tensors)
        for quantizer, tensors in read.items()
    }


def connect(model: keras.Model) -> None:
    """Finds the connections of a quantized model and tells them to its layers.

    Raises:
        ValueError: see `attach`; also for a layer with a connection from another model, which
            this model calls several times with the same `source`.
    """
    graph = _Graph(model)
    for layer, source in graph.ambiguous_calls():
        if source in _told(layer):
            raise _shared(layer, model.name)
    attach(graph.connections(), model.name)
    for quantizer, found in never_negative(model).items():
        quantizer.never_negative = found and quantizer.never_negative is not False


def attach(found: Iterable[Connection], model_name: str) -> None:
    """Tells the layers their connections.

    A layer keeps its first connections, so a model that shares the layer computes as before.

    Raises:
        ValueError: a layer has a different connection from another model. Nothing was attached.
    """
    places = [(_told(each.layer), each) for each in found]
    for told, connection in places:
        if told.get(connection.source, connection.told) != connection.told:
            raise _shared(connection.layer, model_name)
    for told, connection in places:
        told[connection.source] = connection.told


def _told(layer: Any) -> dict[int, Any]:
    """The connections of a layer by source; empty for a layer that can have none."""
    name = "accumulators" if isinstance(layer, ActivationQuantizer) else "connections"
    told: dict[int, Any] = getattr(layer, name, {})
    return told


def _shared(layer: Any, model_name: str) -> ValueError:
    return ValueError(
        f"Layer {layer.name!r} is shared with another quantized model, and in {model_name!r} it is "
        "between other grids. In inference a layer can round for one model only. Give this model "
        "its own layers: keras.models.clone_model(the other model), then set_weights."
    )


@dataclasses.dataclass(frozen=True)
class _Behind:
    """The quantizer behind an op, and the layers in between, which are fused into the op.

    Attributes:
        call: the call of the quantizer.
        affines: the fused affine maps.
        ceiling: the ceiling of a fused activation; `None` without one.
        exact: whether every value that the quantizer reads is a whole number of accumulator units,
            or the ceiling.
        relu: whether a ReLU is fused.
    """

    call: GraphNode
    affines: tuple[Any, ...] = ()
    ceiling: float | None = None
    exact: bool = True
    relu: bool = False

    @property
    def quantizer(self) -> ActivationQuantizer:
        quantizer: ActivationQuantizer = self.call.operation
        return quantizer


class _Graph:
    """The graph of a quantized model, in which connections are looked up."""

    def __init__(self, model: keras.Model):
        self._nodes = list(nodes(model))
        self._producers = {id(tensor): node for node in self._nodes for tensor in node.outputs}
        self._readers = consumers(model)
        self._calls = Counter(map(_call_key, filter(_rounds_an_op, self._nodes)))
        self._folded = self._folded_affines()

    def connections(self) -> Iterator[Connection]:
        for node in self._nodes:
            if node.operation in self._folded:
                yield Connection(node.operation, 0, FoldedAffine(self._folded[node.operation][0]))
            if isinstance(node.operation, SoftmaxRounding):
                yield from self._scores_before(node)
            find = _finder_of(node)
            behind = None if find is None else self._behind(node)
            if find is None or behind is None or self._calls[_call_key(node)] > 1:
                continue
            if (told := find(self, node, behind)) is None:
                continue
            if hasattr(node.operation, "connections"):
                yield Connection(node.operation, _source(node), told)
            rounds = behind.exact and hasattr(told, "rounding")
            if rounds and self._calls[_call_key(behind.call)] == 1:
                yield Connection(behind.quantizer, _source(behind.call), told)

    def _folded_affines(self) -> dict[Any, tuple[Any, ...]]:
        """The affine maps that weight layers compute in all their calls, and these layers."""
        fused = []
        for node in self._nodes:
            of_weights = _finder_of(node) is _of_weights and self._calls[_call_key(node)] == 1
            behind = self._behind(node) if of_weights else None
            if behind is not None and behind.exact and _grid_of_weights(self, node, behind):
                fused.append((node.operation, behind.affines))
        return folded_affines(fused, Counter(node.operation for node in self._nodes))

    def sharing(self, layer: Any, affines: Sequence[Any]) -> tuple[Any, ...]:
        """The layers that compute the maps behind `layer` together; empty if they cannot."""
        if not all(affine in self._folded for affine in affines):
            return ()
        return self._folded[affines[0]] if affines else (layer,)

    def _scores_before(self, node: GraphNode) -> Iterator[Connection]:
        """What the rounding behind a softmax is told, if the softmax reads a grid."""
        before = self.grid_before(self._producers[id(node.inputs[0])].inputs[0])
        if before is not None and before.deployable:
            yield Connection(node.operation, 0, CodesOfScores(before))

    def ambiguous_calls(self) -> Iterator[tuple[Any, int]]:
        """Every layer and source with several calls."""
        for node in self._nodes:
            if self._calls[_call_key(node)] > 1:
                yield node.operation, _source(node)

    def grid_before(self, tensor: Any) -> PutsOnGrid | None:
        """The layer that puts a tensor on its grid; `None` if the tensor is on no grid."""
        node = self._producers.get(id(tensor))
        while node is not None and not isinstance(node.operation, PutsOnGrid):
            if _moves_the_grid(node):
                return None
            node = self._producers.get(id(node.inputs[0]))
        return None if node is None else node.operation

    def affines_before(self, node: GraphNode) -> tuple[list[Any], Any]:
        """The affine maps whose results only the next map reads, and the tensor before them."""
        maps: list[Any] = []
        tensor = node.inputs[0]
        producer = self._producers.get(id(tensor))
        while producer is not None and isinstance(producer.operation, _AFFINE):
            if self._only_reader(tensor) is None:
                break
            maps.insert(0, producer.operation)
            tensor = producer.inputs[0]
            producer = self._producers.get(id(tensor))
        return maps, tensor

    def joins_maps(self, layer: Any) -> bool:
        """Whether an affine map may be computed by another one behind it, or with one before it."""
        return self._calls[id(layer), 0] == 1 and layer.activity_regularizer is None

    def _behind(self, node: GraphNode) -> _Behind | None:
        """What is behind the op; `None` unless fused layers and one quantizer follow."""
        affines: list[Any] = []
        ceiling, exact, relu, stage = None, True, False, _rule(node).yields
        reader = self._only_reader(node.outputs[0])
        while reader is not None and not isinstance(reader.operation, ActivationQuantizer):
            rule = _rule(reader)
            if stage not in rule.joins:
                return None
            if rule.output is Output.QUANTIZE:
                if not isinstance(reader.operation, _AFFINE):
                    return None
                affines.append(reader.operation)
                stage = rule.yields
            else:
                exact = exact and rule.ceiling is not None
                relu = rule.ceiling is not None
                ceiling = None if rule.ceiling in (None, math.inf) else rule.ceiling
                stage = Stage.COMPLETE
            reader = self._only_reader(reader.outputs[0])
        return None if reader is None else _Behind(reader, tuple(affines), ceiling, exact, relu)

    def _only_reader(self, tensor: Any) -> GraphNode | None:
        found = self._readers.get(id(tensor), [])
        return found[0] if len(found) == 1 else None


def _of_weights(graph: _Graph, node: GraphNode, behind: _Behind) -> WeightAccumulator | None:
    layer, before = node.operation, _grid_of_weights(graph, node, behind)
    if before is None:
        return None
    sharing = graph.sharing(layer, behind.affines) if behind.exact else ()
    return WeightAccumulator(
        before,
        layer.weight_quantizer,
        behind.affines,
        behind.quantizer,
        behind.ceiling,
        layer.input_gain,
        behind.relu,
        layer if sharing else None,
        sharing,
    )


def _grid_of_weights(graph: _Graph, node: GraphNode, behind: _Behind) -> PutsOnGrid | None:
    """The layer of the grid before a weight layer, if integers can state all grids around it."""
    before, weights = graph.grid_before(node.inputs[0]), node.operation.weight_quantizer
    held = before is not None and _deployable(before, weights, behind.quantizer)
    return before if held else None


def _of_affine(
    graph: _Graph, node: GraphNode, behind: _Behind
) -> AffineAccumulator | DeferredAffine | None:
    """`None` also for maps that are fused into the op before them."""
    maps, tensor = graph.affines_before(node)
    before = graph.grid_before(tensor)
    if before is None or not _deployable(before, behind.quantizer):
        return None
    every = (*maps, node.operation, *behind.affines)
    if len(every) > 1 and not all(map(graph.joins_maps, every)):
        return None
    if behind.affines:
        return DeferredAffine()
    return AffineAccumulator(every, before, behind.quantizer, behind.ceiling, behind.relu)


def _of_mean(graph: _Graph, node: GraphNode, behind: _Behind) -> MeanOfCodes | None:
    before, shape = graph.grid_before(node.inputs[0]), node.inputs[0].shape[1:-1]
    if before is None or None in shape or not _deployable(before, behind.quantizer):
        return None
    return MeanOfCodes(before, behind.quantizer, math.prod(shape), node.operation)


def _of_sum(graph: _Graph, node: GraphNode, behind: _Behind) -> SumGrids | None:
    grids = _between_grids(graph, node, behind)
    return None if grids is None else SumGrids(*grids)


def _of_product(graph: _Graph, node: GraphNode, behind: _Behind) -> ProductAccumulator | None:
    grids = _between_grids(graph, node, behind)
    return None if grids is None else ProductAccumulator(*grids, behind.ceiling)


def _of_prelu(graph: _Graph, node: GraphNode, behind: _Behind) -> PReLUGrids | None:
    before = graph.grid_before(node.inputs[0])
    if before is None or not _deployable(before, behind.quantizer):
        return None
    return PReLUGrids(before, behind.quantizer)


def _between_grids(
    graph: _Graph, node: GraphNode, behind: _Behind
) -> tuple[PutsOnGrid, PutsOnGrid, ActivationQuantizer] | None:
    """The layers of the grids of both operands and of the result, for a sum or a product."""
    left, right = map(graph.grid_before, node.inputs)
    if left is None or right is None or not _deployable(left, right, behind.quantizer):
        return None
    return left, right, behind.quantizer


_AFFINE = (LearnedRescaling, QuantizeBatchNormalization, QuantizeRescaling)
_FINDERS: dict[type, Callable[[_Graph, GraphNode, _Behind], Any]] = {
    QuantizeAdd: _of_sum,
    QuantizeSubtract: _of_sum,
    keras.layers.Multiply: _of_product,
    QuantizePReLU: _of_prelu,
    **dict.fromkeys(_AFFINE, _of_affine),
}
"""The function that finds connections, by exact layer type; see `_finder_of` for others."""


def _finder_of(node: GraphNode) -> Callable[[_Graph, GraphNode, _Behind], Any] | None:
    found = _FINDERS.get(type(node.operation))
    if found is None and isinstance(node.operation, QuantizeWrapper):
        return _of_weights
    if found is None and _rule(node).lower is lower_global_average:
        return _of_mean
    return found


_WEIGHT_LAYER = Rule(Output.QUANTIZE, yields=Stage.LINEAR)


def _rule(node: GraphNode) -> Rule:
    """The rule of a layer in a quantized model.

    There, wrappers have taken the place of weight layers. A wrapper without an entry in `RULES`
    gets `_WEIGHT_LAYER`.
    """
    wrapped = isinstance(node.operation, QuantizeWrapper) and type(node.operation) not in RULES
    return _WEIGHT_LAYER if wrapped else rule_or_float(node)


def _rounds_an_op(node: GraphNode) -> bool:
    """Whether a call rounds the result of an op. A quantizer may also round averages of codes."""
    averages = isinstance(node.operation, ActivationQuantizer) and (
        node.option("pooled", False) or node.option("interpolated", False)
    )
    return not averages


def _source(node: GraphNode) -> int:
    return int(node.option("source", 0))


def _call_key(node: GraphNode) -> tuple[int, int]:
    return id(node.operation), _source(node)


def _deployable(*quantizers: PutsOnGrid) -> bool:
    return all(quantizer.deployable for quantizer in quantizers)


def _moves_the_grid(node: GraphNode) -> bool:
    return _rule(node).output in (Output.QUANTIZE, Output.FIXED, Output.INDEX, Output.FLOAT)
