"""`ChannelGraph`: the quantizers of a model as channels between its inputs and its outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras

from keras_qat.callbacks.minimum_cut import Edge, minimum_cut
from keras_qat.keras_graph import GraphNode, nodes
from keras_qat.layer_rules.rule import Output
from keras_qat.layer_rules.table import rule_or_float
from keras_qat.model import QuantizedModel
from keras_qat.quantizers import Quantizer

_INPUT, _OUTPUT = "input", "output"


class _Link(NamedTuple):
    """An edge of the graph. `grid` names the quantized tensor whose values it carries."""

    start: Any
    end: Any
    grid: str = ""
    values: int | None = None
    label: str = ""


class Cut(NamedTuple):
    """A cut of the graph.

    Attributes:
        bits: its capacity in bits per example; `None` if it is not finite, or not known.
        tensors: the names of the tensors in it.
    """

    bits: float | None
    tensors: list[str]


class ChannelGraph:
    """The graph of a quantized model, in which every quantized tensor is a channel.

    A tensor behind a quantizer carries `bits_per_value * values` bits of an example. A tensor that
    a layer picks from quantized values, such as the output of a MaxPooling, carries as many bits
    per value as the quantized tensor. Everything between carries any number of bits.

    Args:
        model: the quantized model.
    """

    def __init__(self, model: QuantizedModel):
        sites = model.quantizer_sites().items()
        named = {id(site.source): name for name, site in sites if site.kernel is None}
        self._links = [_Link(_INPUT, id(tensor)) for tensor in model.inputs]
        self._links += _links(model, named)
        self._links += [_Link(id(tensor), _OUTPUT) for tensor in model.outputs]
        self._of_outputs = _output_tensors(model, named)

    def narrowest_cut(self, records: Mapping[str, Mapping[str, Any]], hidden: bool = False) -> Cut:
        """The tensors that together let the fewest bits of an example pass to the outputs.

        Every path from an input to an output leads through one of them, and no other such set of
        tensors has a smaller sum of bits per example. In a network with a single path it is the
        tensor with the fewest. A shortcut around a tensor adds to it.

        Args:
            records: `bits_per_value` and `values` of every quantized tensor, by its name.
            hidden: whether to leave out the tensors that the outputs are: the task sets how many
                values an answer has.
        """
        edges = []
        for link in self._links:
            bits = math.inf
            if link.grid and not (hidden and link.grid in self._of_outputs):
                record = records[link.grid]
                if record["bits_per_value"] is None:
                    return Cut(None, [])
                values = record["values"] if link.values is None else link.values
                bits = record["bits_per_value"] * values
            edges.append(Edge(link.start, link.end, bits, link.label))
        bits, labels = minimum_cut(edges, _INPUT, _OUTPUT)
        return Cut(bits if math.isfinite(bits) else None, list(labels))


def _links(model: QuantizedModel, named: Mapping[int, str]) -> Iterator[_Link]:
    """The links through every call of the model.

    Args:
        named: the names of the tensors that quantizers read, by their ids.
    """
    grids: dict[int, str] = {}
    for node in nodes(model):
        if isinstance(node.operation, Quantizer):
            (source,), (tensor,) = node.inputs, node.outputs
            name = grids[id(tensor)] = named[id(source)]
            yield _Link(id(source), id(tensor), name, label=name)
            continue
        grid = _kept_grid(node, grids)
        for tensor in node.outputs:
            if grid is not None:
                grids[id(tensor)] = grid
            for source in node.inputs:
                link = _Link(id(source), id(tensor))
                if grid is not None and _is_part(tensor, source):
                    count = f"_{node.call_index}" if node.call_index else ""
                    label = f"{node.operation.name}{count}/activations"
                    link = link._replace(grid=grid, values=_values(tensor), label=label)
                yield link


def _kept_grid(node: GraphNode, grids: Mapping[int, str]) -> str | None:
    """The quantized tensor whose values a call moves or picks; `None` if it computes new ones."""
    if len(node.inputs) != 1 or id(node.inputs[0]) not in grids:
        return None
    keeps = rule_or_float(node).output is Output.SAME_AS_INPUT
    return grids[id(node.inputs[0])] if keeps else None


def _is_part(tensor: Any, source: Any) -> bool:
    """Whether a tensor has fewer values than the one that it comes from."""
    sizes = _values(tensor), _values(source)
    return None not in sizes and sizes[0] < sizes[1]


def _values(tensor: Any) -> Any:
    return None if None in tensor.shape[1:] else math.prod(tensor.shape[1:])


def _output_tensors(model: QuantizedModel, named: Mapping[int, str]) -> set[str]:
    """The names of the quantized tensors that outputs are, or are computed from without weights."""
    before = {id(tensor): node for node in nodes(model) for tensor in node.outputs}
    found, waiting = set(), [id(tensor) for tensor in model.outputs]
    while waiting:
        node = before.get(waiting.pop())
        if node is None:
            continue
        if isinstance(node.operation, Quantizer):
            found.add(named[id(node.inputs[0])])
        elif not isinstance(node.operation, keras.layers.Wrapper):
            waiting += [id(tensor) for tensor in node.inputs]
    return found
