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
_VALUES = 200_000


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
    new_figure = figure_class("plot_grids")
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
