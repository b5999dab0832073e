"""`plot_memory`: a picture of a memory plan, with the arena over time and the flash by layer."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tflite_export.micro.memory_plan import Kind, MemoryPlan

_COLORS: dict[Kind, str] = {
    "activation": "#4c78a8",
    "decoded weights": "#f58518",
    "scratch": "#9d9da1",
}
_FLASH_COLORS = {"weights": "#54a24b", "lookup tables": "#b79a20", "biases": "#72b7b2"}
_LETTER = 0.015
"""Width of a letter as a share of the arena. A label that does not fit its buffer is left out."""


def plot_memory(plan: MemoryPlan, path: str | os.PathLike[str]) -> None:
    """Draws the buffers of the arena while operators run, and the flash of each layer.

    Args:
        plan: the plan that `plan_memory` returned.
        path: path of the picture. Its ending chooses the format.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plot_memory needs matplotlib: pip install "keras_qat[plots]"') from error
    rows = max(len(plan.operators), len(plan.weights))
    figure = Figure(figsize=(12, 2.5 + 0.28 * rows), layout="constrained")
    ram, flash = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_arena(ram, plan)
    _draw_flash(flash, plan)
    figure.savefig(pathlib.Path(path), dpi=120)


def _draw_arena(axes: Any, plan: MemoryPlan) -> None:
    """Draws time downwards, in the order of the operators, and bytes to the right."""
    for buffer in plan.buffers:
        time, length = buffer.first - 0.45, buffer.last - buffer.first + 0.9
        color = _COLORS[buffer.kind]
        axes.broken_barh(
            [(buffer.offset, buffer.size)], (time, length), color=color, edgecolor="white"
        )
        if buffer.size > _LETTER * len(buffer.name) * plan.buffer_bytes:
            middle = (buffer.offset + buffer.size / 2, time + length / 2)
            axes.annotate(buffer.name, middle, ha="center", va="center", color="white", fontsize=7)
    axes.set_yticks(range(len(plan.operators)), plan.operators, fontsize=7)
    axes.set_ylim(len(plan.operators) - 0.4, -0.6)
    axes.axhspan(plan.peak - 0.5, plan.peak + 0.5, color="#e8e8e8", zorder=0)
    axes.set_xlabel("bytes")
    axes.set_title(
        f"Buffers of the arena: {plan.buffer_bytes:,} of {plan.arena_bytes:,} bytes", fontsize=10
    )
    kinds = {buffer.kind for buffer in plan.buffers}
    _legend(axes, {kind: color for kind, color in _COLORS.items() if kind in kinds})


def _draw_flash(axes: Any, plan: MemoryPlan) -> None:
    names = [f"{weight.name} ({weight.bits} bits, {weight.storage})" for weight in plan.weights]
    starts = [0] * len(names)
    parts = zip(_FLASH_COLORS.values(), ("weight_bytes", "table_bytes", "bias_bytes"), strict=True)
    for color, attribute in parts:
        sizes = [getattr(weight, attribute) for weight in plan.weights]
        axes.barh(range(len(names)), sizes, left=starts, color=color)
        starts = [start + size for start, size in zip(starts, sizes, strict=True)]
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("bytes")
    axes.set_title(
        f"Flash: {plan.flash_bytes:,} bytes, {plan.overhead_bytes:,} around the data", fontsize=10
    )
    _legend(axes, _FLASH_COLORS)


def _legend(axes: Any, colors: Mapping[Any, str]) -> None:
    for name, color in colors.items():
        axes.bar(0, 0, color=color, label=name)
    axes.legend(fontsize=7, loc="lower right")
