"""Sequences in integers: runtimes slide windows over images, and a sequence is one of one row."""

from __future__ import annotations

from collections.abc import Sequence

from keras_qat.integer import GraphBuilder, ops


def over_image(values: Sequence[int]) -> tuple[int, int]:
    """Options of a window over one axis or two, as those of a window over an image.

    >>> over_image((3,)), over_image((3, 2))
    ((1, 3), (3, 2))
    """
    across, *down = reversed(values)
    return (down[0] if down else 1, across)


def as_image(builder: GraphBuilder, tensor: str, name: str) -> str:
    """A tensor (steps, channels) as an image of one row, for the layer `name`; an image itself."""
    _, *places, channels = builder.tensor(tensor).shape
    if len(places) == 2:
        return tensor
    op = ops.Reshape((tensor,), f"{name}/image", (1, *places, channels))
    return builder.add(op, builder.tensor(tensor).qparams)


def flat_name(name: str) -> str:
    """The tensor that the layer `name` yields as an image, before it gets its own shape."""
    return f"{name}/flat"
