"""Sequences, which are images of one row: the ops that slide a window over them, end to end."""

import functools

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import input_grids, linear_graphs, log_uniform, sides
from tests.tflite_export.harness import assert_exact, exact_law

paddings = st.sampled_from(["same", "valid"])
fewer = settings(exact_law, max_examples=settings.default.max_examples)
"""Images have more."""
lengths = st.integers(7, 12)


@st.composite
def convolutions(draw: st.DrawFn) -> IntegerGraph:
    channels, filters = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    depthwise = draw(st.booleans())
    taps = draw(sides)
    kernel = (1, 1, taps, 2 * channels) if depthwise else (filters, 1, taps, channels)
    options = {
        "strides": (1, draw(sides)),
        "padding": draw(paddings),
        "dilation": (1, draw(sides)),
    }
    make = functools.partial(_linear, ops.DepthwiseConv2D if depthwise else ops.Conv2D, options)
    shape = (1, 1, draw(lengths), channels)
    return draw(linear_graphs(shape, kernel, make, 3 if depthwise else 0))


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> IntegerGraph:
    """As Keras makes them larger: by the stride, or by what the window reaches beyond it."""
    channels, filters = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    length, taps, stride, padding = draw(lengths), draw(sides), draw(sides), draw(paddings)
    reach = max(taps - stride, 0)
    size = length * stride + (reach if padding == "valid" else 0)
    options = {
        "strides": (1, stride),
        "padding": padding if reach else "valid",
        "output_size": (1, size),
    }
    make = functools.partial(_linear, ops.TransposeConv2D, options)
    shape = (1, 1, length, channels)
    return draw(linear_graphs(shape, (filters, 1, taps, channels), make, 0))


@st.composite
def moving_ops(draw: st.DrawFn) -> IntegerGraph:
    """Everything else that a sequence goes through, one after another."""
    grid = draw(input_grids())
    builder = GraphBuilder()
    x = builder.add_input("x", (1, draw(lengths), draw(st.integers(1, 5))), grid)
    x = builder.add(ops.Reshape((x,), "image", (1, *builder.tensor(x).shape[1:])), grid)
    window = {"pool_size": (1, draw(sides)), "strides": (1, draw(sides))}
    amounts = st.tuples(st.integers(0, 2), st.integers(0, 2))
    x = builder.add(ops.Pad((x,), "padded", ((0, 0), draw(amounts))), grid)
    x = builder.add(ops.MaxPool2D((x,), "largest", **window, padding="same"), grid)
    x = builder.add(ops.RepeatPixels((x,), "longer", (1, 3)), grid)
    x = builder.add(ops.AveragePool2D((x,), "average", **window, padding=draw(paddings)), grid)
    mean = builder.add(ops.Mean((x,), "mean"), QuantParams(np.float32(draw(log_uniform(-4, 2)))))
    y = builder.add(ops.Crop((x,), "y", ((0, 0), (1, 0))), grid)
    return builder.build((y, mean))


def _linear(op, options, inputs, output, weight, bias, activation):
    return op(inputs, output, weight, bias, activation, **options)


@fewer
@given(convolutions())
def test_every_runtime_computes_convolutions(graph):
    assert_exact(graph)


@fewer
@given(transposed_convolutions())
def test_every_runtime_computes_transposed_convolutions(graph):
    assert_exact(graph)


@fewer
@given(moving_ops())
def test_every_runtime_moves_and_pools(graph):
    assert_exact(graph)
