"""Draws the pictures of the pages into `drawings/`: `python docs/make_drawings.py`.

Every curve is computed by the package. Each file keeps a digest of its curves and words, by which a
test sees that a picture is older than the code.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_qat import Estimator, estimators, quantizers, schedules
from keras_qat.quantizers import Grid

FOLDER = pathlib.Path(__file__).parent / "drawings"
X = np.linspace(-1.503, 1.501, 401, dtype=np.float32)[:, None]
"""What enters a quantizer: values of one channel, none of them a tie."""
FORWARD, BACKWARD, FAINT = "#3949ab", "#d84315", "#9e9e9e"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_qat",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

ON_TWO_BITS = {
    "STEConfig, weights": lambda: quantizers.STEWeightQuantizer(Grid.for_weights(2)),
    "STEConfig, activations": lambda: quantizers.STEActivationQuantizer(
        Grid.for_activations(2, signed=False)
    ),
    "LSQConfig, weights": lambda: quantizers.LSQWeightQuantizer(Grid.for_weights(2)),
    "LSQConfig, activations": lambda: quantizers.LSQActivationQuantizer(
        Grid.for_activations(2, signed=False)
    ),
    "DoReFaConfig, weights": lambda: quantizers.DoReFaQuantizer(2),
    "DoReFaConfig, activations (PACT)": lambda: quantizers.PACTQuantizer(
        Grid.for_activations(2, signed=False)
    ),
    "WaveQConfig, weights": lambda: quantizers.WaveQWeightQuantizer(2),
    "GDNSQConfig, weights": lambda: quantizers.GDNSQWeightQuantizer(2, start_bits=2),
    "GDNSQConfig, activations": lambda: quantizers.GDNSQActivationQuantizer(
        2, signed=True, start_bits=2
    ),
}
"""Where each quantizer of the configs is used -> one of 2 bits."""

ESTIMATORS = {
    "ste": estimators.STE,
    "ewgs, delta=0.5": Estimator("ewgs", {"delta": 0.5}),
    "aewgs": Estimator("aewgs"),
    "dsq": Estimator("dsq"),
    "pege, strength=1": Estimator("pege", {"strength": 1.0}),
}
"""Every estimator, with options that make its effect visible."""


def forward_and_gradient(quantizer: Any, upstream: float = 1.0) -> tuple[Any, Any]:
    """What a quantizer yields for `X`, and the gradient at `X` for one that arrives behind it."""
    quantizer.build(X.shape)
    quantizer.set_scale(np.full(quantizer.scale.shape, 1.0 / quantizer.grid.qmax, np.float32))
    if isinstance(quantizer, quantizers.WeightQuantizer):
        quantizer.calibrate_weights(X)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = quantizer(x, training=True)
    gradient = tape.gradient(y, x, tf.fill(y.shape, np.float32(upstream)))
    return np.asarray(y)[:, 0], np.asarray(gradient)[:, 0]


def draw_quantizers() -> Figure:
    """The staircase and the gradient of every quantizer."""
    figure = Figure(figsize=(9, 1.55 * len(ON_TWO_BITS)), layout="constrained")
    rows = figure.subplots(len(ON_TWO_BITS), 2, sharex=True)
    for (name, new), (left, right) in zip(ON_TWO_BITS.items(), rows, strict=True):
        y, gradient = forward_and_gradient(new())
        left.plot(X, X, color=FAINT, linewidth=0.8)
        left.plot(X, y, color=FORWARD)
        left.set_title(name, loc="left", fontweight="bold")
        right.plot(X, gradient, color=BACKWARD)
        right.set_ylim(-0.1, max(1.3, 1.1 * gradient.max()))
    rows[0][0].set_title(f"{next(iter(ON_TWO_BITS))}: value", loc="left", fontweight="bold")
    rows[0][1].set_title("gradient", loc="left", fontweight="bold")
    for axes in rows[-1]:
        axes.set_xlabel("value before rounding")
    return figure


def draw_estimators() -> Figure:
    """The gradient of every estimator, on LSQ's grid of 2 bits."""
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axes, (name, estimator) in zip(
        figure.subplots(1, len(ESTIMATORS), sharey=True), ESTIMATORS.items(), strict=True
    ):
        for upstream, style in ((1.0, "-"), (-1.0, "--")):
            quantizer = quantizers.LSQWeightQuantizer(Grid.for_weights(2), estimator=estimator)
            gradient = forward_and_gradient(quantizer, upstream)[1]
            axes.plot(X, gradient, style, color=BACKWARD, label=f"arriving: {upstream:+.0f}")
        axes.set_title(name, loc="left", fontweight="bold")
        axes.set_xlabel("value")
    figure.axes[0].set_ylabel("gradient that goes on")
    figure.axes[0].legend(frameon=False, fontsize=7, loc="center left")
    return figure


def draw_bits() -> Figure:
    """The same values on grids of fewer and fewer bits, and what rounding adds."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    columns = figure.subplots(2, 4, sharex=True, sharey="row").T
    for (above, below), bits in zip(columns, (8, 4, 2, 1), strict=True):
        quantizer = quantizers.STEWeightQuantizer(Grid.for_weights(bits))
        quantizer.build(X.shape)
        quantizer.calibrate_weights(X)
        y = np.asarray(quantizer(X))
        levels = 255 if bits == 8 else 2**bits
        above.plot(X, y, color=FORWARD)
        above.set_title(f"{bits} bits: {levels} levels", loc="left", fontweight="bold")
        below.plot(X, y - X, color=BACKWARD)
        below.set_xlabel("value")
    columns[0][0].set_ylabel("on the grid")
    columns[0][1].set_ylabel("noise")
    return figure


def draw_replacement() -> Figure:
    """PEGE's curricula, and one tensor on its way."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    shares, *others = figure.subplots(1, 4, width_ratios=(1.5, 1, 1, 1))
    batches = np.arange(101)
    for name in ("Logarithmic", "Linear", "Exponential", "Cosine"):
        curriculum = getattr(schedules, name)(0.0, 1.0, 25)
        values = [100 * curriculum(int(k)) for k in batches]
        shares.plot(batches, values, label=name.lower(), linewidth=1.2)
    shares.set_title("replaced elements (%)", loc="left", fontweight="bold")
    shares.set_xlabel("batches (% of the run)")
    shares.legend(frameon=False, fontsize=7)
    for axes, share in zip(others, (0.0, 0.5, 1.0), strict=True):
        quantizer = quantizers.LSQWeightQuantizer(Grid.for_weights(2), replacement="random", seed=0)
        quantizer.build(X.shape)
        quantizer.calibrate_weights(X)
        quantizer.replaced_share.assign(share)
        axes.plot(X, np.asarray(quantizer(X, training=True)), ".", color=FORWARD, markersize=2)
        axes.set_title(f"{100 * share:.0f} % replaced", loc="left", fontweight="bold")
        axes.set_xlabel("value")
    return figure


def draw_rooms() -> Figure:
    """The three rooms, the files in them, and what goes from one to the next."""
    figure = Figure(figsize=(9, 3.3))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 9), ylim=(0, 3.3))
    axes.set_axis_off()
    rooms = (
        ("train: keras_qat, on Keras", ("float model", "layers with rules", "QuantizationPlan")),
        ("state: keras_qat.integer, on NumPy", ("IntegerGraph",)),
        ("write: tflite_export", ("graph of the target", "file_model", "bytes")),
    )
    ends = ("QuantizedModel:\nfit, evaluate, save", "run by the interpreter", ".tflite and report")
    steps = (
        ("quantization/passes", "quantization/planning.py", "insert_quantizers.py"),
        ("integer/interpreter.py",),
        ("ops/emit_model.py", "file/writer.py", "proof/"),
    )
    for room, ((title, things), end) in enumerate(zip(rooms, ends, strict=True)):
        left = 0.15 + 3.0 * room
        _box(axes, left, 0.1, 2.7, 3.1, title, face="#f3f4fa", top=True)
        heights = np.linspace(2.35, 0.3, len(things) + 1)
        for height, text in zip(heights, (*things, end), strict=True):
            _box(axes, left + 0.25, height, 1.25, 0.42, text)
        for step, (high, low) in enumerate(itertools.pairwise(heights)):
            _arrow(axes, (left + 0.85, high), (left + 0.85, low + 0.42))
            axes.text(left + 0.95, (high + low + 0.42) / 2, steps[room][step], va="center", size=7)
    _arrow(axes, (1.65, 0.51), (3.4, 2.56))
    axes.text(2.05, 1.9, "to_integer()\nlowering/", size=7, ha="left")
    _arrow(axes, (4.65, 2.56), (6.4, 2.56))
    axes.text(5.15, 2.62, "legal/legalize.py", size=7, ha="center")
    return figure


def _box(
    axes: Any, left: float, low: float, width: float, height: float, text: str, **how: Any
) -> None:
    face, top = how.get("face", "#ffffff"), how.get("top", False)
    style = matplotlib.patches.FancyBboxPatch(
        (left, low), width, height, boxstyle="round,pad=0,rounding_size=0.06", fc=face, ec=FORWARD
    )
    axes.add_patch(style)
    place = (left + width / 2, low + height - 0.2 if top else low + height / 2)
    weight = "bold" if top else "normal"
    axes.text(*place, text, ha="center", va="center", size=9 if top else 8, weight=weight)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": BACKWARD})


DRAWINGS: dict[str, Callable[[], Figure]] = {
    "bits": draw_bits,
    "estimators": draw_estimators,
    "quantizers": draw_quantizers,
    "replacement": draw_replacement,
    "rooms": draw_rooms,
}


def _shown(figure: Figure) -> Iterator[str]:
    for axes in figure.axes:
        yield axes.get_title(loc="left")
        yield from (text.get_text() for text in axes.texts)
        yield from (str((np.round(line.get_xydata(), 2) + 0.0).tolist()) for line in axes.lines)


def digest(figure: Figure) -> str:
    """A short name of the curves and words of a figure."""
    return hashlib.sha256("\n".join(_shown(figure)).encode()).hexdigest()[:16]


def save(name: str, figure: Figure) -> None:
    about = {"Date": None, "Creator": None, "Description": f"digest {digest(figure)}"}
    figure.savefig(FOLDER / f"{name}.svg", facecolor="white", metadata=about)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, draw in DRAWINGS.items():
            save(name, draw())


if __name__ == "__main__":
    main()
