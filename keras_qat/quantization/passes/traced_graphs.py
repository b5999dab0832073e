"""Forms of a traced graph: what two graphs have in common, and what follows the mode."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras

from keras_qat.keras_graph import (
    GraphNode,
    graph_between,
    input_structure,
    nodes,
    packed_outputs,
    replay,
    with_inner_layers,
)

_RANDOM = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise)


def outline(
    graph: keras.Model, skipped: Callable[[GraphNode], bool] = lambda node: False
) -> list[tuple[Any, ...]]:
    """A comparable form of a graph: every operation, its options, and the tensors that it reads."""
    numbers = {id(tensor): index for index, tensor in enumerate(graph.inputs)}
    count = itertools.count(len(numbers))
    found: list[tuple[Any, ...]] = []
    for node in nodes(graph):
        operation = node.operation
        is_layer = isinstance(operation, keras.layers.Layer)
        if skipped(node):
            numbers[id(node.outputs[0])] = numbers[id(node.inputs[0])]
            continue
        constants = node.fill_in({id(tensor): None for tensor in node.inputs})
        options = {} if is_layer else {**vars(operation), "name": None}
        read = [numbers[id(tensor)] for tensor in node.inputs]
        kind = id(operation) if is_layer else type(operation)
        found.append((kind, read, "" if is_layer else repr(constants), _public(options)))
        for tensor in node.outputs:
            numbers[id(tensor)] = next(count)
    found.append(tuple(numbers[id(tensor)] for tensor in graph.outputs))
    return found


def _public(options: dict[str, Any]) -> str:
    return repr({name: value for name, value in options.items() if not name.startswith("_")})


def without_training(graph: keras.Model) -> keras.Model:
    """The graph with layers that follow the mode of the model."""

    def call(node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return node.operation(*args, **{k: v for k, v in kwargs.items() if k != "training"})

    outputs = packed_outputs(graph, replay(graph, graph.inputs, call))
    return graph_between(input_structure(graph), outputs, graph.name)


def kept_in_inference(graph: keras.Model) -> list[str]:
    """The names of layers called with `training=False` that act otherwise in training."""
    return [
        node.operation.name
        for node in nodes(graph)
        if isinstance(node.operation, keras.layers.Layer)
        and node.option("training", None) is False
        and _acts_otherwise_in_training(node.operation)
    ]


def _acts_otherwise_in_training(layer: Any) -> bool:
    kinds = (keras.layers.BatchNormalization, *_RANDOM)
    inner = [each for each in with_inner_layers(layer) if isinstance(each, kinds)]
    return any(each.trainable or isinstance(each, _RANDOM) for each in inner)
