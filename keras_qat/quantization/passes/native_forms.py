"""Pass: activations become layers that an NPU runs, where it reads no table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_qat.copying import builtin_name
from keras_qat.keras_graph import GraphNode, rebuild
from keras_qat.quantization.passes.layer_copies import LayerCopies, StaysFloat, float_copy_of
from keras_qat.quantization.passes.rewriting import Names

layers = keras.layers
_Part = Callable[[str, Callable[[str], Any]], Any]
"""`part(suffix, make)`: the layer of that suffix, made once from its name."""


def native_forms(
    model: keras.Model, stays_float: StaysFloat
) -> tuple[keras.Model, Mapping[str, str]]:
    """An equal model in which some activations are products and affine maps.

    `silu(x)` becomes `x * sigmoid(x)`, `hard_sigmoid(x)` becomes `relu(relu6(x + 3) / 6)`, and
    `hard_silu(x)` becomes `z * relu6(6 * z + 3)` with `z = x / 6`. Where `x` comes from a
    convolution, it computes `z`, or `x + 3`, at no cost. The last layer of each keeps the name.

    Args:
        model: a model of layers, activations in layers of their own.
        stays_float: tells for a layer name whether the layer is left in float.

    Returns:
        The model, and for each added layer the name of the activation that it belongs to. A model
        with nothing to change is returned itself.
    """
    if not any(_form_of(layer, stays_float) for layer in model.layers):
        return model, {}
    copies, names, parts = LayerCopies(), Names(model), dict[tuple[int, str], Any]()

    def call(node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = node.operation
        form = _form_of(layer, stays_float)
        if form is None:
            make = float_copy_of if stays_float(layer.name) else None
            return copies.of(layer, make)(*args, **kwargs)

        def part(suffix: str, make: Callable[[str], Any]) -> Any:
            if (id(layer), suffix) not in parts:
                own = layer.name
                name = names.new(f"{own}_{suffix}", origin=own) if suffix else own
                parts[id(layer), suffix] = make(name)
            return parts[id(layer), suffix]

        return form(args[0], part)

    result = rebuild(model, call)
    copies.copy_weights()
    return result, names.origins


def _form_of(layer: Any, stays_float: StaysFloat) -> Callable[[Any, _Part], Any] | None:
    """How to write an activation; `None` for all other layers."""
    plain = type(layer) is layers.Activation and layer.activity_regularizer is None
    if not plain or stays_float(layer.name):
        return None
    return _FORMS.get(builtin_name(layer.activation) or "")


def _silu(x: Any, part: _Part) -> Any:
    gate = part("sigmoid", lambda name: layers.Activation("sigmoid", name=name))
    return part("", lambda name: layers.Multiply(name=name))([x, gate(x)])


def _hard_sigmoid(x: Any, part: _Part) -> Any:
    sixth = part("sixth", lambda name: layers.Rescaling(1.0 / 6.0, name=name))
    return part("", lambda name: layers.ReLU(name=name))(sixth(_gate(x, part, 1.0)))


def _hard_silu(x: Any, part: _Part) -> Any:
    z = part("sixth", lambda name: layers.Rescaling(1.0 / 6.0, name=name))(x)
    return part("", lambda name: layers.Multiply(name=name))([z, _gate(z, part, 6.0)])


def _gate(x: Any, part: _Part, factor: float) -> Any:
    line = part("line", lambda name: layers.Rescaling(factor, 3.0, name=name))
    return part("gate", lambda name: layers.ReLU(6.0, name=name))(line(x))


_FORMS = {"hard_sigmoid": _hard_sigmoid, "hard_silu": _hard_silu, "silu": _silu}
