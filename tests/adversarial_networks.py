"""Small Keras models with adversarial weights and calibration data, against their files."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np

import keras_qat
from tests.adversarial_graphs import FURTHER, check_file
from tests.models import randomize
from tests.seams import op_differences, target_flips
from tflite_export import export

layers = keras.layers
ops = keras.ops
_CONFIGS = (
    *(keras_qat.LSQConfig, keras_qat.STEConfig, keras_qat.DoReFaConfig, keras_qat.LSQConfig),
)


def prove_network(seed: int, target: str, folder: pathlib.Path) -> None:
    """Quantizes and exports one network, and compares its file with graph and model.

    Raises:
        ValueError, ExportError, VerificationError: it is refused.
        AssertionError: a runtime or the graph answers otherwise than the model.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    draws, path = np.random.default_rng(seed), folder / "net.tflite"
    model = _with_adversarial_weights(_network(draws), draws)
    x = _calibration(model.inputs[0].shape[1:], draws)
    names = ("weight_bits", "activation_bits", "first_and_last_bits", "input_bits", "add_bits")
    bits = {name: int(draws.choice([8, 8, 8, 4, 2, 1, 3, 7])) for name in names}
    kind = _CONFIGS[draws.integers(len(_CONFIGS))]
    config = kind(**bits, per_channel=bool(draws.integers(2)))
    quantized = keras_qat.quantize(model, config, calibration_data=x)
    quantized.compute_as(target)
    export(quantized, path, target=target, samples=x[:4], verbose=False)
    graph = quantized.to_integer()
    check_file(graph, path, target, seed)
    (name,) = graph.inputs
    grid = graph.tensors[name].qparams
    codes = draws.integers(grid.qmin, grid.qmax + 1, (FURTHER, *x.shape[1:]))
    codes[0], codes[1] = grid.qmin, grid.qmax
    further = grid.dequantize(codes)
    if target == "tflm":
        flips = target_flips(quantized, further, target)
        assert flips == {}, flips
    else:
        found = op_differences(graph, quantized.layer_codes(further))
        far = {each.name: each.largest for each in found if each.largest > 1}
        assert not far, far


def _network(draws: np.random.Generator) -> keras.Model:
    sides = [int(draws.integers(1, 9)) for _ in range(2)]
    shape = (*sides, int(draws.choice([1, 2, 3, 5])))
    if draws.integers(4) == 0:
        shape = shape[2:]
    inputs = x = keras.Input(shape)
    for _ in range(draws.integers(1, 5)):
        x = _step(x, draws)
    return randomize(keras.Model(inputs, x))


def _step(x: Any, draws: np.random.Generator) -> Any:
    channels, image = x.shape[-1], len(x.shape) == 4
    activation = draws.choice(["linear", "relu", "relu6"])
    units = int(draws.choice([1, 2, channels]))
    steps = [
        lambda: layers.Dense(units, activation=activation)(x),
        lambda: layers.BatchNormalization()(x),
        lambda: x * x,
        lambda: ops.square(x),
        lambda: x - x,
        lambda: layers.Add()([x, layers.Dense(channels)(x)]),
        lambda: layers.Multiply()([x, layers.Dense(1, activation="sigmoid")(x)]),
        lambda: layers.Activation(str(draws.choice(["sigmoid", "tanh", "exponential", "gelu"])))(x),
        lambda: layers.Softmax()(x),
        lambda: layers.Rescaling(float(draws.choice([1e-3, -2.0, 500.0])))(x),
    ]
    if image:
        size = x.shape[1:3]
        window = tuple(int(draws.integers(1, min(3, side) + 1)) for side in size)
        strides = int(draws.integers(1, 4))
        padding = str(draws.choice(["same", "valid"]))
        options = {"strides": strides, "padding": padding, "activation": activation}
        whole = (layers.AveragePooling2D, layers.MaxPooling2D)[draws.integers(2)]
        gated = layers.Dense(channels, activation="hard_sigmoid")
        steps += [
            lambda: layers.Conv2D(units, window, **options)(x),
            lambda: layers.Conv2D(units, window, **options)(x),
            lambda: layers.DepthwiseConv2D(window, **options)(x),
            lambda: layers.AveragePooling2D(window, strides, padding=padding)(x),
            lambda: whole(size)(x),
            lambda: layers.GlobalAveragePooling2D(keepdims=bool(draws.integers(2)))(x),
            lambda: layers.Multiply()([x, gated(layers.GlobalAveragePooling2D(keepdims=True)(x))]),
            lambda: x - layers.GlobalAveragePooling2D(keepdims=True)(x),
            lambda: layers.PReLU(shared_axes=[1, 2])(x),
            lambda: layers.ZeroPadding2D(((2, 0), (0, 1)))(x),
            lambda: layers.Flatten()(x),
        ]
    return steps[draws.integers(len(steps))]()


def _with_adversarial_weights(model: keras.Model, draws: np.random.Generator) -> keras.Model:
    """Whole channels of 0, or weights that are tiny, huge, equal, or of opposite signs."""
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        kernel = np.array(layer.kernel)
        kind = draws.integers(8)
        if kind == 0:
            kernel[..., 0] = 0.0
        elif kind == 1:
            kernel *= draws.choice([1e-6, 1e-3, 1e3, 1e6])
        elif kind == 2:
            kernel[:] = kernel.flat[0]
        elif kind == 3:  # a contrast detector: sums that cancel on one colour
            kernel = np.abs(kernel) * (1 - 2 * (np.indices(kernel.shape).sum(axis=0) % 2))
        elif kind == 4:
            kernel.flat[0] *= 1e3
        layer.kernel.assign(kernel)
    return model


def _calibration(shape: tuple[int, ...], draws: np.random.Generator) -> np.ndarray:
    """Ordinary data, one colour, one colour nearly, a constant channel, or far numbers."""
    x = draws.normal(size=(8, *shape)).astype(np.float32)
    kind = draws.integers(7)
    if kind == 0:
        x = np.broadcast_to(x[:1, ..., :1] * 0 + np.float32(0.5), x.shape).copy()
    elif kind == 1:
        x = np.float32(0.5) + np.float32(1e-3) * x
    elif kind == 2:
        x[..., 0] = 3.0
    elif kind == 3:
        x *= np.float32(draws.choice([1e-6, 1e4]))
    elif kind == 4:
        x = np.abs(x)
    return x
