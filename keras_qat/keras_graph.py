"""Knows Keras' private attributes of graphs, calls and optimizers."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_qat.deep_graphs import room_for_depth

KerasTensor = Any
"""A `keras.KerasTensor`; Keras has no types."""


@dataclasses.dataclass(frozen=True, eq=False)
class GraphNode:
    """One call of one operation in a Functional graph.

    Attributes:
        operation: the layer (or raw operation) that is called.
        inputs: the symbolic tensors that the call reads.
        outputs: the symbolic tensors that the call yields.
        call_index: 0 for the operation's first call in this graph, 1 for its second, ...
    """

    operation: Any
    inputs: tuple[KerasTensor, ...]
    outputs: tuple[KerasTensor, ...]
    call_index: int
    _arguments: Any

    def option(self, name: str, default: Any) -> Any:
        """The value of a keyword argument of the call."""
        return self._arguments.kwargs.get(name, default)

    def fill_in(self, values: dict[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the call, with every symbolic tensor replaced by `values[id(tensor)]`.

        The first argument is positional, even where the model was built with `layer(inputs=x)`: a
        layer that replaces this one may have another name for it.
        """
        args, kwargs = self._arguments.fill_in(values)
        first = next(iter(inspect.signature(self.operation.call).parameters))
        if not args and first in kwargs:
            args = (kwargs.pop(first),)
        return args, kwargs


def functional(model: keras.Model) -> Any:
    """The Functional graph of a Functional or a built Sequential model.

    Raises:
        ValueError: a model without a graph. The message says what to do.
    """
    graph = model
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(
                f"The Sequential model {model.name!r} has no input shape yet. Start it with "
                "keras.Input(...) or call model.build(input_shape) first."
            )
        graph = model._functional
    if not hasattr(graph, "_nodes_by_depth"):
        raise ValueError(
            "The model must be Functional or Sequential, as others have no layer graph. Rebuild "
            f"it with keras.Model(inputs, outputs). Received: {type(model).__name__} "
            f"{getattr(model, 'name', '')!r}"
        )
    return graph


def is_graph(operation: Any) -> bool:
    """Whether an operation is a model that computes exactly its layer graph."""
    return has_graph(operation) and not has_own_call(operation)


def has_graph(operation: Any) -> bool:
    """Whether an operation is a Functional model or a built Sequential model."""
    built_sequential = isinstance(operation, keras.Sequential) and operation.built
    return built_sequential or hasattr(operation, "_nodes_by_depth")


def has_own_call(model: Any) -> bool:
    """Whether a class that the user wrote defines what a call of the model computes."""
    methods = (type(model).call, type(model).__call__)
    return not all(_is_from_keras(method) for method in methods)


def has_own_dunder_call(layer: Any) -> bool:
    """Whether a class that the user wrote replaces the layer's `__call__`."""
    return not _is_from_keras(type(layer).__call__)


def own_methods(model: keras.Model, names: Sequence[str]) -> list[str]:
    """Which of these methods a class that the user wrote has overridden."""
    return [name for name in names if not _is_from_keras(getattr(type(model), name))]


def _is_from_keras(method: Any) -> bool:
    return str(getattr(method, "__module__", "")).startswith(("keras.", "keras_qat."))


def own_trainable_weights(layer: keras.layers.Layer) -> list[Any]:
    """The trainable variables of the layer itself, without the variables of layers inside it."""
    inner = layer._flatten_layers(include_self=False)
    of_layers = {id(variable) for each in inner for variable in each.variables}
    return [each for each in layer.trainable_variables if id(each) not in of_layers]


def shared_weights(model: keras.Model) -> dict[int, list[str]]:
    """By the id of each trainable variable that several layers hold, the names of these layers."""
    holders: dict[int, list[str]] = {}
    for layer in with_inner_layers(model):
        for variable in layer._trainable_variables:
            holders.setdefault(id(variable), []).append(layer.name)
    return {key: names for key, names in holders.items() if len(names) > 1}


def with_inner_layers(layer: Any) -> list[Any]:
    """The layer and every layer inside it, in the same order for equal layers."""
    return list(layer._flatten_layers())


def variables_in(node: GraphNode) -> list[Any]:
    """The trainable variables among the arguments of a call."""
    given = keras.tree.flatten(node.fill_in({id(tensor): None for tensor in node.inputs}))
    return [each for each in given if isinstance(each, keras.Variable) and each.trainable]


_ERRORS = re.compile(
    "(^|_)(loss|mae|mse|msle|mape|rmse|crossentropy|divergence|hinge)$|error|logcosh"
)
_SCORES = re.compile("acc|auc|precision|recall|iou|f1|fbeta|score|r2|similarity|top_k")


def falls(model: keras.Model, name: str) -> bool | None:
    """Whether less of a metric is better, by its direction or its name; `None` if unknown."""
    found = [each for metric in model.metrics for each in getattr(metric, "metrics", [metric])]
    directions = {metric.name: getattr(metric, "_direction", None) for metric in found}
    direction = directions.get(name.removeprefix("val_"))
    falling, rising = _ERRORS.search(name), _SCORES.search(name)
    return direction == "down" if direction else bool(falling) if falling or rising else None


def call_and_losses(layer: keras.layers.Layer, args: Any, kwargs: Any) -> tuple[Any, bool]:
    """The result of `layer.call`, and whether the call adds losses, which are then dropped."""
    before, added = list(layer._losses), list[Any]()
    layer._losses.clear()
    object.__setattr__(layer, "add_loss", added.append)  # which refuses symbolic tensors
    try:
        return layer.call(*args, **kwargs), bool(layer._losses or added)
    finally:
        object.__delattr__(layer, "add_loss")
        layer._losses[:] = before


def input_structure(model: keras.Model) -> Any:
    """The symbolic inputs in the structure that the model was built on: a tensor, list or dict."""
    return functional(model)._inputs_struct


def input_keys(model: keras.Model) -> list[str]:
    """The name by which each input is fed, in the order of `model.inputs`.

    If the model was built on a dict of inputs, the name is the input's key, as in Keras. Else it is
    the name of the input layer.
    """
    structure = input_structure(model)
    if isinstance(structure, dict) and len(structure) == len(model.inputs):
        keys = {id(tensor): key for key, tensor in structure.items()}
        return [keys[id(tensor)] for tensor in model.inputs]
    return [input_name(tensor) for tensor in model.inputs]


def flat_inputs(model: keras.Model, inputs: Any) -> list[Any]:
    """The inputs of a call in the order of `model.inputs`. A dict is ordered by its keys.

    Raises:
        ValueError: a dict without one of the keys.
    """
    if not isinstance(inputs, dict):
        return list(keras.tree.flatten(inputs))
    keys = input_keys(model)
    if set(inputs) >= set(keys):
        return [inputs[key] for key in keys]
    flat = list(keras.tree.flatten(inputs))
    if len(flat) == len(keys) > len(inputs):  # dicts or lists inside a dict
        return flat
    raise ValueError(
        f"Model {model.name!r} needs a dict with the inputs {keys}. Received: {sorted(inputs)}"
    )


def structured_inputs(model: keras.Model, inputs: Any) -> Any:
    """Arrays in the structure that the model was built on; other inputs as they are."""
    flat = flat_inputs(model, inputs)
    structure = input_structure(model)
    fits = len(flat) == len(model.inputs) and isinstance(inputs, dict | list | tuple)
    fits = fits or (len(model.inputs) == 1 and hasattr(inputs, "shape"))
    return keras.tree.pack_sequence_as(structure, flat) if fits else inputs


def exclude_from_weight_decay(optimizer: Any, variables: Sequence[Any]) -> None:
    """Excludes more variables from the optimizer's weight decay, before or after it is built.

    `Optimizer.exclude_from_weight_decay` would drop variables that the user excluded before.
    """
    inner = inner_optimizer(optimizer)
    excluded = set(getattr(inner, "_exclude_from_weight_decay", ()))
    inner._exclude_from_weight_decay = excluded | {inner._var_key(each) for each in variables}
    inner._exclude_from_weight_decay_cache = {}


def build_optimizer(model: Any) -> None:
    """Builds the optimizer of a compiled model early: else TensorFlow traces a step with its
    variables in a branch of the graph, and then a second time without them.
    """
    deferred = keras.backend.backend() == "tensorflow" and model.compiled
    if deferred and model.optimizer is not None and not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)


def learning_rate_of(optimizer: Any) -> Any:
    """The optimizer's learning rate: a variable, or the user's schedule."""
    return inner_optimizer(optimizer)._learning_rate


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer inside a `LossScaleOptimizer`. Any other optimizer is returned as it is."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def packed_outputs(model: keras.Model, outputs: list[Any]) -> Any:
    """The values of the model's outputs, in the structure that a call of the model returns."""
    return keras.tree.pack_sequence_as(output_structure(model), outputs)


def output_structure(model: keras.Model) -> Any:
    """The symbolic outputs in the structure that a call of the model returns."""
    return functional(model)._outputs_struct


def flat_nodes(model: keras.Model) -> Iterator[GraphNode]:
    """Like `nodes`, but with the calls inside a model instead of the call of that model."""
    for node in nodes(model):
        if is_graph(node.operation):
            yield from flat_nodes(node.operation)
        else:
            yield node


def nodes(model: keras.Model) -> Iterator[GraphNode]:
    """Every call of the graph except inputs, in an order in which the calls can run."""
    by_depth = functional(model)._nodes_by_depth
    calls: Counter[int] = Counter()
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.is_input or node.operation is None:
                continue
            call_index = calls[id(node.operation)]
            calls[id(node.operation)] += 1
            yield GraphNode(
                operation=node.operation,
                inputs=tuple(node.input_tensors),
                outputs=tuple(node.outputs),
                call_index=call_index,
                _arguments=node.arguments,
            )


def layer_name(tensor: KerasTensor) -> str:
    """The name of the layer that yields this tensor."""
    name: str = tensor._keras_history.operation.name
    return name


def input_name(tensor: KerasTensor) -> str:
    """The name of the input layer of this model input."""
    return layer_name(tensor)


def replay(
    model: keras.Model,
    inputs: list[Any],
    call: Callable[[GraphNode, tuple[Any, ...], dict[str, Any]], Any],
) -> list[Any]:
    """Runs the graph once, with `call` instead of every operation.

    Args:
        model: a Functional or built Sequential model.
        inputs: one value for each of the model's inputs, in the order of `model.inputs`: tensors,
            or anything else that `call` understands.
        call: `call(node, args, kwargs)` returns the value of the node's output.

    Returns:
        The values of the model's outputs, in the order of `model.outputs`.
    """
    graph = functional(model)
    values = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
    for node in nodes(model):
        args, kwargs = node.fill_in(values)
        result = call(node, args, kwargs)
        for tensor, value in zip(node.outputs, _flatten(result, len(node.outputs)), strict=True):
            values[id(tensor)] = value
    return [values[id(tensor)] for tensor in graph.outputs]


def rebuild(
    model: keras.Model,
    call: Callable[[GraphNode, tuple[Any, ...], dict[str, Any]], Any],
    on_input: Callable[[KerasTensor], Any] = lambda tensor: tensor,
    model_type: type[keras.Model] = keras.Model,
) -> keras.Model:
    """A new model from a replay on new inputs, with the same names and input/output structures.

    Args:
        model: a Functional or built Sequential model.
        call: as in `replay`.
        on_input: computes the value of an input from the new symbolic input.
        model_type: class of the new model.
    """
    graph = functional(model)
    fresh = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=input_name(tensor))
        for tensor in graph.inputs
    ]
    outputs = replay(model, [on_input(tensor) for tensor in fresh], call)
    with _keys_of_inputs_stay(), room_for_depth():
        return model_type(
            keras.tree.pack_sequence_as(graph._inputs_struct, fresh),
            keras.tree.pack_sequence_as(graph._outputs_struct, outputs),
            name=model.name,
        )


def probe_of(model: keras.Model, outputs: Any) -> keras.Model:
    """A model with the inputs of `model` that yields other tensors of its graph."""
    return graph_between(input_structure(model), outputs)


def graph_between(inputs: Any, outputs: Any, name: str | None = None) -> keras.Model:
    """`keras.Model(inputs, outputs)` without a warning about the keys of the inputs."""
    with _keys_of_inputs_stay(), room_for_depth():
        return keras.Model(inputs, outputs, name=name)


@contextlib.contextmanager
def _keys_of_inputs_stay() -> Iterator[None]:
    """Silences Keras' warning about keys that differ from the names of input layers.

    The user has seen that warning when building the model, and here the keys decide.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "When providing `inputs` as a dict, all keys", UserWarning
        )
        yield


def consumers(model: keras.Model) -> dict[int, list[GraphNode | None]]:
    """The calls that read each symbolic tensor, by `id(tensor)`. `None` is a model output."""
    graph = functional(model)
    found: dict[int, list[GraphNode | None]] = {}
    for node in nodes(model):
        for tensor in node.inputs:
            found.setdefault(id(tensor), []).append(node)
    for tensor in graph.outputs:
        found.setdefault(id(tensor), []).append(None)
    return found


def readers_of(tensor: KerasTensor) -> list[Any]:
    """The calls that read a tensor in any model, as nodes of Keras; see also `consumers`."""
    calls = tensor._keras_history.operation._outbound_nodes
    return [node for node in calls if any(each is tensor for each in node.input_tensors)]


def _flatten(result: Any, count: int) -> list[Any]:
    """The values of a call's result. A single output may be any object."""
    return [result] if count == 1 else list(keras.tree.flatten(result))
