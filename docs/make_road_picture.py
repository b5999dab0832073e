"""Draws `road.png`: one filter and one image on the way from Keras to a `.tflite` file.

    python docs/make_road_picture.py

A small network is trained on scikit-learn's digits. Every number in the picture is read from that
network, from its integer graph, or from the file. Nothing is drawn by hand.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import keras_qat
from keras_qat import integer
from keras_qat.integer import ops
from keras_qat.quantized_layers import quantized_kernels
from tflite_export.export import prepare
from tflite_export.file.runtimes import run_litert

PATH = pathlib.Path(__file__).parent / "road.png"
WEIGHT_BITS, ACTIVATION_BITS = 3, 4
LAYER = "conv_2"
TITLES = ("start", "train: Keras", "state: IntegerGraph", "write: .tflite")
IMAGE = 3
WIDTH, GAP = 0.165, 0.105
SIGNED, POSITIVE = matplotlib.colormaps["RdBu_r"], matplotlib.colormaps["YlGnBu"]


def trained() -> tuple[Any, np.ndarray]:
    """A quantized model of the digits, and their images."""
    keras.utils.set_random_seed(0)
    digits = load_digits()
    x, y = digits.images[..., None].astype(np.float32), digits.target
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_2"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(10, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(x, y, epochs=30, verbose=0)
    config = keras_qat.LSQConfig(weight_bits=WEIGHT_BITS, activation_bits=ACTIVATION_BITS)
    qmodel = keras_qat.quantize(model, config, calibration_data=x[:512])
    qmodel.compile(keras.optimizers.Adam(1e-3), loss)
    qmodel.fit(x, y, epochs=10, verbose=0)
    return qmodel, x


def main() -> None:
    qmodel, x = trained()
    (kernel,) = quantized_kernels(qmodel.get_layer(LAYER))
    latent = keras.ops.convert_to_numpy(kernel.channels_last_kernel())
    on_grid = keras.ops.convert_to_numpy(kernel.weight_quantizer(latent))
    learned = qmodel.to_integer()
    name = [op for op in learned.ops if isinstance(op, ops.Conv2D)][1].output
    graph = dataclasses.replace(learned, outputs=(*learned.outputs, name))  # a file that shows it
    (pixels,) = (graph.tensors[each].quantize(x) for each in graph.inputs)
    exported = prepare(
        graph,
        "net.tflite",
        target="litert",
        io_dtype="int8",
        weight_storage="auto",
        strict=False,
        samples=pixels[:256],
        verify=True,
        max_flip_rate=None,
        min_argmax_agreement=None,
        max_output_error=None,
    )
    report = exported.report

    fed = {graph.inputs[0]: pixels}
    in_keras = qmodel.layer_codes(x)[name]
    in_graph = integer.run(exported.graph, fed, "xnnpack", keep_all=True)[name]
    in_file = run_litert(exported.data, exported.file, fed, reference=False)[name]
    off = int(np.count_nonzero(in_keras != in_graph))
    if np.abs(in_keras.astype(int) - in_graph).max() > 1 or not np.array_equal(in_graph, in_file):
        raise AssertionError("E2 or E3 does not hold: the picture would not be true.")

    shown = int(np.argmax([len(np.unique(in_keras[IMAGE, ..., each])) for each in range(8)]))
    stated, written = (
        next(op for op in each.ops if op.output == name) for each in (graph, exported.graph)
    )
    slices = stated.weight.values[shown]
    channel = int(np.argmax([len(np.unique(slices[..., each])) for each in range(8)]))
    codes, stored = (op.weight.values[shown, :, :, channel] for op in (stated, written))
    scale, stored_scale = (op.weight.qparams.scale[shown] for op in (stated, written))
    used = on_grid[..., channel, shown]
    if not np.array_equal(codes * scale, used):
        raise AssertionError("E1 does not hold: the picture would not be true.")

    figure = Figure(figsize=(13, 6.2))
    for column, title in enumerate(TITLES):
        figure.text(_left(column) + WIDTH / 2, 0.955, title, ha="center", size=13, weight="bold")
    numbers = latent[..., channel, shown]
    _cells(figure, 0, 0, numbers, "float32 weights, one slice", "{:.3f}", SIGNED, 11)
    _cells(figure, 0, 1, used, f"on a grid of {WEIGHT_BITS} bits", "{:.3f}", SIGNED, 11)
    _cells(figure, 0, 2, codes, f"codes; scale {scale:.4f}", "{:d}", SIGNED, 13)
    _cells(figure, 0, 3, stored, f"int8; scale {stored_scale:.6f}", "{:d}", SIGNED, 13)
    shift = round(float(scale / stored_scale))
    _seam(figure, 0, 0, "→", "round")
    _seam(figure, 0, 1, "=", "E1: code * scale\nis the value,\nexactly")
    _seam(figure, 0, 2, "=", f"code * {shift}\nscale / {shift}")

    grid = graph.tensors[name].qparams
    values = grid.dequantize(in_keras[IMAGE, ..., shown])
    title = f"output of that filter, {ACTIVATION_BITS} bits"
    _cells(figure, 1, 0, x[IMAGE, ..., 0], "an image", "{:.0f}", POSITIVE, 7)
    _cells(figure, 1, 1, values, title, "{:.1f}", POSITIVE, 7)
    _cells(figure, 1, 2, in_graph[IMAGE, ..., shown], "the same in NumPy", "{:d}", POSITIVE, 7)
    _cells(figure, 1, 3, in_file[IMAGE, ..., shown], "the same in LiteRT", "{:d}", POSITIVE, 7)
    _seam(figure, 1, 0, "→", "convolve")
    _seam(figure, 1, 1, "=", f"E2: at most 1 step;\nhere {off} of\n{in_keras.size:,} off")
    differing = f"{report.mismatches} of\n{report.compared_elements:,} off"
    _seam(figure, 1, 2, "=", f"E3: equal;\nhere {differing}")
    figure.savefig(PATH, dpi=100)


def _left(column: int) -> float:
    return 0.015 + column * (WIDTH + GAP)


def _cells(
    figure: Figure,
    row: int,
    column: int,
    numbers: Any,
    title: str,
    text: str,
    colours: Any,
    size: int,
) -> None:
    """One panel: a square of numbers, coloured by their values."""
    axes = figure.add_axes((_left(column), 0.5 - 0.475 * row, WIDTH, 0.37))
    low, high = float(np.min(numbers)), float(np.max(numbers))
    if colours is SIGNED:
        low, high = -max(-low, high), max(-low, high)
    place = (numbers - low) / (high - low)
    axes.imshow(colours(0.2 + 0.6 * place if colours is SIGNED else 0.85 * place))
    for (line, across), number in np.ndenumerate(numbers):
        ink = "white" if colours is POSITIVE and place[line, across] > 0.6 else "black"
        written = text.format(number + 0)
        axes.text(across, line, written, ha="center", va="center", size=size, color=ink)
    axes.set_title(title, size=11)
    axes.set_xticks([])
    axes.set_yticks([])


def _seam(figure: Figure, row: int, column: int, sign: str, text: str) -> None:
    """What holds between a panel and the next one."""
    x = _left(column) + WIDTH + GAP / 2
    y = 0.5 - 0.475 * row + 0.185
    figure.text(x, y + 0.015, text, ha="center", va="bottom", size=9.5, linespacing=1.4)
    figure.text(x, y, sign, ha="center", va="top", size=20)


if __name__ == "__main__":
    main()
