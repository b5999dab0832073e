"""Sums over the elements of a tensor that share one number of a parameter."""

from __future__ import annotations

import math

import keras
from keras import ops

from keras_qat.tensors import Tensor


def sharing_axes(x: Tensor, parameter: Tensor) -> tuple[int, ...]:
    """The axes of `x` along which all elements share one number of the parameter.

    The parameter broadcasts against `x` from the last axis on.

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


def sum_to_shape(values: Tensor, parameter: Tensor) -> Tensor:
    """The sums of `values` over the elements that share a number, in the parameter's shape.

    >>> [float(v) for v in sum_to_shape(ops.ones((4, 2)), ops.zeros((2,)))]
    [4.0, 4.0]
    """
    axes = sharing_axes(values, parameter)
    total = ops.sum(values, axis=axes) if axes else values
    return ops.reshape(total, parameter.shape) if len(parameter.shape) else total


def sum_of_products(one: Tensor, other: Tensor, parameter: Tensor) -> Tensor:
    """`sum_to_shape(one * other, parameter)`, for two tensors of one shape.

    On a CPU, TensorFlow multiplies two float32 rows with one kernel that stores no products. The
    kernel adds in blocks: with two million products, the error of the sum is 2e-5 of the sum of
    their magnitudes. If one of the tensors is used nowhere else, storing the products in its place
    costs as little and adds up better.

    >>> float(sum_of_products(ops.array([1.0, 2.0]), ops.array([3.0, 4.0]), ops.zeros(())))
    11.0
    """
    if math.prod(parameter.shape) != 1 or not _multiplies_rows(one, other):
        return sum_to_shape(one * other, parameter)
    import tensorflow as tf

    rows = (tf.reshape(each, (1, -1)) for each in (one, other))
    return tf.reshape(tf.matmul(*rows, transpose_b=True), parameter.shape)


def _multiplies_rows(*tensors: Tensor) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    # On CPUs this is faster than products and their sum. It is not measured on other devices.
    in_float = all(tensor.dtype == tf.float32 for tensor in tensors)
    return in_float and not tf.config.list_logical_devices("GPU")
