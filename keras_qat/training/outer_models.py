"""Finds the model whose training step trains a quantized model inside it."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from keras_qat.training.user_code import mentioned_names

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
    return _TERMS in mentioned_names(type(outer))
