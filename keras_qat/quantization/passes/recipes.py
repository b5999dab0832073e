"""`Recipe`: the layers that compute a raw operation, as data."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

Link = tuple[type, dict[str, Any]]
"""A layer: its type and its options."""

Chain = list[Link]
"""Layers in a row: the output of each is the input of the next."""

NOTHING: Chain = [(keras.layers.Activation, {"activation": "linear"})]
"""A layer that changes nothing, for an operation that changes nothing."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The layers of an operation with several inputs or outputs.

    Attributes:
        outputs: a chain for each output. All of them read the same tensor.
        before: a chain for each input, empty where the input is read as it is.
        join: the layer that reads all inputs, if there are several.
    """

    outputs: tuple[Chain, ...]
    before: tuple[Chain, ...] = ()
    join: Link | None = None


def recipe_of(found: Chain | Recipe) -> Recipe:
    """A chain alone as a recipe, or the recipe itself."""
    return found if isinstance(found, Recipe) else Recipe((found,))
