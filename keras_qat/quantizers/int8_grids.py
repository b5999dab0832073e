"""Whether int8 can hold what was learned so far, and what to compute if it can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_qat.integer.op_numbers import WEIGHT_MAX
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.grid import Grid
from keras_qat.tensors import Tensor

_LEVELS = 256


def has_integers(*grids: Any, largest_code: Any = 0) -> Any:
    """Whether int8 can hold these grids and weights of these codes: a bool.

    It is a tensor where grids learn their numbers of levels.
    """
    ends = [grid.forward_grid() for grid in grids]
    held = [largest_code <= WEIGHT_MAX, *(each.qmax - each.qmin < _LEVELS for each in ends)]
    known = [bool(each) for each in held if isinstance(each, bool | np.bool_)]
    learned = [each for each in held if not isinstance(each, bool | np.bool_)]
    if not (all(known) and learned):
        return all(known)
    return ops.all(ops.stack([ops.cast(each, "bool") for each in learned]))


def chosen(condition: Any, if_true: Callable[[], Tensor], if_false: Callable[[], Tensor]) -> Tensor:
    """One of two tensors; only that one is computed."""
    if isinstance(condition, bool | np.bool_):
        return if_true() if condition else if_false()
    return ops.cond(condition, if_true, if_false)


def rounding_if(condition: Any, if_true: Rounding, if_false: Rounding) -> Rounding:
    """One of two roundings."""
    if isinstance(condition, bool | np.bool_):
        return if_true if condition else if_false

    def rounding(ratio: Tensor, grid: Grid) -> Tensor:
        return ops.cond(condition, lambda: if_true(ratio, grid), lambda: if_false(ratio, grid))

    return rounding
