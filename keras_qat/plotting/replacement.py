"""`plot_replacement`: progressive replacement, and the discretization error of every layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.callbacks import DiscretizationMonitor
from keras_qat.plotting.depth_colors import depth_colors, label_depth
from keras_qat.plotting.figures import figure_class
from keras_qat.plotting.histories import checked_history

History = DiscretizationMonitor | Mapping[str, Any] | str | os.PathLike[str]

_ROWS = ("weights", "activations")


def plot_replacement(
    histories: History | Mapping[str, History], path: str | os.PathLike[str] | None = None
) -> Any:
    """Draws the share of replaced elements and the discretization error over the batches.

    A column is a run, so that STE, LSQ, EWGS and PEGE can be compared. From top to bottom:

    1. The share of the elements that are quantized in training: the curriculum `p(k)`.
    2. The discretization error of the weights, a line for each layer, dark near the input. The
       black line is the mean of all, the dashed one the part of it that clipping makes.
    3. The same for activations.

    Args:
        histories: a `DiscretizationMonitor`, its `history` or the path of its JSON file; or a dict
            from the title of a column to one of these.
        path: where to write the picture; the ending decides between PNG, PDF and SVG.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: not histories of a `DiscretizationMonitor`, or one without records.
        FileNotFoundError: no such JSON file.
    """
    new_figure = figure_class("plot_replacement")
    runs = {
        title: checked_history(history, DiscretizationMonitor, "batches", "rounding")
        for title, history in _titled(histories).items()
    }
    kinds = [k for k in _ROWS if any(_errors(run, k).size for run in runs.values())]
    figure = new_figure(
        figsize=(1.6 + 3.1 * len(runs), 1.6 + 2.4 * len(kinds)), layout="constrained"
    )
    panels = figure.subplots(
        1 + len(kinds),
        len(runs),
        sharex="col",
        sharey="row",
        squeeze=False,
        height_ratios=(1.0, *(2.0 for _ in kinds)),
    )
    for column, (title, run) in zip(panels.T, runs.items(), strict=True):
        column[0].set_title(title, fontsize=10)
        column[0].plot(run["batches"], run["replaced_share"], color="tab:red", lw=2.0)
        column[0].set_ylim(-0.05, 1.08)
        for axis, kind in zip(column[1:], kinds, strict=True):
            _draw_errors(axis, run, kind)
        column[-1].set_xlabel("training batches", fontsize=9)
        for axis in column:
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
    panels[0, 0].set_ylabel("replaced\nshare p", fontsize=9)
    for axis, kind in zip(panels[1:, 0], kinds, strict=True):
        axis.set_ylim(bottom=0.0)  # after all lines of the row, which sets the upper end
        axis.set_ylabel(f"error of {kind},\nsquared, in ranges", fontsize=9)
    panels[1, 0].legend(fontsize=8, frameon=False, loc="best")
    label_depth(figure, panels[1:])
    figure.suptitle("How far values are from their codes while elements are replaced", fontsize=11)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _titled(histories: Any) -> Mapping[str, Any]:
    single = not isinstance(histories, Mapping) or "batches" in histories
    return {"": histories} if single else histories


def _errors(run: Mapping[str, Any], kind: str, part: str | None = None) -> npt.NDArray[Any]:
    """The errors of the tensors of a kind, `(tensors, records)`: of one part, or their sum."""
    parts = ("rounding", "clipping") if part is None else (part,)
    tensors = [tensor for tensor in run["tensors"].values() if tensor["kind"] == kind]
    return np.array([np.sum([np.float64(each[p]) for p in parts], axis=0) for each in tensors])


def _draw_errors(axis: Any, run: Mapping[str, Any], kind: str) -> None:
    errors, batches = _errors(run, kind), run["batches"]
    for color, values in zip(depth_colors(len(errors)), errors, strict=True):
        axis.plot(batches, values, color=color, lw=0.9, alpha=0.8)
    if len(errors):
        axis.plot(batches, np.mean(errors, axis=0), color="black", lw=2.2, label="mean of all")
        clipping = np.mean(_errors(run, kind, "clipping"), axis=0)
        axis.plot(batches, clipping, "--", color="black", lw=1.2, label="of it by clipping")
