"""Layer graphs of subclassed models and of custom layers made of other layers.

A custom layer is one that a user wrote, without a rule.
"""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_qat.borrowed_calls import variables_that_may_train
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
    packed_outputs,
    variables_in,
    with_inner_layers,
)
from keras_qat.layer_rules.inherited import computing_kind
from keras_qat.layer_rules.table import RULES
from keras_qat.lowering.shape import lower_identity
from keras_qat.quantization.passes.own_weights import covered_by, with_layers
from keras_qat.quantization.passes.stand_ins import OwnWeightError, stand_ins
from keras_qat.quantization.passes.tensorflow_functions import on_symbolic
from keras_qat.quantization.passes.traced_graphs import kept_in_inference, outline, without_training
from keras_qat.quantized_layers import LivingBranch, LivingIdentity


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
        trace = _Trace(model, (inputs,), {}, inputs, is_model=True)
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
    """Warns if a layer that is taken apart, or one inside it, fixes `training` for layers."""
    name = node.operation.name
    trace = None if stays_whole(name) else _traced(node)
    if trace is None or trace.loses:
        return
    trace.warn_of_training("")
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
        graph: the graph of the layers and raw operations that it calls in inference. What a layer
            does in training alone, and losses that it adds, are in it where that is possible.
        loses: what this graph does not keep, in words; empty if nothing.
    """

    def __init__(
        self,
        layer: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: Any,
        is_model: bool = False,
    ):
        self._layer, self._is_model = layer, is_model
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
        told = "training" in inspect.signature(layer.call).parameters
        call = {**kwargs, "training": False} if told else kwargs
        self.graph, losses, self._reason = _graph_of(layer, args, call, inputs)
        self._differs, self._lives, losses_in_training = False, False, losses
        self._fixed = [] if told else kept_in_inference(self.graph)
        if told:
            losses_in_training |= self._compare_training(args, kwargs, inputs)
        self._adds_losses = losses or losses_in_training
        self._weighted = self.graph
        if not is_model and (self._differs or self._adds_losses):
            self._keep_branch(args, kwargs, losses)
        self._keep_activity_regularizer()
        self.loses = self._lost()

    def _compare_training(self, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Any) -> bool:
        """Compares a call in training with inference; returns whether it adds losses."""
        try:
            # The scope drops the values that the call assigns to variables.
            with keras.StatelessScope():
                graph, adds_losses, _ = _graph_of(
                    self._layer, args, {**kwargs, "training": True}, inputs
                )
        except Exception:  # a custom call() may raise anything; in inference it did not
            self._differs = True
            return False
        self._differs = outline(graph) != outline(self.graph)
        self._fixed = kept_in_inference(graph)
        if self._differs and outline(graph, _is_identity) == outline(self.graph, _is_identity):
            self.graph, self._differs = without_training(graph), False
        return adds_losses

    def _keep_branch(self, args: tuple[Any, ...], kwargs: dict[str, Any], losses: bool) -> None:
        """Adds a layer that runs the code of the custom layer in training, if that is possible."""
        if len(self.graph.outputs) != 1 or packed_outputs(self.graph, [None]) is not None:
            return  # several outputs, or one in a list
        (output,), layer = self.graph.outputs, self._layer
        losses = losses or layer.activity_regularizer is not None
        if not any(True for _ in nodes(self.graph)):
            outputs = _living(LivingIdentity, layer, losses)(*args, **kwargs)
        elif not variables_that_may_train(layer) and output.dtype == layer.compute_dtype:
            outputs = _living(LivingBranch, layer, losses)(output, *args, **kwargs)
        else:
            return
        self.graph = graph_between(self.graph.inputs, outputs, layer.name)
        self._differs, self._adds_losses, self._lives = False, False, True

    def _keep_activity_regularizer(self) -> None:
        regularizer = self._layer.activity_regularizer
        if regularizer is None or self._lives:
            return
        name = f"{self._layer.name}_regularized"
        outputs = [
            keras.layers.Activation(
                "linear",
                activity_regularizer=regularizer,
                name=f"{name}_{index}" if index else name,
            )(output)
            for index, output in enumerate(self.graph.outputs)
        ]
        packed = packed_outputs(self.graph, outputs)
        self.graph = graph_between(input_structure(self.graph), packed, self._layer.name)

    def _lost(self) -> str:
        layer = self._layer
        if has_own_dunder_call(layer):
            return "it has a __call__ of its own, which would be lost"
        weights = ", ".join(dict.fromkeys(repr(each.name) for each in self._lost_weights()))
        if weights and not self._lives:
            use = f": no layer states {self._reason}" if self._reason else ""
            lost = "which would become constants"
            return f"it trains weights in raw operations ({weights}), {lost}{use}"
        if self._adds_losses:
            return _ADDS_LOSSES
        if self._differs and not self._is_model:
            return (
                "it does something else in training, which its parts do not state (in a layer of "
                "its own, without weights, that would be kept)"
            )
        return ""

    def _lost_weights(self) -> list[Any]:
        found = nodes(self.graph)
        raw = [node for node in found if not isinstance(node.operation, keras.layers.Layer)]
        called = {id(node.operation) for node in nodes(self.graph)}
        tables = [
            each.embeddings
            for each in with_inner_layers(self._layer)
            if type(each) is keras.layers.Embedding and each.built and id(each) not in called
        ]
        own = [*own_trainable_weights(self._layer), *tables]
        own += [variable for node in raw for variable in variables_in(node)]
        covered = covered_by(self._weighted)
        return [each for each in own if each.trainable and id(each) not in covered]

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


def _called(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool]:
    """What a call of the layer yields, and whether it adds losses. It may call TensorFlow."""
    found: list[bool] = []

    def call(*own_args: Any, **own_kwargs: Any) -> Any:
        outputs, adds_losses = call_and_losses(layer, own_args, own_kwargs)
        found.append(adds_losses)
        return outputs

    return on_symbolic(call, args, kwargs), any(found)


def _graph_of(
    layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Any
) -> tuple[keras.Model, bool, str]:
    """The graph of a call, whether it adds losses, and which use of a weight no layer states."""
    reason = ""
    try:
        with stand_ins(layer) as found:
            if not found:
                raise OwnWeightError
            outputs, adds_losses = _called(layer, args, kwargs)
        return with_layers(layer, inputs, outputs, found), adds_losses, ""
    except OwnWeightError as error:
        reason = str(error)
    except Exception:  # a call may read a variable in a way that symbolic tensors do not know
        reason = ""
    outputs, adds_losses = _called(layer, args, kwargs)
    return graph_between(inputs, outputs, layer.name), adds_losses, reason


_LIVING: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""The last living layer of each custom layer, so that a second call of it calls the same one."""


def _living(kind: Any, layer: Any, losses: bool) -> Any:
    kept: Any = _LIVING.get(id(layer))
    if type(kept) is not kind or kept.held is not layer or kept.losses_in_inference is not losses:
        kept = _LIVING[id(layer)] = kind(layer, losses)
    kept.take_values()
    return kept


def _is_identity(node: GraphNode) -> bool:
    """Whether a layer does nothing in inference."""
    rule = RULES.get(type(node.operation))
    if rule is not None:
        return rule.lower is lower_identity
    trace = _traced(node)
    return trace is not None and all(map(_is_identity, nodes(trace.graph)))


def may_expand(operation: Any) -> bool:
    """Whether this is a custom layer: one that a user wrote, without a rule.

    A model with a complete layer graph is none. A model whose `call` a user wrote is one, and so is
    a Lambda.
    """
    if type(operation) is keras.layers.Lambda:
        return True
    return (
        isinstance(operation, keras.layers.Layer)
        and type(operation) not in RULES
        and not computing_kind(operation).__module__.startswith(("keras.", "keras_qat."))
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
    """The calibration data or its first batch, in the structure of the model's inputs."""
    if hasattr(data, "shape"):
        return data
    if isinstance(data, Mapping):
        return dict(data)
    if isinstance(data, tuple) and isinstance(data[0], Mapping | list | tuple):
        return _sample(model, data[0])  # (inputs, labels)
    if isinstance(data, list | tuple):
        return list(data)
    if data is None or iter(data) is data:
        raise ValueError(
            f"The subclassed model {model.name!r} needs calibration_data that can be read twice: "
            f"arrays or a tf.data.Dataset. Received: {type(data).__name__}"
        )
    batch = next(iter(data))
    return batch[0] if isinstance(batch, tuple) else batch
