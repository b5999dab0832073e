"""Lets an optimizer follow changes of grids that are made outside of the gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_qat.keras_optimizer_slots import rescale_memory, restart_averages
from keras_qat.quantizers import Quantizer


@contextlib.contextmanager
def followed_by(optimizer: Any, quantizers: Sequence[Quantizer]) -> Iterator[None]:
    """A context in which grids may be changed by hand, followed by what an optimizer remembers.

    A variable that gets another unit keeps its momentum and its averages, in the new unit. Where a
    value jumps, or a grid is held from now on, averages of weights start anew: between two grids
    lies none.

    Args:
        optimizer: the optimizer that trains the quantizers; `None` for none.
        quantizers: the quantizers that may change.
    """
    before = [_state(each) for each in quantizers]
    yield
    for quantizer, (held, then) in zip(quantizers, before, strict=True):
        now_held, now = _state(quantizer)
        for variable, (unit, value), (new_unit, new_value) in zip(
            quantizer.trainable_variables, then, now, strict=True
        ):
            if new_unit != unit:
                rescale_memory(optimizer, variable, unit / new_unit)
            if now_held != held or np.any(new_value * new_unit != value * unit):
                restart_averages(optimizer, variable)


def _state(quantizer: Quantizer) -> tuple[bool, list[tuple[float, Any]]]:
    """Whether a grid is held, and the unit and the value of each of its trained variables."""
    variables = quantizer.trainable_variables
    return quantizer.holds, [
        (quantizer.unit_of(each), ops.convert_to_numpy(each)) for each in variables
    ]
