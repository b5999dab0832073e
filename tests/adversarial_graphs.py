"""Small integer graphs with adversarial numbers: far scales, extreme weights, odd shapes."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from keras_qat.integer.ops.op import activation_range
from tests.tflite_export.graphs import random_codes
from tflite_export import export
from tflite_export.file.writer import read_model
from tflite_export.legal.legality import runnable_profiles
from tflite_export.legal.legalize import legalize
from tflite_export.proof.extremes import extreme_inputs
from tflite_export.proof.verification import verify_runtime
from tflite_export.targets import get_target

FURTHER = 200
_MOST_OPS = 4


def adversarial_graph(seed: int) -> IntegerGraph:
    """One op in half of all graphs, else up to four in a row.

    Raises:
        ValueError: the draw is no graph, such as a bias beyond int32.
    """
    return _Drawing(np.random.default_rng(seed)).graph()


def check_file(graph: IntegerGraph, path: pathlib.Path, target: str, seed: int) -> None:
    """The file in every runtime of the target, on extremes and further inputs.

    Raises:
        AssertionError: a runtime answers otherwise than the graph.
    """
    stored = legalize(graph, get_target(target))
    data = path.read_bytes()
    file = read_model(data)
    for given in (extreme_inputs(stored.graph), random_codes(stored.graph, seed, FURTHER)):
        for profile in runnable_profiles(stored.graph, get_target(target)):
            found = verify_runtime(stored.graph, data, file, profile, given)
            wrong = {each.name: each.differing for each in found.tensors if each.differing}
            assert not wrong, (target, profile, wrong)


def prove_graph(seed: int, target: str, folder: pathlib.Path) -> None:
    """Exports one graph and checks its file.

    Raises:
        ValueError, ExportError, VerificationError: it is refused.
        AssertionError: a runtime answers otherwise than the graph.
    """
    graph, path = adversarial_graph(seed), folder / "net.tflite"
    export(graph, path, target=target, verbose=False)
    check_file(graph, path, target, seed)


class _Drawing:
    """Draws one graph."""

    def __init__(self, generator: np.random.Generator):
        self._draws = generator
        self._builder = GraphBuilder()
        self._count = 0

    def graph(self) -> IntegerGraph:
        x = self._input()
        for _ in range(1 if self._rarely(2) else self._whole(2, _MOST_OPS)):
            x = self._step(x)
        return self._builder.build((x,))

    # numbers

    def _whole(self, low: int, high: int) -> int:
        return int(self._draws.integers(low, high, endpoint=True))

    def _rarely(self, of: int = 4) -> bool:
        return self._whole(1, of) == of

    def _one_of(self, *choices):
        return choices[self._whole(0, len(choices) - 1)]

    def _scale(self) -> np.float32:
        """Mostly near 1, often a power of two or next to one, rarely at the end of float32."""
        kind = self._whole(0, 9)
        if kind == 0:
            exponent = self._draws.uniform(-149, 127)
        elif kind < 3:
            return np.float32(self._one_of(0.1, 0.02, 1 / 255, 1 / 127, 2 / 255, 1 / 3, 1e-6))
        else:
            exponent = self._draws.uniform(-12, 6)
        if self._rarely(3):
            exponent = np.rint(exponent)
        scale = np.float32(2.0**exponent)
        if self._rarely(6):
            scale = np.nextafter(scale, np.float32(self._one_of(0, np.inf)))
        return scale if 0 < scale < np.inf else np.float32(1)

    def _multiplier(self) -> float:
        """Mostly below 1, rarely at the ends of what a kernel takes."""
        if self._rarely(8):
            return 2.0 ** self._one_of(-31.01, -31, -30.99, -24, -16, 7.99, 8, 0.999999, 1, 3)
        return 2.0 ** self._draws.uniform(-14, 3)

    def _grid(self, scale: float) -> QuantParams:
        """All of int8, or the top of it, with the zero point at an end or anywhere."""
        scale = np.float32(scale)
        if self._rarely(3):
            levels = 2 ** self._whole(1, 7)
            zero = self._one_of(0, levels - 1, self._whole(0, levels - 1))
            return QuantParams(scale, zero, 0, levels - 1).placed_in_int8()
        return QuantParams(scale, self._one_of(-128, 0, 127, self._whole(-128, 127)))

    def _output(self, scale: float, activation: str) -> QuantParams:
        """The grid that an op with this activation implies."""
        if not 2.0**-149 <= scale < 2.0**127:
            scale = 1.0
        zero = self._one_of(-128, 0, self._whole(-128, 126))
        if activation == "relu":
            zero = 128 - 2 ** self._whole(1, 8)
        free = QuantParams(np.float32(scale), zero)
        low, high = activation_range(activation, free)
        return QuantParams(free.scale, zero, low, high)

    def _weights(self, shape: tuple[int, ...], axis: int) -> ops.QuantizedArray:
        """Random, all at an end, alternating, a single one, or 0 in whole channels."""
        kind = self._whole(0, 5)
        values = self._draws.integers(-127, 128, shape)
        if kind == 1:
            values = np.full(shape, self._one_of(-127, 127, 1))
        elif kind == 2:
            values = 127 * (1 - 2 * (np.indices(shape).sum(axis=0) % 2))
        elif kind == 3:
            values = np.zeros(shape, int)
            values.flat[self._whole(0, values.size - 1)] = self._one_of(-127, 1, 127)
        elif kind == 4:
            values = np.sign(values)
        if self._rarely():
            np.moveaxis(values, axis, 0)[self._whole(0, shape[axis] - 1)] = 0
        scales = np.full(shape[axis], self._scale())
        if self._rarely(2):
            spread = 2.0 ** self._draws.uniform(-self._one_of(1, 8, 20), 0, shape[axis])
            scales = np.maximum(scales * spread.astype(np.float32), np.float32(2.0**-140))
        grid = QuantParams(scales.astype(np.float32), 0, -127, 127, axis)
        return ops.QuantizedArray(values.astype(np.int8), grid)

    # tensors

    def _name(self) -> str:
        self._count += 1
        return f"n{self._count}"

    def _input(self, shape: tuple[int, ...] | None = None, grid: QuantParams | None = None) -> str:
        if shape is None:
            sides = (self._whole(1, 7), self._whole(1, 7), self._one_of(1, 2, 3, 5, 8, 17))
            shape = self._one_of((1, *sides), (1, *sides), (1, sides[2]), (1, *sides[1:]))
        name = self._name()
        return self._builder.add_input(name, shape, grid or self._grid(self._scale()))

    def _shape(self, x: str) -> tuple[int, ...]:
        return self._builder.tensor(x).shape

    def _of(self, x: str) -> QuantParams:
        return self._builder.tensor(x).qparams

    # steps

    def _step(self, x: str) -> str:
        image = len(self._shape(x)) == 4
        steps: list[Callable[[str], str]] = [self._dense, self._pair, self._square, self._function]
        steps += [self._softmax, self._moved, self._bounded]
        if image:
            steps += [self._convolution, self._depthwise, self._transposed, self._pooled]
            steps += [self._mean, self._whole_image, self._prelu, self._enlarged, self._padded]
        return self._one_of(*steps)(x)

    def _linear(self, x: str, kind: type, weight: ops.QuantizedArray, **options) -> str:
        activation = self._one_of("linear", "linear", "relu", "relu6")
        scale = float(np.float32(self._of(x).scale * weight.qparams.scale.max()))
        channels = weight.qparams.scale.size
        unit = np.float32(self._of(x).scale) * weight.qparams.scale
        steps = self._one_of(0.0, 0.0, 1.0, 1e3, 2.0**30, 2.0**31)
        bias = self._draws.uniform(-1, 1, channels) * steps * unit.astype(np.float64)
        if self._rarely():
            bias = (np.rint(bias / np.maximum(unit, 1e-45)) + 0.5) * unit
        op = kind((x,), self._name(), weight, bias, activation, **options)
        return self._builder.add(op, self._output(scale / self._multiplier(), activation))

    def _dense(self, x: str) -> str:
        features = self._shape(x)[-1]
        units = self._one_of(1, 2, 5, 9)
        return self._linear(x, ops.FullyConnected, self._weights((units, features), 0))

    def _window(self, x: str) -> dict:
        """A kernel, strides beyond it at times, and gaps only without strides."""
        size = [self._whole(1, min(4, side)) for side in self._shape(x)[1:3]]
        padding = self._one_of("same", "valid")
        strides, gaps = (self._whole(1, 3), self._whole(1, 3)), (1, 1)
        reach = [self._shape(x)[axis + 1] for axis in range(2)]
        if self._rarely():
            strides, gaps = (1, 1), (self._whole(1, 2), self._whole(1, 2))
            if padding == "valid":
                size = [
                    max(1, (side - 1) // gap + 1) for side, gap in zip(reach, gaps, strict=True)
                ]
        return {"size": tuple(size), "strides": strides, "padding": padding, "dilation": gaps}

    def _convolution(self, x: str) -> str:
        window = self._window(x)
        channels = self._shape(x)[3]
        groups = channels if self._rarely(6) else 1
        filters = groups * self._one_of(1, 2, 3)
        shape = (filters, *window.pop("size"), channels // groups)
        return self._linear(x, ops.Conv2D, self._weights(shape, 0), **window)

    def _depthwise(self, x: str) -> str:
        window = self._window(x)
        shape = (1, *window.pop("size"), self._shape(x)[3] * self._whole(1, 2))
        return self._linear(x, ops.DepthwiseConv2D, self._weights(shape, 3), **window)

    def _transposed(self, x: str) -> str:
        window = self._window(x)
        size, strides = window["size"], window["strides"]
        sides = self._shape(x)[1:3]
        if window["padding"] == "same":
            output = tuple(side * step for side, step in zip(sides, strides, strict=True))
        else:
            output = tuple(
                (side - 1) * step + taps
                for side, step, taps in zip(sides, strides, size, strict=True)
            )
        weight = self._weights((self._whole(1, 4), *size, self._shape(x)[3]), 0)
        options = {"strides": strides, "padding": window["padding"], "output_size": output}
        return self._linear(x, ops.TransposeConv2D, weight, **options)

    def _pair(self, x: str) -> str:
        kind = self._one_of(ops.Add, ops.Sub, ops.Mul, ops.MaximumOfTwo, ops.MinimumOfTwo)
        kind = self._one_of(kind, ops.Concatenate)
        shape, grid = self._shape(x), self._of(x)
        if kind is ops.Concatenate:
            others = [self._input(shape, grid) for _ in range(self._one_of(1, 2, 11))]
            return self._builder.add(kind((x, *others), self._name(), len(shape) - 1), grid)
        if self._rarely(2):
            shape = (1, *(self._one_of(1, size) for size in shape[1:]))
        if kind in (ops.MaximumOfTwo, ops.MinimumOfTwo):
            other = self._input(shape, grid)
            return self._builder.add(kind((x, other), self._name()), grid)
        other = self._input(shape, self._grid(self._one_of(self._scale(), grid.scale)))
        return self._joined(kind, x, other)

    def _joined(self, kind: type, x: str, other: str) -> str:
        activation = self._one_of("linear", "relu", "relu6")
        scales = [float(self._of(each).scale) for each in (x, other)]
        scale = scales[0] * scales[1] if kind is ops.Mul else max(scales)
        inputs = (x, other) if self._rarely(2) else (other, x)
        op = kind(inputs, self._name(), activation)
        return self._builder.add(op, self._output(scale / self._multiplier(), activation))

    def _square(self, x: str) -> str:
        return self._joined(self._one_of(ops.Mul, ops.Mul, ops.Add, ops.Sub), x, x)

    def _function(self, x: str) -> str:
        values = self._one_of(
            np.arange(-128, 128), self._draws.integers(-128, 128, 256), np.full(256, -128)
        )
        op = ops.Lookup((x,), self._name(), values.astype(np.int8))
        return self._builder.add(op, QuantParams(self._scale(), self._whole(-128, 127)))

    def _softmax(self, x: str) -> str:
        return self._builder.add(ops.Softmax((x,), self._name()), ops.SOFTMAX_OUTPUT)

    def _bounded(self, x: str) -> str:
        grid = self._of(x)
        bound = self._whole(grid.qmin, grid.qmax)
        if self._rarely(2):
            high = QuantParams(grid.scale, grid.zero_point, max(grid.qmin, bound), grid.qmax)
            return self._builder.add(ops.Maximum((x,), self._name(), bound), high)
        low = QuantParams(grid.scale, grid.zero_point, grid.qmin, min(grid.qmax, bound))
        return self._builder.add(ops.Minimum((x,), self._name(), bound), low)

    def _moved(self, x: str) -> str:
        shape = self._shape(x)
        axis = self._whole(1, len(shape) - 1)
        order = self._draws.permutation(len(shape) - 1) + 1
        kinds = [
            lambda: ops.Transpose((x,), self._name(), tuple(int(each) for each in order)),
            lambda: ops.Reshape((x,), self._name(), (int(np.prod(shape)),)),
            lambda: ops.Gather((x,), self._name(), (shape[axis] - 1, 0, 0), axis),
        ]
        return self._builder.add(self._one_of(*kinds)(), self._of(x))

    def _pooled(self, x: str) -> str:
        window = self._window(x)
        kind = self._one_of(ops.MaxPool2D, ops.AveragePool2D)
        op = kind((x,), self._name(), window["size"], window["strides"], window["padding"])
        return self._builder.add(op, self._of(x))

    def _whole_image(self, x: str) -> str:
        kind = self._one_of(ops.MaxPool2D, ops.AveragePool2D)
        size = self._shape(x)[1:3]
        padding = self._one_of("same", "valid")
        return self._builder.add(kind((x,), self._name(), size, size, padding), self._of(x))

    def _mean(self, x: str) -> str:
        scale = float(self._of(x).scale) / self._multiplier()
        return self._builder.add(ops.Mean((x,), self._name()), self._output(scale, "linear"))

    def _prelu(self, x: str) -> str:
        shape = tuple(self._one_of(1, size) for size in self._shape(x)[1:])
        scale = np.asarray(self._one_of(1 / 127, 2.0**-9, self._scale()), np.float32)
        slopes = self._draws.integers(-127, 128, shape).astype(np.int8)
        array = ops.QuantizedArray(slopes, QuantParams(scale, 0, -127, 127))
        output = self._output(float(self._of(x).scale) / self._multiplier(), "linear")
        return self._builder.add(ops.PReLU((x,), self._name(), array), output)

    def _enlarged(self, x: str) -> str:
        kind = self._one_of(ops.RepeatPixels, ops.InterpolatePixels)
        factors = (self._one_of(1, 2, 4), self._one_of(2, 3) if kind is ops.RepeatPixels else 2)
        return self._builder.add(kind((x,), self._name(), factors), self._of(x))

    def _padded(self, x: str) -> str:
        if self._rarely(2):
            pads = ((self._whole(0, 2), self._whole(0, 1)), (self._whole(0, 1), self._whole(0, 3)))
            return self._builder.add(ops.Pad((x,), self._name(), pads), self._of(x))
        edges = tuple((self._whole(0, (size - 1) // 2), 0) for size in self._shape(x)[1:3])
        return self._builder.add(ops.Crop((x,), self._name(), edges), self._of(x))
