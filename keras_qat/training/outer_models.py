"""Finds the model whose training step trains a quantized model inside it."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any

import keras

_STEPS = ("train_step", "compute_loss_and_updates")
_TERMS = "quantization_loss"


def stepping_model(inner: keras.Model) -> keras.Model | None:
    """The model whose training step is running and calls `inner`; `None` if `inner` trains itself.

    Keras tells a layer of an outer call, and of an outer training step nothing. So the step is
    looked up among the calls that run.
    """
    frame: Any = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name in _STEPS and frame.f_code.co_varnames:
            owner = frame.f_locals.get(frame.f_code.co_varnames[0])
            if isinstance(owner, keras.Model):
                return None if owner is inner else owner
        frame = frame.f_back
    return None


def takes_quantization_loss(outer: keras.Model) -> bool:
    """Whether a method of the outer model's class calls `quantization_loss`."""
    own = [
        kind
        for kind in type(outer).__mro__
        if not kind.__module__.startswith(("keras.", "keras_qat."))
    ]
    values = [value for kind in own for value in vars(kind).values()]
    codes = [value.__code__ for value in values if isinstance(value, types.FunctionType)]
    return any(_TERMS in code.co_names for each in codes for code in _with_inner(each))


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_inner(constant)
