"""TFMOT's ranges as grids: the same scales, and the same zero points."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_qat.config import LSQConfig
from keras_qat.quantization.plan import PlannedGrid, QuantizationPlan
from keras_qat.quantizers import (
    ActivationQuantizer,
    Grid,
    LSQActivationQuantizer,
    STEActivationQuantizer,
)

_LEVELS = 255
_LARGEST_WEIGHT = 127

_FIXED = {"sigmoid": (Grid(0, 255), 2.0**-8), "tanh": (Grid(-128, 127), 2.0**-7)}
"""The grids on which runtimes write these functions, whatever a model says."""


@dataclasses.dataclass(frozen=True)
class ScaledGrid:
    """A grid and its scale."""

    grid: Grid
    scale: np.float32


def grid_of_range(low: float, high: float) -> ScaledGrid | None:
    """The 8-bit grid of a range: `scale = (high - low) / 255`, from `-z` to `255 - z`.

    `z` is `-low / scale`, rounded half up, as TensorFlow's FakeQuant places zero on a level. The
    range holds 0. An empty range, of a tensor that TFMOT has not seen, has no grid.

    >>> grid_of_range(-1.0, 2.0).grid
    Grid(qmin=-85, qmax=170, step=1)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return None
    scale = (np.float32(high) - np.float32(low)) / np.float32(_LEVELS)
    zero = int(np.clip(np.floor(-np.float32(low) / scale + np.float32(0.5)), 0, _LEVELS))
    return ScaledGrid(Grid(-zero, _LEVELS - zero), scale)


def weight_scale(low: np.ndarray, high: np.ndarray, channels: int) -> np.ndarray:
    """The scale of each channel: `max(-low, high) / 127`.

    TFMOT has one range for each index of the last axis of a kernel, or one for the kernel. A
    depthwise kernel has one for each output of a channel.

    >>> weight_scale(np.float32([-127.0]), np.float32([127.0]), channels=2).tolist()
    [1.0, 1.0]
    """
    largest = np.atleast_1d(np.maximum(-low, high)).astype(np.float32)
    scale = np.resize(largest / np.float32(_LARGEST_WEIGHT), channels)
    return np.where(scale > 0.0, scale, np.float32(1.0))


def planned_grids(
    plan: QuantizationPlan, ranges: Mapping[str, tuple[float, float]]
) -> tuple[dict[str, ScaledGrid], list[str], list[str]]:
    """The grids of a plan that TFMOT has ranges for.

    Returns:
        Name of a planned grid -> the grid. Then the names of grids without a range, and the names
        of layers whose ranges no grid of the plan takes up.
    """
    found, missing, used = {}, [], set()
    for planned in plan.grids:
        name = next((each for each in _names(planned) if each in ranges), None)
        grid = _fixed(planned) if name is None else grid_of_range(*ranges[name])
        if name is not None:
            used.add(name)
        if grid is None:
            missing.append(planned.name)
        else:
            found[planned.name] = grid
    members = {each for planned in plan.grids for each in _names(planned)}
    return found, missing, [name for name in ranges if name not in used and name not in members]


def _names(planned: PlannedGrid) -> Iterable[str]:
    """The names under which TFMOT may have a range of a grid, the best one first."""
    if planned.joined_by is not None:
        yield planned.joined_by
    for tensor in planned.tensors:
        yield from reversed(tensor.members or (tensor.layer,))
        yield tensor.layer


def _fixed(planned: PlannedGrid) -> ScaledGrid | None:
    for function, (grid, scale) in _FIXED.items():
        if planned.name.endswith(f"_{function}") or planned.name == function:
            return ScaledGrid(grid, np.float32(scale))
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredGridsConfig(LSQConfig):
    """8-bit LSQ, with given grids of activations.

    Args:
        grids: name of a planned grid -> its grid.
    """

    grids: Any = dataclasses.field(default_factory=dict)

    def activation_quantizer(self, bits: int, signed: bool, name: str) -> ActivationQuantizer:
        grid = self._given(name)
        if grid is None:
            return super().activation_quantizer(bits, signed, name)
        return LSQActivationQuantizer(grid, **self._for_activations(bits, name))

    def input_quantizer(self, bits: int, signed: bool, name: str) -> ActivationQuantizer:
        grid = self._given(name)
        if grid is None:
            return super().input_quantizer(bits, signed, name)
        return STEActivationQuantizer(grid, name=name)

    def _given(self, name: str) -> Grid | None:
        found = self.grids.get(name.removesuffix("_quantizer"))
        return None if found is None else found.grid
