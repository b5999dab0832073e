"""`plot_grids`: every tensor on its learned grid."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.callbacks.channel_capacity import Measurement, channel_of
from keras_qat.conversion.to_integer import quantized_tensors
from keras_qat.keras_graph import probe_of, structured_inputs
from keras_qat.model import QuantizedModel
from keras_qat.plotting.figures import COLORS, figure_class
from keras_qat.quantized_layers import quantized_kernels
from keras_qat.quantizers import Quantizer

_COLUMNS = 4
_BINS = 160
_FEW_CODES = 32
_STRIPES = 64
"""The most stripes of the density of a grid with many codes."""
_CROWDED = 4.0
"""A stripe that is higher than the next one by this factor is cut off."""
_FLOAT = "0.25"
_VALUES = 200_000


def plot_grids(model: QuantizedModel, samples: Any) -> Any:
    """Draws the weights and the activations of every layer on their learned grids.

    Every tensor has a panel. The gray curve is the distribution of the float values, in units of a
    code. The colored bars are the share of the values that each code holds. With more than 32 codes
    they are a density: the mean share among a few neighbours, with marks of the grid below and
    dotted lines at its ends. A code that has most of the values is cut off, and a text states its
    share. A grid without
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
    new_figure = figure_class("plot_grids")
    panels = [*_weight_panels(model), *_activation_panels(model, samples)]
    rows = -(-len(panels) // _COLUMNS)
    figure = new_figure(figsize=(3.2 * _COLUMNS, 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis in axes[::_COLUMNS]:
        axis.set_ylabel("share of values per code", fontsize=7)
    _add_legend(figure)
    figure.suptitle(f"{model.name}: values and the codes that they get", fontsize=10)
    return figure


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
        COLORS[kind],
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
    levels = round((highest - lowest) / panel.gap) + 1
    margin = max(1.0, (0.08 if levels > _FEW_CODES else 0.25) * (highest - lowest))
    draw = _draw_density if levels > _FEW_CODES else _draw_codes
    draw(axis, panel, lowest - margin, highest + margin)
    axis.set_title(f"{panel.title}, {panel.bits:.3g} bit", fontsize=8)
    axis.set_xlim(lowest - margin, highest + margin)
    axis.set_xlabel(f"code; {100 * panel.saturation:.1f} % saturated", fontsize=7)
    axis.tick_params(labelsize=6)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_codes(axis: Any, panel: _Panel, low: float, high: float) -> None:
    """A bar for each code, and the density of the float values."""
    codes, counts = np.unique(panel.codes, return_counts=True)
    share = counts / panel.codes.size
    width = 0.8 * np.min(np.diff(codes), initial=panel.gap)
    axis.bar(codes, share, width=width, color=panel.color, alpha=0.85)
    low, high = max(np.min(panel.values), low), min(np.max(panel.values), high)
    bins = int(np.clip(np.sqrt(panel.values.size), 10, _BINS))
    edges = np.linspace(low, max(high, low + 1e-6), bins + 1)
    density, _ = np.histogram(panel.values, bins=edges, density=True)
    axis.stairs(density * panel.gap, edges, color=_FLOAT, alpha=0.7, linewidth=0.8)
    highest = float(np.max(share))
    curve = min(1.1 * panel.gap * float(np.max(density)), 2.0 * highest)
    axis.set_ylim(0, max(1.25 * highest, curve))


def _draw_density(axis: Any, panel: _Panel, low: float, high: float) -> None:
    """The mean share of a code among a few neighbours, and marks for these: 256 bars blur."""
    lowest, highest = panel.ends
    together = -(-round((highest - lowest) / panel.gap + 1) // _STRIPES)
    step = together * panel.gap
    edges = np.arange(lowest - 0.5 * panel.gap, highest + step, step)
    counts, _ = np.histogram(panel.codes, bins=edges)
    share = counts / (panel.codes.size * together)
    axis.stairs(share, edges, fill=True, color=panel.color, alpha=0.6)
    around = np.arange(lowest - 0.5 * panel.gap - step * _STRIPES, high + step, step)
    floats, _ = np.histogram(panel.values, bins=around[around > low - step])
    shown = around[around > low - step]
    density = floats / (panel.values.size * together)
    axis.stairs(density, shown, color=_FLOAT, alpha=0.8, linewidth=0.8)
    marks = {"transform": axis.get_xaxis_transform(), "color": "0.15", "linewidth": 0.4}
    axis.vlines(edges, 0.0, 0.025, **marks)
    for end in (edges[0], highest + 0.5 * panel.gap):
        axis.axvline(end, color="0.5", linewidth=0.6, linestyle=":")
    second, first = np.sort(np.append(share, 0.0))[-2:]
    if 0.0 < _CROWDED * second < first:  # lets the other codes be seen
        axis.set_ylim(0, 1.6 * second)
        said = f" {together * first:.0%} of the values"
        place = edges[int(np.argmax(share)) + 1]
        axis.text(place, 0.98, said, transform=axis.get_xaxis_transform(), va="top", fontsize=6)
    else:
        axis.set_ylim(0, 1.25 * max(first, 1e-3))


def _add_legend(figure: Any) -> None:
    """What is what, once for all panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=COLORS["weights"], alpha=0.85, label="codes of weights"),
        Patch(color=COLORS["activations"], alpha=0.85, label="codes of activations"),
        Line2D([], [], color=_FLOAT, linewidth=0.8, label="float values"),
        Line2D([], [], color="0.15", marker="|", linestyle="", label="marks of the grid"),
        Line2D([], [], color="0.5", linestyle=":", linewidth=0.8, label="ends of the grid"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7)
