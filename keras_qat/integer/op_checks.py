"""Checks of the fields of an op: types, ranges, and weights against inputs."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_qat.integer.ops import (
    Conv2D,
    DepthwiseConv2D,
    FloatWeight,
    FullyConnected,
    IntegerOp,
    LinearOp,
    QuantizedArray,
    Shape,
    TransposeConv2D,
)
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN

_RANGES = {
    "strides": (1, math.inf),
    "dilation": (1, math.inf),
    "pool_size": (1, math.inf),
    "factors": (1, math.inf),
    "output_size": (1, math.inf),
    "target_shape": (1, math.inf),
    "pads": (0, math.inf),
    "crops": (0, math.inf),
    "bound": (INT8_MIN, INT8_MAX),
    "weight_bits": (1, 8),
    "bits": (1, 8),
}
_RANKS: dict[type, int] = {FullyConnected: 2, Conv2D: 4, DepthwiseConv2D: 4, TransposeConv2D: 4}
_CHECKED: weakref.WeakSet[IntegerOp] = weakref.WeakSet()
"""Ops whose fields are right. They never change."""

MOST_ELEMENTS = 2**31 - 1
"""Runtimes count elements in int32."""


def check_shape(owner: str, shape: Any) -> None:
    """Raises a ValueError unless a shape has sizes from 1 on, and a number of elements."""
    fits = isinstance(shape, tuple) and len(shape) > 0 and all(map(_is_int, shape))
    if not fits or min(shape) < 1 or math.prod(map(int, shape)) > MOST_ELEMENTS:
        raise ValueError(
            f"{owner}: sizes must be positive, and a tensor holds at most {MOST_ELEMENTS:,} "
            f"elements. Received: shape {str(shape)[:80]}"
        )


def check_fields(op: IntegerOp) -> None:
    """Raises a ValueError unless every field of an op has its type and is in its range."""
    if op in _CHECKED:
        return
    for name, value, hint in _fields(op):
        numbers = list(_numbers(value)) if name in _RANGES else []
        low, high = _RANGES.get(name, (-math.inf, math.inf))
        if not _fits(value, hint) or not all(low <= each <= high for each in numbers):
            wanted = getattr(hint, "__name__", None) if isinstance(hint, type) else None
            wanted = wanted or str(hint).replace("typing.", "")
            of_range = f" from {low} to {high}" if name in _RANGES else ""
            raise ValueError(
                f"Op {op.output!r} ({type(op).__name__}): {name} must be {wanted}{of_range}. "
                f"Received: {str(value)[:80]!r}"
            )
    if isinstance(op, LinearOp):
        _check_weights(op)
    _CHECKED.add(op)


def _fields(op: IntegerOp) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and type of every field, also of the kernels in a tuple."""
    hints = _hints(type(op))
    for field in dataclasses.fields(op):
        value = getattr(op, field.name)
        yield field.name, value, hints[field.name]
        for each in value if isinstance(value, tuple) else ():
            if isinstance(each, FloatWeight):
                for name, hint in _hints(FloatWeight).items():
                    yield name, getattr(each, name), hint


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has a type, as far as types of fields of ops go."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return isinstance(value, str) and value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_fits(each, arguments[0]) for each in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin is np.ndarray:
        return isinstance(value, np.ndarray) and _holds(value, arguments[1])
    if hint is int:
        return _is_int(value)
    if hint is float:
        return isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    return isinstance(value, hint) and _array_fits(value)


def _array_fits(value: Any) -> bool:
    return not isinstance(value, QuantizedArray) or value.values.dtype == np.int8


def _holds(value: Any, dtype: Any) -> bool:
    (number,) = typing.get_args(dtype)
    number = typing.get_origin(number) or number
    kinds = (np.floating, np.signedinteger, np.unsignedinteger)
    wanted = next((kind for kind in kinds if issubclass(number, kind)), np.generic)
    return np.issubdtype(value.dtype, wanted)


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _numbers(value: Any) -> Iterator[Any]:
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, tuple):
            yield from _numbers(each)
        elif _is_int(each):
            yield each


def _check_weights(op: LinearOp) -> None:
    shape, grid = op.weight.values.shape, op.weight.qparams
    rank = next((n for kind, n in _RANKS.items() if isinstance(op, kind)), len(shape))
    if len(shape) != rank or 0 in shape or op.weight.values.dtype != np.int8:
        raise ValueError(
            f"Op {op.output!r} ({type(op).__name__}): its weights need {rank} axes without a size "
            f"of 0, in int8. Received: {op.weight.values.dtype}, shape {shape}"
        )
    channels = shape[op.channel_axis]
    scales = grid.scale.size if grid.axis is not None else channels
    if op.bias.shape != (channels,) or scales != channels:
        raise ValueError(
            f"Op {op.output!r}: its {channels} channels need a bias each, and one scale or a scale "
            f"each. Received: bias {op.bias.shape}, scale {grid.scale.shape}"
        )


def check_input_features(op: IntegerOp, shapes: Sequence[Shape]) -> None:
    """Raises a ValueError unless the weights of an op take as many features as its input has."""
    if not isinstance(op, LinearOp):
        return
    features, weights = shapes[0][-1], op.weight.values.shape
    fits = True
    if isinstance(op, FullyConnected | TransposeConv2D):
        fits = weights[-1] == features
    elif isinstance(op, DepthwiseConv2D):
        fits = weights[0] == 1 and weights[3] % features == 0
    if not fits:
        raise ValueError(
            f"Op {op.output!r} ({type(op).__name__}): weights of shape {weights} do not fit an "
            f"input of {features} features."
        )
