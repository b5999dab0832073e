"""Plots of a quantized model. Needs matplotlib."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.callbacks import CapacityMonitor
from keras_qat.callbacks.channel_capacity import Measurement, bottlenecks, channel_of
from keras_qat.conversion.to_integer import quantized_tensors
from keras_qat.keras_graph import probe_of, structured_inputs
from keras_qat.model import QuantizedModel
from keras_qat.quantized_layers import quantized_kernels
from keras_qat.quantizers import Quantizer

_COLUMNS = 4
_BINS = 160
_FEW_CODES = 32
_VALUES = 200_000
_COLORS = {"weights": "tab:blue", "activations": "tab:orange"}
_MARKED = "tab:red"


def plot_grids(model: QuantizedModel, samples: Any) -> Any:
    """Draws the weights and the activations of every layer on their learned grids.

    Every tensor has a panel. The gray curve is the distribution of the float values, in units of a
    code. The colored bars are the share of the values that each code holds. A grid without
    integers, such as one with `offset="free"`, counts its levels from the lowest. The title states
    the bits of the widest channel. The label below states the share of saturated values, counted
    as in `CapacityMonitor`.

    Args:
        model: a trained `QuantizedModel`.
        samples: inputs as for `predict`; a few hundred are enough.

    Returns:
        The `matplotlib.figure.Figure`. Write it with `figure.savefig("grids.png")`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    new_figure = _figure_class("plot_grids")
    panels = [*_weight_panels(model), *_activation_panels(model, samples)]
    rows = -(-len(panels) // _COLUMNS)
    figure = new_figure(figsize=(3.2 * _COLUMNS, 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(
        f"{model.name}: float values (gray) and the share of each code: "
        "weights (blue), activations (orange)",
        fontsize=10,
    )
    return figure


def plot_capacity(
    history: CapacityMonitor | Mapping[str, Any] | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
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

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: not the history of a `CapacityMonitor`, or a history without epochs.
        FileNotFoundError: no such JSON file.
    """
    new_figure = _figure_class("plot_capacity")
    history = _checked_history(history)
    tensors = list(history["tensors"].values())
    rows = np.arange(len(tensors))
    figure = new_figure(figsize=(13.0, 1.9 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True, width_ratios=(4.4, 2.8, 1.7, 1.7))
    _draw_epochs(figure, axes[0], history)
    _draw_capacities(axes[1], history)
    _draw_examples(axes[2], history)
    saturated = 100.0 * _last(tensors, "saturation")
    axes[3].barh(rows, saturated, color=_row_colors(history, ()))
    axes[3].set_title("saturated values, %", fontsize=9)
    _write_column(axes[3], [f"{share:.1f}" for share in saturated])
    axes[0].set_yticks(rows, list(history["tensors"]))
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    for label, tensor in zip(axes[0].get_yticklabels(), tensors, strict=True):
        label.set_color(_COLORS[tensor["kind"]])
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1:]:
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
    figure.suptitle(
        f"Quantizers as noisy channels, after epoch {history['epochs'][-1]}: weights (blue), "
        "activations (orange), bottlenecks (red)",
        fontsize=10,
    )
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _figure_class(caller: str) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"{caller} needs matplotlib: pip install matplotlib") from error
    return Figure


def _checked_history(history: Any) -> Mapping[str, Any]:
    if isinstance(history, CapacityMonitor):
        history = history.history
    elif isinstance(history, str | os.PathLike):
        history = _read_history(pathlib.Path(history))
    if not isinstance(history, Mapping) or not {"epochs", "tensors"} <= set(history):
        raise ValueError(
            "history must be a CapacityMonitor, its history or the path of its JSON file. "
            f"Received: {type(history).__name__}"
        )
    if not history["epochs"]:
        raise ValueError("The capacity history has no epoch yet: fit with the monitor first.")
    return history


def _read_history(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file of a CapacityMonitor: {error}") from error


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
    what = "bits of the widest channel above its target" if learned.any() else "bits per value"
    bar.set_label(what, fontsize=8)
    axis.set_title("bits above the target" if learned.any() else "capacity", fontsize=9)
    axis.set_facecolor("0.9")
    axis.set_xlabel("epoch", fontsize=8)
    axis.locator_params(axis="x", integer=True, min_n_ticks=1)
    bits = zip(_last(tensors, "max_bits"), targets, strict=True)
    _write_column(axis, [f"{found:.1f} / {target}" for found, target in bits], "bits / target")


def _draw_capacities(axis: Any, history: Mapping[str, Any]) -> None:
    tensors = list(history["tensors"].values())
    capacities = _last(tensors, "bits_per_value")
    rows = np.arange(len(tensors))
    red = _red(history, "bits_per_value", 3)
    axis.barh(rows, capacities, color=_row_colors(history, red))
    axis.plot([tensor["target_bits"] for tensor in tensors], rows, "|", color="0.2", ms=9)
    axis.set_title("capacity in bits per value; | target bits", fontsize=9)
    _write_column(axis, [f"{capacity:.2f}" for capacity in capacities], red=red)


def _draw_examples(axis: Any, history: Mapping[str, Any]) -> None:
    """Bits per example as points, because the length of a bar means nothing on a log axis."""
    bits = _last(list(history["tensors"].values()), "bits_per_example")
    red = _red(history, "bits_per_example", 1)
    shown = np.where(bits > 0.0, bits, np.nan)
    axis.scatter(shown, np.arange(len(bits)), color=_row_colors(history, red), s=22)
    axis.set_xscale("log")
    axis.set_title("bits per example", fontsize=9)
    _write_column(axis, ["" if np.isnan(value) else f"{value:,.0f}" for value in bits], red=red)


def _write_column(axis: Any, texts: list[str], header: str = "", red: Collection[int] = ()) -> None:
    """Small texts to the right of an axis: one for each row, and a header."""
    at = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 7}
    axis.text(1.01, -0.8, header, **at)
    for row, text in enumerate(texts):
        axis.text(1.01, row, text, color=_MARKED if row in red else "black", **at)


def _row_colors(history: Mapping[str, Any], red: Collection[int]) -> list[str]:
    kinds = [tensor["kind"] for tensor in history["tensors"].values()]
    return [_MARKED if row in red else _COLORS[kind] for row, kind in enumerate(kinds)]


def _red(history: Mapping[str, Any], by: str, n: int) -> set[int]:
    """The rows of the bottlenecks."""
    names = list(history["tensors"])
    return {names.index(name) for name in bottlenecks(history, n, by)}


def _last(tensors: list[Any], key: str) -> npt.NDArray[np.float64]:
    """The numbers of the last epoch; NaN where there is none."""
    values = [tensor[key][-1] if key in tensor else None for tensor in tensors]
    return np.array(values, dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One tensor on its grid. Numbers are in units of a code.

    Attributes:
        title: name of the tensor.
        color: color of the bars.
        bits: bits of the widest channel.
        values: the float values, flat.
        codes: the code of each value.
        ends: lowest and highest code of all channels.
        gap: distance of two codes of a channel.
        saturation: share of the values that the grid saturates.
    """

    title: str
    color: str
    bits: float
    values: npt.NDArray[Any]
    codes: npt.NDArray[Any]
    ends: tuple[float, float]
    gap: float
    saturation: float


def _panel(kind: str, title: str, quantizer: Quantizer, values: Any, kernel: Any = None) -> _Panel:
    """The panel of one tensor. A grid without integers counts from its lowest level."""
    channel = channel_of(quantizer, kernel)
    measurement = Measurement(channel)
    values = np.asarray(ops.convert_to_numpy(values))
    measurement.add(values)
    unit: Any = channel.step
    zero: Any = channel.low
    if quantizer.deployable:
        unit, zero = ops.convert_to_numpy(quantizer.scale), 0.0
    lowest, gap = np.rint((channel.low - zero) / unit), np.rint(channel.step / unit)
    values = np.asarray((values - zero) / unit)
    steps = np.rint(np.clip((values - lowest) / gap, 0.0, channel.levels - 1.0))
    return _Panel(
        title,
        _COLORS[kind],
        float(np.max(channel.bits)),
        np.ravel(values),
        np.ravel(lowest + gap * steps),
        (float(np.min(lowest)), float(np.max(lowest + gap * (channel.levels - 1.0)))),
        float(np.max(gap)),
        measurement.record()["saturation"],
    )


def _weight_panels(model: QuantizedModel) -> list[_Panel]:
    return [
        _panel("weights", f"{found.name}, weights", found.weight_quantizer, kernel, kernel)
        for layer in model.layers
        for found in quantized_kernels(layer)
        for kernel in [found.weight_quantizer.prepare(found.channels_last_kernel())]
    ]


def _activation_panels(model: QuantizedModel, samples: Any) -> list[_Panel]:
    """A panel for the input of every quantizer."""
    sites = quantized_tensors(model)
    if not sites:
        return []  # weights alone are on grids
    probe = probe_of(model, {name: site.source for name, site in sites.items()})
    tensors = probe.predict(structured_inputs(model, samples), verbose=0)
    panels = []
    for name, site in sites.items():
        values = np.ravel(tensors[name])
        stride = max(1, values.size // _VALUES)
        panels.append(_panel("activations", name, site.quantizer, values[::stride]))
    return panels


def _draw(axis: Any, panel: _Panel) -> None:
    lowest, highest = panel.ends
    codes, counts = np.unique(panel.codes, return_counts=True)
    share = counts / panel.codes.size
    if len(codes) > _FEW_CODES:
        edges = np.arange(lowest, highest + 2.0 * panel.gap, panel.gap) - 0.5 * panel.gap
        stairs, _ = np.histogram(panel.codes, bins=edges)
        axis.stairs(stairs / panel.codes.size, edges, fill=True, color=panel.color, alpha=0.85)
    else:
        width = 0.8 * np.min(np.diff(codes), initial=panel.gap)
        axis.bar(codes, share, width=width, color=panel.color, alpha=0.85)
    margin = max(1.0, 0.25 * (highest - lowest))
    low = max(np.min(panel.values), lowest - margin)
    high = min(np.max(panel.values), highest + margin)
    bins = int(np.clip(np.sqrt(panel.values.size), 10, _BINS))
    edges = np.linspace(low, max(high, low + 1e-6), bins + 1)
    density, _ = np.histogram(panel.values, bins=edges, density=True)
    axis.stairs(density * panel.gap, edges, color="0.25", alpha=0.7, linewidth=0.8)
    axis.set_title(f"{panel.title}, {panel.bits:.3g} bit", fontsize=8)
    axis.set_xlim(lowest - margin, highest + margin)
    axis.set_xlabel(f"{100 * panel.saturation:.1f} % saturated", fontsize=7)
    axis.set_ylim(0, min(1.0, 1.25 * max(share.max(), 1e-3)))
    axis.tick_params(labelsize=6)
