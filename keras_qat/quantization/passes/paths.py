"""The paths of layers of inner models, such as `"base/conv1"`: names that overrides know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import keras

from keras_qat.keras_graph import is_graph, nodes

_PATH = "_keras_qat_path"


def inner_paths(model: keras.Model) -> dict[str, set[str]]:
    """The paths of all layers of inner models, by their names. Two models may share a name.

    >>> dense = keras.layers.Dense(2, name="dense")
    >>> base = keras.Sequential([keras.Input((4,)), dense], name="base")
    >>> inner_paths(keras.Sequential([keras.Input((4,)), base]))
    {'dense': {'base/dense'}}
    """
    found: dict[str, set[str]] = defaultdict(set)
    _collect(model, [], found)
    return dict(found)


def _collect(model: keras.Model, outer: list[str], found: dict[str, set[str]]) -> None:
    for node in nodes(model):
        path = [*outer, node.operation.name]
        if outer:
            found[path[-1]].add("/".join(path))
        if is_graph(node.operation):
            _collect(node.operation, path, found)


def set_path(layer: Any, path: Sequence[str]) -> None:
    """Notes the path of the layer from which `layer` was copied."""
    if len(path) > 1:
        setattr(layer, _PATH, "/".join(path))


def paths_of(model: keras.Model) -> dict[str, list[str]]:
    """The noted paths of the layers of a model, by their names."""
    noted = {layer.name: getattr(layer, _PATH, None) for layer in model.layers}
    return {name: [path] for name, path in noted.items() if path is not None}
