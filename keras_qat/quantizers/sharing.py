"""Which elements of a tensor share one number of a parameter, and sums over them."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def sharing_axes(x: Tensor, parameter: Tensor) -> tuple[int, ...]:
    """The axes of `x` along which the parameter, aligned at the last axis, is one number.

    >>> x = ops.zeros((3, 3, 8, 16))
    >>> sharing_axes(x, ops.zeros((16,))), sharing_axes(x, ops.zeros(()))
    ((0, 1, 2), (0, 1, 2, 3))
    """
    leading = len(x.shape) - len(parameter.shape)
    if leading < 0:
        raise ValueError(
            "A quantizer parameter must not have more axes than the tensor it quantizes. "
            f"Received: shape {tuple(parameter.shape)} for a tensor of shape {tuple(x.shape)}"
        )
    shared = (leading + axis for axis, size in enumerate(parameter.shape) if size == 1)
    return (*range(leading), *shared)


def sum_over_sharing(values: Tensor, parameter: Tensor) -> Tensor:
    """The sums of `values` over the elements that share a number, in the parameter's shape.

    >>> [float(v) for v in sum_over_sharing(ops.ones((4, 2)), ops.zeros((2,)))]
    [4.0, 4.0]
    """
    axes = sharing_axes(values, parameter)
    return ops.reshape(ops.sum(values, axis=axes), parameter.shape) if axes else values
