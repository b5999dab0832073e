"""Layers that compute the same as other layers: those take their place."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_qat.copying import builtin_name, copy_of
from keras_qat.keras_graph import GraphNode, graph_between, is_graph, nodes, replay
from keras_qat.layer_rules.inherited import computing_kind
from keras_qat.layer_rules.restrictions import MOST_STEPS
from keras_qat.layer_rules.table import activation_rule
from keras_qat.quantization.passes.functions import function_layer, is_pointwise
from keras_qat.quantization.passes.raw_operations import layers_of, softmax_over
from keras_qat.quantization.passes.split_activations import SPLIT_TYPES
from keras_qat.quantization.passes.tensorflow_functions import on_symbolic
from keras_qat.quantized_layers import Function

layers = keras.layers

_OF_LAST_AXIS = (
    *(layers.Activation, layers.Dense, layers.Dropout, layers.ELU, layers.GaussianNoise),
    *(layers.Identity, layers.LayerNormalization, layers.LeakyReLU, layers.ReLU),
    *(layers.Rescaling, layers.Softmax, layers.UnitNormalization),
)


@dataclasses.dataclass(frozen=True, eq=False)
class EqualForm:
    """A graph that computes what a layer computes.

    Attributes:
        graph: its inputs are the distinct inputs of the call, in their order.
        named: the layer of the graph that takes the name of the replaced layer, if one does.
    """

    graph: keras.Model
    named: Any = None


class EqualForms:
    """Finds equal forms, one set of layers for all calls of a layer."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, str], tuple[Any, Any]] = {}

    def of(self, node: GraphNode) -> EqualForm | None:
        """The equal form of a call; `None` if the layer stays."""
        layer = node.operation
        if not isinstance(layer, layers.Layer) or len(node.inputs) != 1:
            return None
        kind = computing_kind(layer)
        if kind is layers.TimeDistributed:
            return self._over_time(node)
        if kind is layers.Softmax:
            return self._softmax(node)
        if kind in (layers.Activation, *SPLIT_TYPES):
            return self._with_own_activation(node, kind)
        return None

    def _softmax(self, node: GraphNode) -> EqualForm | None:
        """A softmax over another axis, between two permutations."""
        layer = node.operation
        chain = softmax_over(layer.axis, len(node.inputs[0].shape))
        if chain is None or len(chain) == 1:
            return None
        options = {"dtype": layer.dtype_policy}
        before, softmax, behind = (
            self._once(layer, str(index), functools.partial(kind, **given, **options))
            for index, (kind, given) in enumerate(chain)
        )
        softmax.activity_regularizer = layer.activity_regularizer
        x = _input_like(node.inputs[0])
        return EqualForm(graph_between(x, behind(softmax(before(x)))), softmax)

    def _with_own_activation(self, node: GraphNode, kind: type) -> EqualForm | None:
        """A weight layer, and then the layers of an activation that has no rule of its own."""
        layer, alone = node.operation, kind is layers.Activation
        if not _is_own_activation(node, alone):
            return None
        x = y = _input_like(node.inputs[0])
        linear = None
        if not alone:
            linear = self._once(layer, "linear", lambda: _linear(layer, kind, x))
            y = linear(x)
        try:
            outputs, own = self._activated(layer, y)
        except Exception:  # a function of the user's may raise anything
            return None
        outputs, regularized = self._regularized(layer, outputs)
        behind = regularized if regularized is not None else own
        return EqualForm(graph_between(x, outputs), behind if alone else linear)

    def _activated(self, layer: Any, x: Any) -> tuple[Any, Any]:
        """An activation on a symbolic tensor, and the one layer that it became, if it is one.

        A function of one number is a table. A function of TensorFlow becomes the same one of Keras.
        """
        activation = layer.activation
        if isinstance(activation, layers.Layer):
            return activation(x), activation
        known = name_of_tensorflow(activation)
        if known is None:
            fresh = _input_like(x)
            graph = graph_between(fresh, on_symbolic(activation, (fresh,)))
            if not is_one_function(graph):
                return on_symbolic(activation, (x,)), None
        name = f"{layer.name}_{_said(activation)}"
        own = self._once(
            layer,
            "activation",
            lambda: (
                layers.Activation(known, name=name)
                if known is not None
                else function_layer(graph)[0](graph, name=name)
            ),
        )
        return own(x), own

    def _over_time(self, node: GraphNode) -> EqualForm | None:
        """A layer for every step: on the last axis at once, if it is such, or step by step."""
        layer, x = node.operation, _input_like(node.inputs[0])
        inner = layer.layer
        if None in x.shape[1:]:
            return None
        named = None if is_graph(inner) else inner
        if _is_of_last_axis(inner):
            outputs = _applied(inner, x)
        elif x.shape[1] <= MOST_STEPS:
            outputs = ops.stack([inner(x[:, step]) for step in range(x.shape[1])], axis=1)
        else:
            return None
        outputs, behind = self._regularized(layer, outputs)
        return EqualForm(graph_between(x, outputs), named or behind)

    def _regularized(self, layer: Any, outputs: Any) -> tuple[Any, Any]:
        """Outputs behind the regularizer of a layer that is replaced; and the layer that has it."""
        if layer.activity_regularizer is None:
            return outputs, None
        options = {"activity_regularizer": layer.activity_regularizer}
        make = functools.partial(layers.Activation, "linear", **options)
        regularized = self._once(layer, "regularized", make)
        return regularized(outputs), regularized

    def _once(self, layer: Any, part: str, make: Callable[[], Any]) -> Any:
        key = (id(layer), part)
        if key not in self._made:
            self._made[key] = (layer, make())
        return self._made[key][1]


def _input_like(tensor: Any) -> Any:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)


def _linear(layer: Any, kind: type, x: Any) -> Any:
    """The same layer without its activation, with its weights."""
    linear = copy_of(layer, kind, activation="linear", activity_regularizer=None)
    linear(x)
    linear.set_weights(layer.get_weights()[: len(linear.weights)])
    return linear


def _said(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return name if name.isidentifier() else "activation"


def _is_own_activation(node: GraphNode, alone: bool) -> bool:
    """Whether an activation has no rule where it is: a function of the user's, or a layer."""
    layer = node.operation
    activation = layer.activation
    ruled = activation_rule(layer) is not None
    if not isinstance(activation, layers.Layer):
        return not ruled
    if not activation.built and _has_weights(activation, node.outputs[0]):
        return False  # the model was never called, and building the layer would change it
    return (
        alone
        or not ruled
        or bool(activation.weights)
        or _is_over_another_axis(activation, len(node.outputs[0].shape))
    )


def _has_weights(layer: Any, tensor: Any) -> bool:
    built = copy_of(layer)
    built(_input_like(tensor))
    return bool(built.weights)


def _is_over_another_axis(layer: Any, rank: int) -> bool:
    return isinstance(layer, layers.Softmax) and layer.axis not in (-1, rank - 1)


def name_of_tensorflow(function: Any) -> str | None:
    """The name in Keras of a function of TensorFlow that computes the same by another name."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or builtin_name(function) is not None:
        return None
    nn = tensorflow.nn
    equal = {
        "exponential": tensorflow.exp,
        "gelu": nn.gelu,
        "leaky_relu": nn.leaky_relu,
        "linear": tensorflow.identity,
        "silu": nn.silu,
        "softmax": nn.softmax,
    }
    return next((name for name, each in equal.items() if function is each), None)


def is_one_function(graph: keras.Model) -> bool:
    """Whether one table is a better form of a graph than its layers.

    It is for every function of one number, except for what joins the op before it, as a ReLU does,
    and for one operation that has a layer.
    """
    if not is_pointwise(graph):
        return False
    found = list(nodes(graph))
    recipes = [layers_of(node) for node in found]
    if None in recipes:
        return True
    kinds = [link[0] for recipe in recipes if recipe for chain in recipe.outputs for link in chain]
    if len(found) == 1:
        return kinds == [Function]
    straight = all(len(node.inputs) == 1 for node in found)
    return not (straight and set(kinds) <= {layers.ReLU, layers.Rescaling})


def _applied(layer: Any, x: Any) -> Any:
    """A layer on a tensor, or a model whose own input may have another rank."""
    if not is_graph(layer):
        return layer(x)
    (outputs,) = replay(layer, [x], lambda node, args, kwargs: node.operation(*args, **kwargs))
    return outputs


def _is_of_last_axis(layer: Any) -> bool:
    """Whether a layer does the same on tensors with one axis more."""
    if is_graph(layer):
        one = len(layer.inputs) == len(layer.outputs) == 1
        return one and all(_is_of_last_axis(each.operation) for each in nodes(layer))
    if not isinstance(layer, layers.Layer) or computing_kind(layer) not in _OF_LAST_AXIS:
        return False
    return getattr(layer, "axis", -1) in (-1, [-1], (-1,))
