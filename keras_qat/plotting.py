"""Pictures of a quantized model. Needs matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.conversion import quantized_tensors
from keras_qat.model import QuantizedModel
from keras_qat.quantizers import Quantizer
from keras_qat.wrappers import QuantizeWrapper

_COLUMNS = 4
_BINS = 160
_FEW_CODES = 32
_VALUES = 200_000


def plot_grids(model: QuantizedModel, samples: Any) -> Any:
    """Draws the weights and the activations of every layer on their learned grids.

    One panel for each tensor: the gray curve is the distribution of the float values in units of
    the learned step, the colored bars show how much of it each integer code holds. Values beyond
    the outermost codes saturate.

    Args:
        model: a trained `QuantizedModel`.
        samples: inputs as for `predict`; a few hundred are enough.

    Returns:
        The `matplotlib.figure.Figure`; write it with `figure.savefig("grids.png")`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot_grids needs matplotlib: pip install matplotlib") from error
    panels = [*_weight_panels(model), *_activation_panels(model, samples)]
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis, (title, color, steps, quantizer) in zip(axes, panels, strict=False):
        _draw(axis, title, color, steps, quantizer)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(
        f"{model.name}: float values in learned steps (gray) and the share of each code: "
        "weights (blue), activations (orange)",
        fontsize=10,
    )
    return figure


def _weight_panels(model: QuantizedModel) -> list[tuple[str, str, npt.NDArray[Any], Quantizer]]:
    panels = []
    for layer in model.layers:
        if isinstance(layer, QuantizeWrapper):
            quantizer = layer.weight_quantizer
            steps = layer.channels_last_kernel() / quantizer.scale
            panels.append(
                (f"{layer.name}, weights", "tab:blue", ops.convert_to_numpy(steps), quantizer)
            )
    return panels


def _activation_panels(
    model: QuantizedModel, samples: Any
) -> list[tuple[str, str, npt.NDArray[Any], Quantizer]]:
    """What enters every quantizer, in its steps."""
    from keras import Model

    sites = quantized_tensors(model)
    probe = Model(model.inputs, {name: site.source for name, site in sites.items()})
    values = probe.predict(samples, verbose=0)
    panels = []
    for name, site in sites.items():
        steps = np.ravel(values[name]) / ops.convert_to_numpy(site.quantizer.scale)
        stride = max(1, steps.size // _VALUES)
        panels.append((name, "tab:orange", steps[::stride], site.quantizer))
    return panels


def _draw(axis: Any, title: str, color: str, steps: npt.NDArray[Any], quantizer: Quantizer) -> None:
    grid = quantizer.grid
    codes = np.arange(grid.qmin, grid.qmax + 1, grid.step)
    nearest = grid.qmin + grid.step * np.rint(
        (np.clip(steps, grid.qmin, grid.qmax) - grid.qmin) / grid.step
    )
    share = np.array([np.mean(nearest == code) for code in codes])
    if len(codes) > _FEW_CODES:
        around = np.append(codes, codes[-1] + grid.step) - 0.5 * grid.step
        axis.stairs(share, around, fill=True, color=color, alpha=0.85)
    else:
        axis.bar(codes, share, width=0.8 * grid.step, color=color, alpha=0.85)
    margin = max(1.0, 0.25 * (grid.qmax - grid.qmin))
    low, high = max(np.min(steps), grid.qmin - margin), min(np.max(steps), grid.qmax + margin)
    bins = int(np.clip(np.sqrt(steps.size), 10, _BINS))
    edges = np.linspace(low, max(high, low + 1e-6), bins + 1)
    density, _ = np.histogram(steps, bins=edges, density=True)
    axis.stairs(density * grid.step, edges, color="0.25", alpha=0.7, linewidth=0.8)
    saturated = np.mean((steps < grid.qmin - 0.5) | (steps > grid.qmax + 0.5))
    axis.set_title(f"{title}, {grid.bits} bit", fontsize=8)
    axis.set_xlim(grid.qmin - margin, grid.qmax + margin)
    axis.set_xlabel(f"{100 * saturated:.1f} % saturated", fontsize=7)
    axis.set_ylim(0, min(1.0, 1.25 * max(share.max(), 1e-3)))
    axis.tick_params(labelsize=6)
