"""`plot_capacity`: the channels of a model, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.callbacks import CapacityMonitor
from keras_qat.callbacks.bottlenecks import bottlenecks
from keras_qat.plotting.figures import COLORS, MARKED, figure_class
from keras_qat.plotting.histories import accuracies, checked_history


def plot_capacity(
    history: CapacityMonitor | Mapping[str, Any] | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    accuracy: Any = None,
) -> Any:
    """Draws the history of a `CapacityMonitor`, one row for each tensor in the order of the graph.

    The columns, from left to right:

    1. For every epoch, how many bits the widest channel is above its target (the capacity, if no
       bit width is learned). Then its bits in the last epoch, and the target.
    2. The capacity in the last epoch, in bits per value, with a tick at the target bits. The three
       tensors with the smallest capacity are red.
    3. The capacity of the activations in the last epoch, in bits per example. The activation with
       the smallest capacity is red.
    4. The share of saturated values in the last epoch.

    Args:
        history: a monitor, its `history`, or the path of its JSON file.
        path: where to write the picture; the ending decides between PNG, PDF and SVG.
        accuracy: what a curve above the first column shows: the `History` that the same `fit`
            returned (its "val_accuracy", or else its "accuracy"), or one number from 0 to 1 for
            each epoch. `None` draws no curve.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: not the history of a `CapacityMonitor`, a history without epochs, or accuracies
            that do not fit them.
        FileNotFoundError: no such JSON file.
    """
    new_figure = figure_class("plot_capacity")
    history = checked_history(history, CapacityMonitor, "epochs")
    tensors = list(history["tensors"].values())
    rows = np.arange(len(tensors))
    found = accuracies(accuracy, history["epochs"])
    above = 0.0 if found is None else 1.1  # inches for the curve
    figure = new_figure(figsize=(13.0, 2.4 + above + 0.24 * len(rows)), layout="constrained")
    heights = (above or 0.01, 2.0 + 0.24 * len(rows))
    places = figure.add_gridspec(2, 4, width_ratios=(4.4, 2.8, 1.7, 1.7), height_ratios=heights)
    axes = [figure.add_subplot(places[1, 0])]
    axes += [figure.add_subplot(places[1, each], sharey=axes[0]) for each in (1, 2, 3)]
    _draw_epochs(figure, axes[0], history)
    _draw_capacities(axes[1], history)
    _draw_examples(axes[2], history)
    saturated = 100.0 * _last(tensors, "saturation")
    axes[3].barh(rows, saturated, color=_row_colors(history, ()))
    axes[3].set_title("How many values lie\nbeyond the grid, %", fontsize=9)
    _write_column(axes[3], [f"{share:.1f}" for share in saturated])
    axes[0].set_yticks(rows, list(history["tensors"]))
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    for label, tensor in zip(axes[0].get_yticklabels(), tensors, strict=True):
        label.set_color(COLORS[tensor["kind"]])
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.tick_params(axis="y", length=0, labelleft=axis is axes[0])
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1:]:
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
    if found is not None:
        _draw_accuracy(figure.add_subplot(places[0, 0], sharex=axes[0]), history["epochs"], found)
    figure.suptitle(
        f"What each grid lets through, after epoch {history['epochs'][-1]}: weights in blue, "
        "activations in orange, the narrowest in red",
        fontsize=10,
    )
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _draw_epochs(figure: Any, axis: Any, history: Mapping[str, Any]) -> None:
    """Bits above their targets over the epochs, or the capacity if no bit width is learned."""
    from matplotlib.colors import PowerNorm

    tensors, epochs = list(history["tensors"].values()), history["epochs"]
    learned = np.array([tensor["learned"] for tensor in tensors])
    targets = np.array([tensor["target_bits"] for tensor in tensors])
    key = "max_bits" if learned.any() else "bits_per_value"
    values = np.array([tensor[key] for tensor in tensors], dtype=np.float64)
    if learned.any():
        values = np.maximum(values - targets[:, np.newaxis], 0.0)
        values[~learned] = np.nan
    largest = np.max(values, initial=1.0, where=~np.isnan(values))
    image = axis.imshow(
        values,
        aspect="auto",
        extent=(epochs[0] - 0.5, epochs[-1] + 0.5, len(tensors) - 0.5, -0.5),
        cmap="Purples",
        norm=PowerNorm(0.5, 0.0, largest),  # makes small misses visible
        interpolation="nearest",
    )
    bar = figure.colorbar(image, ax=axis, location="bottom", fraction=0.04, pad=0.02, aspect=40)
    bar.ax.tick_params(labelsize=8)
    what = "bits above the target, white: met" if learned.any() else "capacity, bits per value"
    bar.set_label(what, fontsize=8)
    title = "How far the widest channel is above its target, epoch by epoch"
    axis.set_title(title if learned.any() else "What a value carries, epoch by epoch", fontsize=9)
    axis.set_facecolor("0.9")
    axis.set_xlabel("epoch", fontsize=8)
    axis.locator_params(axis="x", integer=True, min_n_ticks=1)
    bits = zip(_last(tensors, "max_bits"), targets, strict=True)
    _write_column(axis, [f"{found:.1f} / {target}" for found, target in bits], "bits / target")


def _draw_accuracy(axis: Any, epochs: Any, accuracy: npt.NDArray[np.float64]) -> None:
    percent = 100.0 * accuracy
    axis.plot(epochs, percent, "-o", color="tab:green", ms=3, lw=1.2)
    known = percent[np.isfinite(percent)]
    said = f": {known[-1]:.1f} % at the end" if known.size else ""
    axis.set_title(f"Accuracy, %{said}", fontsize=9)
    axis.tick_params(labelsize=8, labelbottom=False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="0.9", linewidth=0.6)


def _draw_capacities(axis: Any, history: Mapping[str, Any]) -> None:
    tensors = list(history["tensors"].values())
    capacities = _last(tensors, "bits_per_value")
    rows = np.arange(len(tensors))
    red = _red(history, "bits_per_value", 3)
    axis.barh(rows, capacities, color=_row_colors(history, red))
    axis.plot([tensor["target_bits"] for tensor in tensors], rows, "|", color="0.2", ms=9)
    axis.set_title("What one value carries, bits\n(the mark | is the target)", fontsize=9)
    _write_column(axis, [f"{capacity:.2f}" for capacity in capacities], red=red)


def _draw_examples(axis: Any, history: Mapping[str, Any]) -> None:
    """Bits per example as points, because the length of a bar means nothing on a log axis."""
    bits = _last(list(history["tensors"].values()), "bits_per_example")
    red = _red(history, "bits_per_example", 1)
    shown = np.where(bits > 0.0, bits, np.nan)
    axis.scatter(shown, np.arange(len(bits)), color=_row_colors(history, red), s=22)
    axis.set_xscale("log")
    axis.set_title("What one example\ncarries through, bits", fontsize=9)
    _write_column(axis, ["" if np.isnan(value) else f"{value:,.0f}" for value in bits], red=red)


def _write_column(axis: Any, texts: list[str], header: str = "", red: Collection[int] = ()) -> None:
    """Small texts to the right of an axis: one for each row, and a header."""
    at = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 7}
    axis.text(1.01, -0.8, header, **at)
    for row, text in enumerate(texts):
        axis.text(1.01, row, text, color=MARKED if row in red else "black", **at)


def _row_colors(history: Mapping[str, Any], red: Collection[int]) -> list[str]:
    kinds = [tensor["kind"] for tensor in history["tensors"].values()]
    return [MARKED if row in red else COLORS[kind] for row, kind in enumerate(kinds)]


def _red(history: Mapping[str, Any], by: str, n: int) -> set[int]:
    """The rows of the tensors with the smallest numbers."""
    names = list(history["tensors"])
    return {names.index(name) for name in bottlenecks(history, n, by)}


def _last(tensors: list[Any], key: str) -> npt.NDArray[np.float64]:
    """The numbers of the last epoch; NaN where there is none."""
    values = [tensor[key][-1] if key in tensor else None for tensor in tensors]
    return np.array(values, dtype=np.float64)
