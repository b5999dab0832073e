"""`plot_bit_widths`: how learned bit widths come to their targets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_qat.callbacks import BitWidthMonitor
from keras_qat.plotting.depth_colors import depth_colors, label_depth
from keras_qat.plotting.figures import figure_class
from keras_qat.plotting.histories import checked_history


def plot_bit_widths(
    history: BitWidthMonitor | Mapping[str, Any] | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draws every learned bit width over the batches: weights above, activations below.

    A line is a tensor, dark near the input and bright near the output. A solid line is the mean
    over the channels of a kernel, or the width of an activation; a dotted one is the widest
    channel. A dashed line is a target. The tensor that came to its target last is named.

    Args:
        history: a monitor, its `history`, or the path of its JSON file.
        path: where to write the picture; the ending decides between PNG, PDF and SVG.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: not the history of a `BitWidthMonitor`, or a history without records.
        FileNotFoundError: no such JSON file.
    """
    new_figure = figure_class("plot_bit_widths")
    history = checked_history(history, BitWidthMonitor, "batches", "mean_bits")
    kinds = {
        kind: {name: each for name, each in history["tensors"].items() if f"/{kind}" in name}
        for kind in ("weights", "activations")
    }
    drawn = {kind: tensors for kind, tensors in kinds.items() if tensors}
    figure = new_figure(figsize=(8.4, 1.2 + 2.7 * len(drawn)), layout="constrained")
    panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (kind, tensors) in zip(panels, drawn.items(), strict=True):
        _draw(axis, history["batches"], tensors)
        axis.set_ylabel(f"bits of {kind}", fontsize=9)
    panels[-1].set_xlabel("training batches", fontsize=9)
    panels[0].set_title("Learned bit widths on their way to the targets (dashed)", fontsize=11)
    label_depth(figure, panels)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _draw(axis: Any, batches: list[int], tensors: Mapping[str, Any]) -> None:
    for color, tensor in zip(depth_colors(len(tensors)), tensors.values(), strict=True):
        axis.plot(batches, tensor["mean_bits"], color=color, lw=1.6)
        if tensor["max_bits"] != tensor["mean_bits"]:
            axis.plot(batches, tensor["max_bits"], ":", color=color, lw=1.2)
    for target in sorted({tensor["target_bits"] for tensor in tensors.values()}):
        axis.axhline(target, color="0.35", ls="--", lw=1.0, zorder=0)
        axis.annotate(
            f"target {target}",
            (1.0, target),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="bottom",
            ha="right",
        )
    name, place = _last_to_arrive(tensors)
    if place:
        axis.annotate(
            f"last: {name.partition('/')[0]}",
            (batches[place], tensors[name]["max_bits"][place]),
            (8, 22),
            textcoords="offset points",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "lw": 0.7},
        )
    axis.set_ylim(bottom=0.0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _last_to_arrive(tensors: Mapping[str, Any]) -> tuple[str, int]:
    """The tensor whose widest channel stays above its target for the most records, and how many.

    A width counts as arrived below half a level more than its target has.
    """

    def arrived(tensor: Mapping[str, Any]) -> int:
        most = np.log2(2.0 ** tensor["target_bits"] + 0.5)
        above = np.flatnonzero(np.asarray(tensor["max_bits"]) >= most)
        return int(above[-1]) + 1 if len(above) else 0

    places = {name: min(arrived(each), len(each["max_bits"]) - 1) for name, each in tensors.items()}
    return max(places.items(), key=lambda item: item[1])
