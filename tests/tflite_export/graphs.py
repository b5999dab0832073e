"""Small random integer graphs, legal by construction: Hypothesis strategies and fixed ones."""

import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from keras_qat.integer.ops.op import Activation, activation_range

ACTIVATIONS: tuple[Activation, ...] = ("linear", "relu", "relu6")
sides = st.integers(1, 3)
seeds = st.integers(0, 2**32 - 1)


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers from `2**low` to `2**high`, every octave alike.

    Whole powers of two are frequent: they make values fall half way between two integers.
    """
    whole = st.integers(math.ceil(low), math.floor(high))
    return (whole | st.floats(low, high)).map(lambda exponent: 2.0**exponent)


DEFAULT_SCALES = log_uniform(-8, 2)


@st.composite
def input_grids(draw: st.DrawFn, scale: st.SearchStrategy[float] = DEFAULT_SCALES) -> QuantParams:
    """A grid of 1 to 8 bits at the top of int8, its zero point anywhere on it."""
    levels = 2 ** draw(st.integers(1, 8))
    grid = QuantParams(
        np.float32(draw(scale)),
        zero_point=draw(st.integers(0, levels - 1)),
        qmin=0,
        qmax=levels - 1,
    )
    return grid.placed_in_int8()


@st.composite
def output_grids(draw: st.DrawFn, activation: Activation, scale: float) -> QuantParams:
    """A grid that the op itself implies: after a ReLU of 1 to 8 bits, else all of int8."""
    corner = st.sampled_from([-128, -127, -1, 0, 1, 126])
    zero_point = draw(corner | st.integers(-128, 126))
    if activation == "relu":
        zero_point = 128 - 2 ** draw(st.integers(1, 8))
    if activation == "relu6" and abs((6.0 / scale) % 1.0 - 0.5) < 1e-4:
        scale *= 1.01  # runtimes disagree about such a clamp, and legality refuses it
    free = QuantParams(np.float32(scale), zero_point=zero_point)
    low, high = activation_range(activation, free)
    return QuantParams(free.scale, zero_point=zero_point, qmin=low, qmax=high)


@st.composite
def weights(draw: st.DrawFn, shape: tuple[int, ...], axis: int) -> ops.QuantizedArray:
    """Integers of 1 to 8 bits (at 1 bit: -1 and 1), one scale per channel, some channels zero."""
    bits = draw(st.integers(1, 8))
    largest = max(1, 2 ** (bits - 1) - 1)
    generator = np.random.default_rng(draw(seeds))
    values = generator.integers(-largest, largest, shape, dtype=np.int8, endpoint=True)
    if bits == 1:
        values = np.where(values >= 0, 1, -1).astype(np.int8)
    if draw(st.booleans()):
        np.moveaxis(values, axis, 0)[generator.integers(shape[axis])] = 0
    exponents = generator.uniform(-4, 0, shape[axis])
    scale = 2.0 ** (np.rint(exponents) if draw(st.booleans()) else exponents)
    grid = QuantParams(scale.astype(np.float32), qmin=-largest, qmax=largest, axis=axis)
    return ops.QuantizedArray(values, grid)


@st.composite
def linear_graphs(
    draw: st.DrawFn,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    make: Callable[..., ops.LinearOp],
    channel_axis: int,
) -> IntegerGraph:
    """One linear op whose multipliers lie between `2**-12` and 4."""
    x_grid = draw(input_grids())
    weight = draw(weights(weight_shape, channel_axis))
    activation = draw(st.sampled_from(ACTIVATIONS))
    largest = float(x_grid.scale) * float(weight.qparams.scale.max())
    y_grid = draw(output_grids(activation, largest / draw(log_uniform(-8, 2))))
    generator = np.random.default_rng(draw(seeds))
    spread = float(y_grid.scale) * draw(st.sampled_from([0.0, 1.0, 30.0, 200.0]))
    builder = GraphBuilder()
    x = builder.add_input("x", input_shape, x_grid)
    bias = generator.normal(size=weight_shape[channel_axis]) * spread
    y = builder.add(make((x,), "y", weight, bias, activation), y_grid)
    return builder.build((y,))


@st.composite
def window_options(draw: st.DrawFn) -> dict[str, tuple[int, int] | str]:
    """Strides, a padding rule and a dilation."""
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    return {
        "strides": draw(pairs),
        "padding": draw(st.sampled_from(["same", "valid"])),
        "dilation": draw(st.just((1, 1)) | pairs),
    }


@st.composite
def broadcast_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of one rank, batch 1, in which either may have sizes of 1 beside the other's.

    Those of squeeze-and-excite, `(h, w, c)` with `(1, 1, c)`, are frequent.
    """
    full = (1, draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 9)))
    full = full if draw(st.booleans()) else (1, full[3])
    kind = draw(st.sampled_from(["same", "channels", "any"]))
    if kind == "same":
        return full, full
    ones = [draw(st.sampled_from([0, 1, 2])) if kind == "any" else 1 for _ in full[1:-1]]
    ones.append(draw(st.sampled_from([0, 1, 2])) if kind == "any" else 0)
    left = (1, *(1 if one == 2 else size for one, size in zip(ones, full[1:], strict=True)))
    right = (1, *(1 if one == 1 else size for one, size in zip(ones, full[1:], strict=True)))
    return (left, right) if draw(st.booleans()) else (right, left)


def one_op_graph(
    op: Callable[[GraphBuilder, str], ops.IntegerOp],
    shape: tuple[int, ...],
    x_grid: QuantParams,
    y_grid: QuantParams | None = None,
) -> IntegerGraph:
    """A graph of one op with one input; without `y_grid` the output keeps the input's."""
    builder = GraphBuilder()
    x = builder.add_input("x", shape, x_grid)
    y = builder.add(op(builder, x), y_grid or x_grid)
    return builder.build((y,))


def random_codes(graph: IntegerGraph, seed: int = 0, samples: int = 4) -> dict[str, np.ndarray]:
    """Integers on the grid of every input; the first example holds only the ends of the grid."""
    generator = np.random.default_rng(seed)
    codes = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        low, high = tensor.qparams.qmin, tensor.qparams.qmax
        shape = (samples, *tensor.shape[1:])
        codes[name] = generator.integers(low, high, shape, dtype=np.int8, endpoint=True)
        codes[name][0] = generator.choice(np.array([low, high], np.int8), shape[1:])
    return codes


def small_network(seed: int = 0, weight_bits: int = 4) -> IntegerGraph:
    """A network with every op, w4a4 by default, two outputs, and grids of several bit widths."""
    generator = np.random.default_rng(seed)
    largest = 2 ** (weight_bits - 1) - 1
    builder = GraphBuilder()

    def weight(shape: tuple[int, ...], axis: int) -> ops.QuantizedArray:
        values = generator.integers(-largest, largest, shape, dtype=np.int8, endpoint=True)
        scale = generator.uniform(0.02, 0.05, shape[axis]).astype(np.float32)
        return ops.QuantizedArray(values, QuantParams(scale, 0, -largest, largest, axis))

    def unsigned(bits: int) -> QuantParams:
        grid = QuantParams(np.float32(generator.uniform(0.5, 1.0) / 2**bits), 0, 0, 2**bits - 1)
        return grid.placed_in_int8()

    signed = QuantParams(np.float32(0.017), zero_point=3)
    x = builder.add_input("image", (1, 9, 8, 3), QuantParams(np.float32(0.02), zero_point=-5))
    x = builder.add(
        ops.Conv2D(
            (x,),
            "conv",
            weight((5, 3, 3, 3), 0),
            generator.normal(size=5) * 0.3,
            "relu",
            (2, 1),
            "same",
            weight_bits=weight_bits,
        ),
        unsigned(4),
    )
    short = x
    x = builder.add(
        ops.DepthwiseConv2D(
            (x,),
            "depthwise",
            weight((1, 3, 3, 5), 3),
            generator.normal(size=5),
            padding="same",
            weight_bits=weight_bits,
        ),
        signed,
    )
    x = builder.add(ops.Add((x, short), "sum", "relu"), unsigned(4))
    grid = builder.tensor(x).qparams
    x = builder.add(ops.Pad((x,), "pad", ((1, 0), (0, 2))), grid)
    x = builder.add(ops.MaxPool2D((x,), "max_pool", (2, 2), (2, 2), "same"), grid)
    x = builder.add(ops.AveragePool2D((x,), "average_pool", (2, 2), (1, 1)), grid)
    mean = builder.add(ops.Mean((x,), "mean"), QuantParams(np.float32(0.004), zero_point=-128))
    x = builder.add(
        ops.Conv2D(
            (x,),
            "expand",
            weight((4, 1, 1, 5), 0),
            generator.normal(size=4),
            weight_bits=weight_bits,
        ),
        signed,
    )
    high = QuantParams(signed.scale, 3, -10, 127)
    table = np.sort(generator.integers(-128, 127, 256, dtype=np.int8, endpoint=True))
    x = builder.add(ops.Lookup((x,), "lookup", table), signed)
    x = builder.add(ops.Maximum((x,), "clamp_low", -10), high)
    x = builder.add(ops.Minimum((x,), "clamp_high", 20), QuantParams(signed.scale, 3, -10, 20))
    grid = builder.tensor(x).qparams
    flat = int(np.prod(builder.tensor(x).shape))
    x = builder.add(ops.Reshape((x,), "flat", (flat,)), grid)
    x = builder.add(
        ops.FullyConnected(
            (x,),
            "logits",
            weight((7, flat), 0),
            generator.normal(size=7),
            weight_bits=weight_bits,
        ),
        signed,
    )
    x = builder.add(ops.Softmax((x,), "probabilities"), ops.SOFTMAX_OUTPUT)
    return builder.build((x, mean))
