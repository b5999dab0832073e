"""Sequences as images of one row, because runtimes slide windows over images only."""

from __future__ import annotations

from collections.abc import Sequence

from keras_qat.integer import GraphBuilder, ops


def over_image(values: Sequence[int]) -> tuple[int, int]:
    """Options of a window over one or two axes, for a window over an image.

    >>> over_image((3,)), over_image((3, 2))
    ((1, 3), (3, 2))
    """
    across, *down = reversed(values)
    return (down[0] if down else 1, across)


def as_image(builder: GraphBuilder, tensor: str, name: str) -> str:
    """A tensor (steps, channels) as an image of one row; an image is returned as it is."""
    _, *places, channels = builder.tensor(tensor).shape
    if len(places) == 2:
        return tensor
    op = ops.Reshape((tensor,), f"{name}/image", (1, *places, channels))
    return builder.add(op, builder.tensor(tensor).qparams)


def flat_name(name: str) -> str:
    """The name of the layer's output as an image, before it gets the shape that Keras gives it."""
    return f"{name}/flat"
