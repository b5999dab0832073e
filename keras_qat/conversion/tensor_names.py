"""The names of tensors in the integer graph, and the names of a model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_qat.keras_graph import (
    GraphNode,
    functional,
    input_keys,
    input_name,
    nodes,
    output_structure,
)
from keras_qat.names import unused_name
from keras_qat.quantized_layers import QuantizeWrapper
from keras_qat.quantizers import PutsOnGrid

_LABEL = "_keras_qat_label"


def tensor_names(model: keras.Model, labelled: bool = True) -> dict[int, str]:
    """The name of every symbolic tensor, by `id(tensor)`: the name of the layer that yields it.

    The second output of a layer `"attention"` is `"attention/1"`. Inputs have the names by which
    the model is fed. No other tensor has the name of an input. If `labelled`, outputs have the
    names of the user's model, if this model knows them: keys, or names of layers.
    """
    keys = input_keys(model)
    names = {id(tensor): key for tensor, key in zip(model.inputs, keys, strict=True)}
    called = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    taken = {*keys, *(layer.name for layer in called)}
    for node in nodes(model):
        name, count = node.operation.name, node.call_index
        if count or name in keys:
            while (name := f"{node.operation.name}_{count}") in taken:
                count += 1
        taken.add(name)
        for index, tensor in enumerate(node.outputs):
            names[id(tensor)] = f"{name}/{index}" if index else name
    if labelled:
        _name_outputs(model, names, taken)
    return names


def _name_outputs(model: keras.Model, names: dict[int, str], taken: set[str]) -> None:
    """Gives the tensors that the graph outputs the labels of the outputs.

    A tensor on a grid is named before its quantizer. An inner tensor with the name of an output, as
    of a Dense layer in front of its softmax, becomes `"..._linear"`.
    """
    labels = getattr(model, "output_labels", None) or ()
    keys = set(input_keys(model))
    before = {
        id(node.outputs[0]): node.inputs[0]
        for node in nodes(model)
        if isinstance(node.operation, PutsOnGrid)
    }
    given = set(keys)
    labelled: dict[int, str] = {}
    for tensor, label in zip(model.outputs, labels, strict=False):
        place = id(before.get(id(tensor), tensor))
        second = names[place].startswith(f"{label}/")  # another output of one layer
        if place not in labelled and names[place] not in keys and not second:
            labelled[place] = unused_name(label, given)
    taken |= given
    for place, name in names.items():
        if place in labelled:
            names[place] = labelled[place]
        elif name in given - keys:
            names[place] = unused_name(f"{name}_linear", taken)


def _names_before_quantizers(model: keras.Model) -> list[str]:
    makers = {id(tensor): node for node in nodes(model) for tensor in node.outputs}

    def before(node: GraphNode | None) -> GraphNode | None:
        return None if node is None else makers.get(id(node.inputs[0]))

    found = []
    for tensor in model.outputs:
        node = makers.get(id(tensor))
        while node is not None and isinstance(node.operation, PutsOnGrid):
            node = before(node)
        name = input_name(tensor) if node is None else node.operation.name
        inner = before(node)
        if inner is not None and isinstance(inner.operation, PutsOnGrid):
            inner = before(inner)
        if inner is not None and isinstance(inner.operation, QuantizeWrapper):
            name = inner.operation.name if name.startswith(f"{inner.operation.name}_") else name
        found.append(name)
    return found


def label_outputs(model: keras.Model, like: keras.Model) -> None:
    """Gives the outputs of a quantized model the names that they have in the user's model."""
    names = list(functional(like).output_names)
    structure = output_structure(like)
    keys: Sequence[Any] = names
    if isinstance(structure, dict) and len(structure) == len(like.outputs):
        by_tensor = {id(tensor): key for key, tensor in structure.items()}
        keys = [by_tensor[id(tensor)] for tensor in like.outputs]
    set_labels(model, names, list(map(str, keys)))


def set_labels(model: Any, names: Sequence[str], labels: Sequence[str]) -> None:
    """Sets the names of the outputs for `compile` and logs, and their labels in files, if any."""
    model.output_names = list(names)
    model.output_labels = list(labels)
    for tensor, pair in zip(model.outputs, zip(names, labels, strict=False), strict=False):
        setattr(tensor, _LABEL, pair)


def inherit_labels(model: Any) -> None:
    """Labels of a model that is made of the output tensors of another one, or is a clone.

    The tensors of a clone are new. An output has the name of the layer in front of its quantizer
    there, or of the weight layer whose activation that layer was.
    """
    pairs = [getattr(tensor, _LABEL, None) for tensor in model.outputs]
    stripped = _names_before_quantizers(model)
    found = [pair or (name, name) for pair, name in zip(pairs, stripped, strict=True)]
    if found:
        names, labels = zip(*found, strict=True)
        set_labels(model, list(names), list(labels))
