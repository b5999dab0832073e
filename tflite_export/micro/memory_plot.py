"""`plot_memory`: a picture of a memory plan, with the arena over time and the flash by layer."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tflite_export.arena.placement import Kind
from tflite_export.micro.memory_plan import MemoryPlan

_COLORS: dict[Kind, str] = {
    "activation": "#4c78a8",
    "decoded weights": "#f58518",
    "scratch": "#9d9da1",
}
_FLASH_COLORS = {"weights": "#54a24b", "lookup tables": "#b79a20", "biases": "#72b7b2"}
_ROOM = 1.3
"""Width of the picture of the arena as a share of the arena; the rest is for names."""
_LETTER = 0.018
"""Width of a letter as a share of the arena. A label that does not fit its buffer stands beside."""


def plot_memory(plan: MemoryPlan, path: str | os.PathLike[str]) -> None:
    """Draws the buffers of the arena while operators run, and the flash of each layer.

    A buffer that is narrower than its name has the name beside it, in the row in which it begins.

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
            [(buffer.offset, buffer.size)],
            (time, length),
            color=color,
            edgecolor="white",
            linewidth=0.5,
        )
        if buffer.size > _LETTER * len(buffer.name) * plan.buffer_bytes:
            middle = (buffer.offset + buffer.size / 2, time + length / 2)
            axes.annotate(buffer.name, middle, ha="center", va="center", color="white", fontsize=7)
    for time in range(len(plan.operators)):
        _name_narrow(axes, plan, time)
    axes.set_xlim(0, _ROOM * plan.buffer_bytes)
    axes.set_yticks(range(len(plan.operators)), plan.operators, fontsize=7)
    axes.set_ylim(len(plan.operators) - 0.4, -0.6)
    axes.axhspan(plan.peak - 0.5, plan.peak + 0.5, color="#e8e8e8", zorder=0)
    axes.set_ylabel("operators, in the order in which they run", fontsize=8)
    _count_bytes(axes)
    axes.set_title(
        f"Buffers of the arena: {plan.buffer_bytes:,} of {plan.arena_bytes:,} bytes\n"
        "the gray row is the operator with most bytes in use",
        fontsize=9,
    )
    kinds = {buffer.kind for buffer in plan.buffers}
    _legend(axes, {kind: color for kind, color in _COLORS.items() if kind in kinds})


def _name_narrow(axes: Any, plan: MemoryPlan, time: int) -> None:
    """Writes the names of narrow buffers that begin at an operator, each at the next free place."""
    alive = plan.alive(time)
    taken = [(float(each.offset), float(each.offset + each.size)) for each in alive]
    letter = _LETTER * plan.buffer_bytes
    names = [each.name for each in alive if each.first == time]
    for buffer in sorted(alive, key=lambda each: each.offset):
        own = buffer.offset + buffer.size
        if buffer.first != time or buffer.size > letter * len(buffer.name):
            continue
        if buffer.name not in names:
            continue  # it is written: several buffers have this name
        count = names.count(buffer.name)
        names = [name for name in names if name != buffer.name]
        text = buffer.name if count == 1 else f"{count} x {buffer.name}"
        width = letter * len(text)
        places = [end for _, end in sorted(taken) if end >= own and _is_free(taken, end, width)]
        start = min(places)
        taken.append((start, start + width + letter))
        line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.4}
        axes.annotate(
            text,
            (buffer.offset + buffer.size / 2, time),
            (start + letter / 2, time),
            va="center",
            color="0.25",
            fontsize=6,
            arrowprops=line if start > own else None,
            zorder=4.0 - 0.01 * len(taken),  # its line runs behind the names before it
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        ).set_in_layout(False)


def _is_free(taken: list[tuple[float, float]], start: float, width: float) -> bool:
    return all(high <= start or low >= start + width for low, high in taken)


def _draw_flash(axes: Any, plan: MemoryPlan) -> None:
    names = [f"{weight.title} ({weight.bits} bits, {weight.storage})" for weight in plan.weights]
    starts = [0] * len(names)
    parts = zip(_FLASH_COLORS.values(), ("weight_bytes", "table_bytes", "bias_bytes"), strict=True)
    for color, attribute in parts:
        sizes = [getattr(weight, attribute) for weight in plan.weights]
        axes.barh(range(len(names)), sizes, left=starts, color=color)
        starts = [start + size for start, size in zip(starts, sizes, strict=True)]
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    _count_bytes(axes)
    axes.set_title(
        f"Flash: {plan.flash_bytes:,} bytes,\n{plan.overhead_bytes:,} of them around the data",
        fontsize=9,
    )
    _legend(axes, _FLASH_COLORS)


def _count_bytes(axes: Any) -> None:
    axes.set_xlabel("bytes", fontsize=8)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="x", labelsize=7)


def _legend(axes: Any, colors: Mapping[Any, str]) -> None:
    for name, color in colors.items():
        axes.bar(0, 0, color=color, label=name)
    axes.legend(fontsize=7, loc="lower right")
