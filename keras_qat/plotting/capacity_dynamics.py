"""`plot_capacity_dynamics`: capacity and accuracy of a network while its bits fall."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.callbacks import CapacityMonitor
from keras_qat.plotting.figures import figure_class
from keras_qat.plotting.histories import accuracies, checked_history

_CAPACITY, _HIDDEN, _ACCURACY, _QUIET = "tab:blue", "#9ec4e6", "tab:orange", "0.35"
_AXES = {
    "bits_per_mac": "average bits of a multiply-accumulate",
    "bits_per_weight": "average bits of a weight",
    "bits_per_activation": "average bits of an activation",
}
_NAMES_IN_LABEL = 2
_LOG_FROM = 30.0
"""The ratio of the largest to the smallest number from which the axis is logarithmic."""

_BELOW_ACCURACY = 3.0
"""How much room is left below the line of the accuracy, in its heights."""
_LEAST_SPREAD = 5.0
"""The least height of that line for this room, in percent."""

Array = npt.NDArray[np.float64]


def plot_capacity_dynamics(
    history: CapacityMonitor | Mapping[str, Any] | str | os.PathLike[str],
    accuracy: Any = None,
    path: str | os.PathLike[str] | None = None,
    *,
    bits: str = "bits_per_mac",
) -> Any:
    """Draws how the capacity of a network falls with its bits, epoch by epoch.

    The horizontal axis has the average bits, many on the left and few on the right, so that
    training goes from left to right. A point is an epoch, and the ring is the state before the
    first one.

    * The blue line is the capacity of the network: the bits of an example that get through its
      narrowest cut (`CapacityMonitor`). The tensors of the cut are named where they change.
    * The light line is the same for hidden tensors alone, where it differs. A classifier has few
      outputs, so that they are often the narrowest of all.
    * The dashed line is how many bits of an example the quantized inputs hold, at most. Where the
      capacity is below, the network may have to forget.
    * The orange line is the accuracy.
    * The dotted line is where all bit widths are at their targets.

    Args:
        history: a monitor, its `history`, or the path of its JSON file.
        accuracy: the `History` that the same `fit` returned (its "val_accuracy", or else its
            "accuracy"), or one number from 0 to 1 for each epoch. `None` draws no accuracy.
        path: where to write the picture; the ending decides between PNG, PDF and SVG.
        bits: which average is the horizontal axis: "bits_per_mac", "bits_per_weight" or
            "bits_per_activation".

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: not the history of a `CapacityMonitor`, a history without epochs or without the
            numbers of the network, unknown `bits`, or accuracies that do not fit the epochs.
        FileNotFoundError: no such JSON file.
    """
    new_figure = figure_class("plot_capacity_dynamics")
    if bits not in _AXES:
        raise ValueError(f"The bits must be one of {tuple(_AXES)}. Received: {bits!r}")
    history = checked_history(history, CapacityMonitor, "epochs")
    if "network" not in history:
        raise ValueError(
            "The capacity history has no numbers of the network: an earlier release recorded it. "
            "plot_capacity draws it. For plot_capacity_dynamics, fit with a CapacityMonitor again."
        )
    found = accuracies(accuracy, history["epochs"])
    figure = new_figure(figsize=(8.4, 5.4), layout="constrained")
    axis = figure.subplots()
    x = _series(history, bits)
    _draw_capacity(axis, history, x)
    _draw_bounds(axis, history, bits)
    if found is not None:
        _draw_accuracy(axis, x[-len(found) :], found)
    _scale(axis, history)
    axis.invert_xaxis()
    axis.set_xlabel(f"{_AXES[bits]}, falling from left to right as training goes on", fontsize=9)
    axis.set_ylabel("capacity, bits of an example", color=_CAPACITY, fontsize=9)
    axis.set_title("What a network lets through while its bits fall", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _draw_capacity(axis: Any, history: Mapping[str, Any], x: Array) -> None:
    """The lines of the capacity, the ring of the start, and the names of the narrowest cut."""
    y, hidden = _series(history, "bits_per_example"), _series(history, "hidden_bits_per_example")
    if not np.array_equal(y, hidden, equal_nan=True):
        style = {"color": _HIDDEN, "lw": 1.3, "ms": 3.5, "zorder": 2}
        axis.plot(x, hidden, "-o", label="capacity of the hidden tensors", **style)
    style = {"color": _CAPACITY, "lw": 2.0, "ms": 5.0, "zorder": 4}
    axis.plot(x, y, "-o", label="capacity of the network: its narrowest cut", **style)
    if "start" in history:
        ring = {"color": "white", "mec": _CAPACITY, "mew": 1.8, "ms": 9, "zorder": 5}
        axis.plot(x[:1], y[:1], "o", label="before the first epoch", **ring)
    for number, (place, cut) in enumerate(_changes(history)):
        if np.isfinite(x[place]) and np.isfinite(y[place]):
            late = x[place] < (np.nanmax(x) + np.nanmin(x)) / 2.0  # there is room on its left only
            axis.annotate(
                f"narrowest: {_described(cut)}",
                (x[place], y[place]),
                (-14 if late else 14, -26 - 14 * (number % 3)),
                textcoords="offset points",
                ha="right" if late else "left",
                fontsize=8,
                color=_CAPACITY,
                arrowprops={"arrowstyle": "-", "color": _CAPACITY, "lw": 0.7},
                zorder=6,
            )


def _changes(history: Mapping[str, Any]) -> list[tuple[int, Sequence[str]]]:
    """The points of the line at which the narrowest cut is another one, and its tensors."""
    start = [history["start"]["network"]["narrowest"]] if "start" in history else []
    cuts = [*start, *history["network"]["narrowest"]]
    before = [None, *cuts]
    return [(i, cut) for i, cut in enumerate(cuts) if cut and cut != before[i]]


def _draw_bounds(axis: Any, history: Mapping[str, Any], bits: str) -> None:
    """The bits of the inputs, and the average bits of the targets."""
    rate = history.get("input_bits_per_example")
    if rate is not None:
        label = f"an input holds at most {rate:,.0f} bits"
        axis.axhline(rate, color=_QUIET, ls="--", lw=1.2, label=label)
    target = history.get("targets", {}).get(bits)
    if target is not None:
        label = f"all tensors at their targets: {target:.1f} bits"
        axis.axvline(target, color=_QUIET, ls=":", lw=1.2, label=label)


def _draw_accuracy(axis: Any, x: Array, accuracies: Array) -> None:
    other = axis.twinx()
    percent = 100.0 * accuracies
    style = {"color": _ACCURACY, "ms": 3.5, "lw": 1.3, "alpha": 0.9}
    known = percent[np.isfinite(percent)]
    label = f"accuracy, {known[-1]:.1f} % at the end" if known.size else "accuracy"
    other.plot(x, percent, "-s", label=label, **style)
    other.set_ylabel("accuracy, %", color=_ACCURACY, fontsize=9)
    if known.size:  # small changes look small, and stay away from the capacity
        low, high = np.min(known), np.max(known)
        spread = max(high - low, _LEAST_SPREAD)
        other.set_ylim(max(0.0, low - _BELOW_ACCURACY * spread), min(101.0, high + spread))


def _series(history: Mapping[str, Any], key: str) -> Array:
    """A number of the network at the start, if it is known, and after every epoch."""
    start = [history["start"]["network"][key]] if "start" in history else []
    return np.array([*start, *history["network"][key]], dtype=np.float64)


def _scale(axis: Any, history: Mapping[str, Any]) -> None:
    """Makes the axis logarithmic, with plain numbers, if the numbers of bits are far apart."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    lines = [_series(history, key) for key in ("bits_per_example", "hidden_bits_per_example")]
    rate = np.array([history.get("input_bits_per_example")], dtype=np.float64)
    numbers = np.concatenate([*lines, rate])
    numbers = numbers[np.isfinite(numbers) & (numbers > 0.0)]
    if numbers.size and numbers.max() > _LOG_FROM * numbers.min():
        axis.set_yscale("log")
        axis.set_ylim(numbers.min() / 1.6, numbers.max() * 1.25)
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(bottom=0.0)
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _described(tensors: Sequence[str]) -> str:
    """The tensors of a cut, as a short text.

    >>> _described(["relu/activations"]), _described(["a/activations", "b/activations", "c"])
    ('relu', 'a + b + 1 more')
    """
    names = [name.removesuffix("/activations") for name in tensors]
    rest = len(names) - _NAMES_IN_LABEL
    return " + ".join([*names[:_NAMES_IN_LABEL], *([f"{rest} more"] if rest > 0 else [])])
