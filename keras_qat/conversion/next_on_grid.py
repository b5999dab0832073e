"""Finds the tensors on grids that come next behind a tensor that is on none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from keras_qat.conversion.tensor_names import tensor_names
from keras_qat.keras_graph import layer_name, nodes, readers_of
from keras_qat.quantized_layers import QuantizeWrapper
from keras_qat.quantizers import PutsOnGrid


def grids_behind(tensors: Iterable[Any]) -> list[Any]:
    """The calls of quantizers that come first behind these tensors, as nodes of Keras."""
    found, seen, waiting = [], set(), list(tensors)
    while waiting:
        tensor = waiting.pop(0)
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        for node in readers_of(tensor):
            if isinstance(node.operation, PutsOnGrid):
                found.append(node)
            else:
                waiting.extend(node.outputs)
    return found


def next_on_grid(model: keras.Model, layer: str) -> list[str]:
    """The tensors of the integer network in which what a layer yields comes to a grid.

    Args:
        model: a quantized model.
        layer: the name of one of its layers.

    Returns:
        Names of tensors; none if there is no such layer, or nothing behind it is on a grid.
    """
    names, found = tensor_names(model), []
    for node in nodes(model):
        if node.operation.name != layer:
            continue
        if isinstance(node.operation, PutsOnGrid):
            found.append(node.inputs[0])
        else:
            found.extend(behind.input_tensors[0] for behind in grids_behind(node.outputs))
    return list(dict.fromkeys(names[id(each)] for each in found if id(each) in names))


def kernel_layers(model: keras.Model) -> dict[str, str]:
    """The layer whose kernel an integer op multiplies with, by the tensor that the op writes.

    Where one tensor has the kernels of several layers, its name says as much as theirs.
    """
    names = tensor_names(model)
    found: dict[str, set[str]] = {}
    for node in nodes(model):
        if isinstance(node.operation, QuantizeWrapper):
            for behind in grids_behind(node.outputs):
                tensor = names.get(id(behind.input_tensors[0]))
                if tensor is not None:
                    found.setdefault(tensor, set()).add(node.operation.name)
    return {tensor: layers.pop() for tensor, layers in found.items() if len(layers) == 1}


def on_no_grid(tensor: Any, model_name: str) -> str:
    """Says that an output of a model is on no grid, and which tensor behind it is on one."""
    said = (
        f"The output {layer_name(tensor)!r} of the model {model_name!r} is on no "
        "grid, so it has no integer form."
    )
    behind = grids_behind([tensor])
    if not behind:
        return f"{said} Make the model with keras_qat.quantize, which puts a quantizer there."
    quantizer, source = behind[0].operation.name, behind[0].input_tensors[0]
    name = layer_name(source)
    return (
        f"{said} The next tensor on a grid is the output of {quantizer!r}: build the model on "
        f"qmodel.get_layer({quantizer!r}).output, or call tflite_export.export(qmodel, path, "
        f"outputs=[{name!r}])."
    )
