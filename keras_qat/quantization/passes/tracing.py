"""Layer graphs of subclassed models and of custom layers made of other layers.

A custom layer is one that a user wrote, without a rule.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_qat.keras_graph import (
    GraphNode,
    call_and_losses,
    flat_nodes,
    functional,
    graph_between,
    has_graph,
    has_own_call,
    has_own_dunder_call,
    input_name,
    input_structure,
    is_graph,
    nodes,
    own_trainable_weights,
    variables_in,
    with_inner_layers,
)
from keras_qat.layer_rules.table import RULES


def as_graph(model: keras.Model, data: Any) -> keras.Model:
    """The model itself if its layer graph is complete, otherwise an equal model of the same layers.

    A model with its own `call` is called once on symbolic inputs, in inference mode. A model that
    was built as a Functional or a Sequential model has these inputs in its graph. For other models,
    they get the shapes of `data`.

    Raises:
        ValueError: the model is not built, its `call` does not run on symbolic tensors, or `call`
            does something that layers and raw operations do not keep.
    """
    if is_graph(model) or (isinstance(model, keras.Sequential) and not has_own_call(model)):
        functional(model)
        return model
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} has no weights yet. Call it on a batch of data first. "
            f"Received: an unbuilt {type(model).__name__}"
        )
    inputs = _symbolic_inputs(model, data)
    try:
        trace = _Trace(model, (inputs,), {}, inputs)
    except Exception as error:
        raise ValueError(
            f"The subclassed model {model.name!r} ({type(model).__name__}) has no layer graph, and "
            "its call() yields none on symbolic inputs. Write it with layers and keras.ops alone, "
            f"or rebuild it with keras.Model(inputs, outputs). Received: {error}"
        ) from error
    if trace.loses:
        raise ValueError(
            f"The subclassed model {model.name!r} ({type(model).__name__}): {trace.loses}. "
            "Rebuild it from layers with keras.Model(inputs, outputs)."
        )
    trace.warn_of_training(
        "Rebuild it with layers that know of training, such as keras.layers.Dropout."
    )
    return trace.graph


def expanded(node: GraphNode) -> keras.Model | None:
    """The graph inside a custom layer; `None` for other layers, or if it cannot be taken apart.

    The inputs of the graph are the distinct inputs of the node, in their order.
    """
    trace = _traced(node)
    return None if trace is None or trace.loses else trace.graph


def lost_by_expanding(node: GraphNode) -> str:
    """What a custom layer would lose if it was taken apart; empty if nothing."""
    try:
        trace = _traced(node, quiet=False)
    except Exception as error:  # a custom call() may raise anything
        return _ADDS_LOSSES if "add_loss" in str(error) else ""
    return "" if trace is None else trace.loses


def warn_of_training(node: GraphNode, stays_whole: Callable[[str], bool]) -> None:
    """Warns if a layer that is taken apart, or one inside it, does something else in training."""
    name = node.operation.name
    trace = None if stays_whole(name) else _traced(node)
    if trace is None or trace.loses:
        return
    trace.warn_of_training(
        f"Leave it in float with overrides={{{name!r}: None}}, or write it with layers that know "
        "of training, such as keras.layers.Dropout."
    )
    for inner in flat_nodes(trace.graph):
        warn_of_training(inner, stays_whole)


_ADDS_LOSSES = "it calls add_loss, which would be lost"


def _traced(node: GraphNode, quiet: bool = True) -> _Trace | None:
    """The trace of a custom layer; `None` for other layers, or if it does not run symbolically."""
    layer = node.operation
    if not may_expand(layer):
        return None
    tensors = {id(tensor): tensor for tensor in node.inputs}
    fresh = {
        key: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
        for key, tensor in tensors.items()
    }
    args, kwargs = node.fill_in(fresh)
    try:
        return _Trace(layer, args, kwargs, list(fresh.values()))
    except Exception:  # a custom call() that does not run on symbolic tensors may raise anything
        if quiet:
            return None
        raise


class _Trace:
    """A call of a layer, or of a model, on symbolic tensors.

    Attributes:
        graph: the graph of the layers and raw operations that it calls in inference.
        loses: what this graph does not keep, in words; empty if nothing.
    """

    def __init__(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Any):
        self._layer = layer
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
        told = "training" in inspect.signature(layer.call).parameters
        outputs, adds_losses = call_and_losses(
            layer, args, {**kwargs, "training": False} if told else kwargs
        )
        self.graph = graph_between(inputs, outputs, layer.name)
        self._differs = False
        self._fixed = [] if told else _kept_in_inference(self.graph)
        if told:
            adds_losses |= self._compare_training(args, kwargs, inputs)
        self.loses = _lost(layer, adds_losses, self.graph)

    def _compare_training(self, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Any) -> bool:
        """Compares a call in training with inference; returns whether it adds losses."""
        try:
            # The scope drops the values that the call assigns to variables.
            with keras.StatelessScope(collect_losses=True) as scope:
                outputs, _ = call_and_losses(self._layer, args, {**kwargs, "training": True})
                graph = graph_between(inputs, outputs)
        except Exception:  # a custom call() may raise anything; in inference it did not
            self._differs = True
            return False
        self._differs = _outline(graph) != _outline(self.graph)
        self._fixed = _kept_in_inference(graph)
        return bool(scope.losses)

    def warn_of_training(self, way_out: str) -> None:
        """Warns if the call does something else in training, or fixes `training` for layers."""
        what = f"{self._layer.name!r} ({type(self._layer).__name__}) is taken apart into the layers"
        if self._differs:
            warnings.warn(
                f"{what} that it calls in inference. In training it does something else, which the "
                f"quantized model does not have. {way_out}",
                stacklevel=2,
            )
        if self._fixed:
            names = ", ".join(map(repr, self._fixed))
            warnings.warn(
                f"{what} that it calls. It calls {names} with training=False in every mode, which "
                "does not last: the quantized model trains them like other layers. Freeze them "
                "with trainable = False.",
                stacklevel=2,
            )


def _kept_in_inference(graph: keras.Model) -> list[str]:
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


_LAMBDA = keras.layers.Lambda
_RANDOM = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise)


def _lost(layer: Any, adds_losses: bool, graph: keras.Model) -> str:
    own = own_trainable_weights(layer)
    raw = [node for node in nodes(graph) if not isinstance(node.operation, keras.layers.Layer)]
    own += [variable for node in raw for variable in variables_in(node)]
    weights = ", ".join(dict.fromkeys(repr(variable.name) for variable in own))
    if has_own_dunder_call(layer):
        return "it has a __call__ of its own, which would be lost"
    if weights:
        return f"it trains weights in raw operations ({weights}), which would become constants"
    if adds_losses:
        return _ADDS_LOSSES
    if layer.activity_regularizer is not None:
        return "it has an activity_regularizer, which would be lost"
    return ""


def _outline(graph: keras.Model) -> list[tuple[Any, ...]]:
    """A comparable form of a graph: every operation, its options, and the tensors that it reads."""
    numbers = {id(tensor): index for index, tensor in enumerate(graph.inputs)}
    found: list[tuple[Any, ...]] = []
    for node in nodes(graph):
        operation = node.operation
        is_layer = isinstance(operation, keras.layers.Layer)
        constants = node.fill_in({id(tensor): None for tensor in node.inputs})
        options = {} if is_layer else {**vars(operation), "name": None}
        read = [numbers[id(tensor)] for tensor in node.inputs]
        kind = id(operation) if is_layer else type(operation)
        found.append((kind, read, "" if is_layer else repr(constants), _public(options)))
        for tensor in node.outputs:
            numbers[id(tensor)] = len(numbers)
    found.append(tuple(numbers[id(tensor)] for tensor in graph.outputs))
    return found


def _public(options: dict[str, Any]) -> str:
    return repr({name: value for name, value in options.items() if not name.startswith("_")})


def may_expand(operation: Any) -> bool:
    """Whether this is a custom layer: one that a user wrote, without a rule.

    A model with a complete layer graph is none. A model whose `call` a user wrote is one, and so is
    a Lambda.
    """
    kind = type(operation)
    of_keras = kind.__module__.startswith(("keras.", "keras_qat.")) and kind is not _LAMBDA
    is_layer = isinstance(operation, keras.layers.Layer)
    return is_layer and kind not in RULES and not of_keras and not is_graph(operation)


def _symbolic_inputs(model: keras.Model, data: Any) -> Any:
    if has_graph(model):
        return keras.tree.map_structure(
            lambda tensor: keras.Input(
                batch_shape=tensor.shape, dtype=tensor.dtype, name=input_name(tensor)
            ),
            input_structure(model),
        )
    inputs = keras.tree.map_structure(lambda x: keras.Input(x.shape[1:]), _sample(model, data))
    if isinstance(inputs, dict):
        inputs = {name: keras.Input(each.shape[1:], name=name) for name, each in inputs.items()}
    return inputs


def _sample(model: keras.Model, data: Any) -> Any:
    """The calibration data or its first batch, in the structure of the model's inputs."""
    if hasattr(data, "shape"):
        return data
    if isinstance(data, Mapping):
        return dict(data)
    if isinstance(data, list | tuple):
        return list(data)
    if data is None or iter(data) is data:
        raise ValueError(
            f"The subclassed model {model.name!r} needs calibration_data that can be read twice: "
            f"arrays or a tf.data.Dataset. Received: {type(data).__name__}"
        )
    batch = next(iter(data))
    return batch[0] if isinstance(batch, tuple) else batch
