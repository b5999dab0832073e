"""Knows the private attributes in which Keras' layers hold their kernels."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras


@dataclasses.dataclass(frozen=True, eq=False)
class KernelPlace:
    """The place where a layer, or a layer inside it, holds a kernel.

    Attributes:
        name: name of the kernel inside the layer; empty for the only kernel of a layer.
        holder: the layer that has the kernel as an attribute.
        attribute: name of that attribute.
        equation: the einsum that multiplies with the kernel; empty for an Embedding.
    """

    name: str
    holder: Any
    attribute: str
    equation: str = ""

    @property
    def latent(self) -> Any:
        """The float32 variable that trains."""
        return getattr(self.holder, self.attribute)


ATTENTION = (keras.layers.GroupQueryAttention, keras.layers.MultiHeadAttention)
_ATTENTION_PARTS = ("query", "key", "value", "gate", "output")


def kernel_places(layer: Any) -> tuple[KernelPlace, ...]:
    """The kernels of a built EinsumDense, Embedding or attention layer; empty for other layers."""
    if isinstance(layer, keras.layers.Embedding):
        return (KernelPlace("", layer, "_embeddings"),)
    if isinstance(layer, keras.layers.EinsumDense):
        return (KernelPlace("", layer, "_kernel", layer.equation),)
    if not isinstance(layer, ATTENTION):
        return ()
    inner = {part: getattr(layer, f"_{part}_dense", None) for part in _ATTENTION_PARTS}
    return tuple(
        KernelPlace(part, dense, "_kernel", dense.equation)
        for part, dense in inner.items()
        if dense is not None
    )


@contextlib.contextmanager
def kernels_replaced(places: Sequence[KernelPlace], values: Sequence[Any]) -> Iterator[None]:
    """Makes the layers compute with these values inside the context, unseen by Keras' tracking."""
    latent = [place.latent for place in places]
    for place, value in zip(places, values, strict=True):
        object.__setattr__(place.holder, place.attribute, value)
    try:
        yield
    finally:
        for place, variable in zip(places, latent, strict=True):
            object.__setattr__(place.holder, place.attribute, variable)
