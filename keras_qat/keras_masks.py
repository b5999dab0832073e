"""Knows how Keras passes the masks of sequences through a graph, beside the tensors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import keras

from keras_qat.keras_graph import GraphNode, consumers, nodes


def is_mask_name(argument: str) -> bool:
    """Whether Keras passes a mask by this argument.

    >>> is_mask_name("mask"), is_mask_name("query_mask"), is_mask_name("inputs")
    (True, True, False)
    """
    return argument == "mask" or argument.endswith("_mask")


def read_masks(node: GraphNode) -> dict[str, Any]:
    """The symbolic masks that a call reads, by argument."""
    _, kwargs = node.fill_in({id(tensor): tensor for tensor in node.inputs})
    return {
        name: value
        for name, value in kwargs.items()
        if is_mask_name(name) and isinstance(value, keras.KerasTensor)
    }


def data_inputs(node: GraphNode) -> tuple[Any, ...]:
    """The symbolic tensors that a call reads, except those that it reads as masks alone."""
    without = {id(tensor): tensor for tensor in node.inputs}
    args, kwargs = node.fill_in(without)
    kept = {name: value for name, value in kwargs.items() if not is_mask_name(name)}
    found = [x for x in keras.tree.flatten((args, kept)) if isinstance(x, keras.KerasTensor)]
    return tuple(tensor for tensor in node.inputs if any(tensor is each for each in found))


def mask_tensors(model: keras.Model) -> set[int]:
    """The tensors, by `id(tensor)`, that raw operations compute as masks for other calls."""
    readers = consumers(model)
    found: set[int] = set()
    for node in reversed(list(nodes(model))):
        if isinstance(node.operation, keras.layers.Layer):
            continue
        (tensor,) = node.outputs[:1]
        uses = readers.get(id(tensor), [])
        if uses and all(_as_mask(use, tensor, found) for use in uses):
            found.add(id(tensor))
    return found


def _as_mask(use: GraphNode | None, tensor: Any, found: set[int]) -> bool:
    if use is None:
        return False
    computes_a_mask = id(use.outputs[0]) in found
    return computes_a_mask or not any(tensor is each for each in data_inputs(use))


def makers(model: keras.Model) -> dict[int, str]:
    """By the id of each mask, the name of the layer that made it."""
    found: dict[int, str] = {}
    for node in nodes(model):
        for mask in filter(lambda each: each is not None, _masks_of(node)):
            found.setdefault(id(mask), node.operation.name)
    return found


def _masks_of(node: GraphNode) -> Iterator[Any]:
    for tensor in node.outputs:
        yield getattr(tensor, "_keras_mask", None)


def with_masks(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a symbolic call, with the masks that Keras would find at run time.

    Keras does not keep them in the graph for a layer that reads several tensors. A part of the
    graph that runs alone would lose them.
    """
    if not isinstance(layer, keras.layers.Layer):
        return kwargs
    parameters = inspect.signature(getattr(layer, "held", layer).call).parameters
    given = {**dict(zip(parameters, args, strict=False)), **kwargs}
    tensors = {name: value for name, value in given.items() if _is_data(name, value)}
    masks = {}
    for name, value in tensors.items():
        argument = "mask" if len(tensors) == 1 else f"{name}_mask"
        found = keras.tree.map_structure(lambda each: getattr(each, "_keras_mask", None), value)
        known = any(each is not None for each in keras.tree.flatten(found))
        if argument in parameters and given.get(argument) is None and known:
            masks[argument] = found
    return {**kwargs, **masks}


def _is_data(name: str, value: Any) -> bool:
    flat = keras.tree.flatten(value)
    return not is_mask_name(name) and bool(flat) and isinstance(flat[0], keras.KerasTensor)


def with_mask_of(tensor: Any, other: Any) -> Any:
    """The tensor `other`, with the Keras mask of `tensor`, which masks losses."""
    mask = getattr(tensor, "_keras_mask", None)
    if mask is not None:
        other._keras_mask = mask
    return other
