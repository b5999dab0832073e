"""Pruned and clustered kernels: what `quantize` notes of them, refuses and warns of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat import config as configs
from keras_qat.config import QuantizationConfig
from keras_qat.errors import UnsupportedLayerError
from keras_qat.quantization.overrides import Overrides, check_overrides
from keras_qat.quantization.plan import QuantizationPlan
from keras_qat.quantized_layers import QuantizedKernel, quantized_kernels
from keras_qat.quantizers.preserved import PRESERVED

_PRUNED = 0.5
"""Share of zeros from which on a kernel is taken for a pruned one."""

_WRITTEN_BY_HAND = 256
"""Smaller kernels with zeros, such as identities, are mostly written by hand."""

_MOST_NAMED = 4


def preserving(
    config: QuantizationConfig | str | dict[str, Any] | None,
    overrides: Overrides | None,
    **preserved: bool,
) -> tuple[QuantizationConfig, dict[str, Any]]:
    """The config and the overrides, with the options of `PRESERVED` that are true switched on.

    >>> preserving("lsq", None, preserve_sparsity=True)[0].preserve_sparsity
    True
    """
    for name, flag in preserved.items():
        if not isinstance(flag, bool | np.bool_):
            raise ValueError(f"{name} must be True or False. Received: {flag!r}")
    on: dict[str, Any] = {name: True for name in PRESERVED if preserved.get(name)}

    def switched_on(found: Any) -> QuantizationConfig:
        return dataclasses.replace(configs.get(found), **on)

    others = check_overrides(overrides)
    if on:
        others = {key: None if each is None else switched_on(each) for key, each in others.items()}
    return switched_on(config), others


def remember_patterns(model: keras.Model) -> None:
    """Tells every quantizer of weights the zeros and the equal weights of its kernel."""
    for kernel in _kernels(model):
        kernel.weight_quantizer.remember(ops.convert_to_numpy(kernel.channels_last_kernel()))


def check_zeros(model: keras.Model) -> None:
    """Raises `UnsupportedLayerError` for zeros to preserve that a calibrated grid does not have."""
    problems = "".join(f"\n  {found}" for found in map(_problem, _kernels(model)) if found)
    if problems:
        raise UnsupportedLayerError(
            f"preserve_sparsity cannot keep the zeros of the model {model.name!r}:{problems}\n"
            "Ways out: give these layers 2 bits or more with overrides={their names: a config}; or "
            "switch preserve_sparsity on in the configs of the other layers alone."
        )


def _problem(kernel: QuantizedKernel) -> str:
    """Why a grid cannot keep the zeros of a kernel; empty if it keeps them all."""
    quantizer = kernel.weight_quantizer
    latent = ops.convert_to_numpy(kernel.channels_last_kernel())
    zeros = latent == 0.0
    if not (quantizer.preserve_sparsity and np.any(zeros)):
        return ""
    share = f"{kernel.name!r} has {np.mean(zeros):.0%} zeros, and "
    if quantizer.bits == 1:
        return f"{share}1 bit has the levels -1 and +1 alone"
    if not quantizer.deployable:
        return f"{share}offset='free' has no level 0; offset='snapped' has one"
    if np.any(ops.convert_to_numpy(quantizer.codes(latent))[zeros]):
        return f"{share}its {type(quantizer).__name__} has no level 0"
    return ""


def unkept_zeros(model: keras.Model, plan: QuantizationPlan) -> str:
    """A warning of kernels whose zeros training would fill; empty if there are none."""
    kept = {each.name for each in plan.layers if each.config and each.config.preserve_sparsity}
    found = [
        f"{layer.name!r} ({share:.0%})"
        for layer in model.layers
        for variable in layer.trainable_variables
        if "kernel" in variable.name and variable.constraint is None and layer.name not in kept
        if math.prod(variable.shape) >= _WRITTEN_BY_HAND
        if _PRUNED <= (share := float(np.mean(ops.convert_to_numpy(variable) == 0.0))) < 1.0
    ]
    if not found:
        return ""
    named = ", ".join(found[:_MOST_NAMED]) + (", ..." if len(found) > _MOST_NAMED else "")
    return (
        f"Kernels are mostly zeros in the layers {named}, and training fills zeros. To keep them, "
        "call quantize with preserve_sparsity=True. In a layer that stays in float, give the float "
        "model a kernel_constraint that multiplies by the mask of the other weights."
    )


def _kernels(model: keras.Model) -> Iterator[QuantizedKernel]:
    for layer in model.layers:
        yield from quantized_kernels(layer)
