"""Layer graphs of subclassed models, and of layers that are made of other layers."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from keras_qat.keras_graph import (
    GraphNode,
    call_and_losses,
    functional,
    graph_between,
    has_graph,
    has_own_call,
    input_name,
    input_structure,
    is_graph,
    nodes,
    own_trainable_weights,
)
from keras_qat.rules import RULES


def as_graph(model: keras.Model, data: Any) -> keras.Model:
    """The model itself if a layer graph says all of it, else one of the same layers and function.

    A model with a `call` of its own is called once on symbolic inputs, in inference mode: on those
    of its graph, if it was built as a Functional or a Sequential model, else on inputs like those
    of `data`.

    Raises:
        ValueError: a model that is not built, whose `call` does not run on symbolic tensors, or
            does what layers and raw operations do not keep.
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
    """The layers that a layer of the user's own calls; `None` if it is none or hides them.

    The inputs of the graph are the different inputs of the node, in their order.
    """
    trace = _traced(node)
    return None if trace is None or trace.loses else trace.graph


def lost_by_expanding(node: GraphNode) -> str:
    """What the layers inside a layer of the user's own would not keep; empty if nothing."""
    trace = _traced(node)
    return "" if trace is None else trace.loses


def warn_of_training(node: GraphNode) -> None:
    """Warns of a layer that is taken apart and does something else in training."""
    trace = _traced(node)
    if trace is not None and not trace.loses:
        trace.warn_of_training(
            f"Leave it in float with overrides={{{node.operation.name!r}: None}}, or write it with "
            "layers that know of training, such as keras.layers.Dropout."
        )


def _traced(node: GraphNode) -> _Trace | None:
    """A layer of the user's own on symbolic tensors; `None` if it is none or hides its layers."""
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
    except Exception:  # whatever a foreign call() raises: it does not run on symbolic tensors
        return None


class _Trace:
    """A call of a layer, or a model, on symbolic tensors.

    Attributes:
        graph: of the layers and raw operations that it calls in inference.
        loses: what these do not keep, in words; empty if nothing.
    """

    def __init__(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Any):
        self._layer = layer
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
        outputs, adds_losses = call_and_losses(layer, args, kwargs)
        self.graph = graph_between(inputs, outputs, layer.name)
        self.loses = _lost(layer, adds_losses)
        self._differs = False
        if "training" in inspect.signature(layer.call).parameters:
            self._differs = not self._same_in_training(args, kwargs, inputs)

    def _same_in_training(self, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Any) -> bool:
        try:
            with keras.StatelessScope():  # what the call assigns is dropped
                outputs, _ = call_and_losses(self._layer, args, {**kwargs, "training": True})
                return _outline(graph_between(inputs, outputs)) == _outline(self.graph)
        except Exception:  # whatever a foreign call() raises: in inference it did not
            return False

    def warn_of_training(self, way_out: str) -> None:
        """Warns if the call does something else in training."""
        if self._differs:
            warnings.warn(
                f"{self._layer.name!r} ({type(self._layer).__name__}) is taken apart into the "
                "layers that it calls in inference. In training it does something else, which the "
                f"quantized model does not have. {way_out}",
                stacklevel=2,
            )


def _lost(layer: Any, adds_losses: bool) -> str:
    weights = ", ".join(repr(variable.name) for variable in own_trainable_weights(layer))
    if weights:
        return f"it trains weights of its own ({weights}), which would become constants"
    if adds_losses:
        return "it calls add_loss, which would be lost"
    if layer.activity_regularizer is not None:
        return "it has an activity_regularizer, which would be lost"
    return ""


def _outline(graph: keras.Model) -> list[tuple[Any, ...]]:
    """What a graph computes: every operation, its options, and which tensors it reads."""
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
    """Whether this is a layer of the user's own, without a rule."""
    return (
        isinstance(operation, keras.layers.Layer)
        and type(operation) not in RULES
        and not type(operation).__module__.startswith(("keras.", "keras_qat."))
        and not is_graph(operation)
    )


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
    """The first of the calibration data, in the structure that the model takes."""
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
