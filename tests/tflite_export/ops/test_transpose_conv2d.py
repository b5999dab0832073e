"""TRANSPOSE_CONV end to end."""

import functools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import linear_graphs, one_op_graph, sides
from tests.tflite_export.harness import assert_exact, exact_law
from tflite_export.errors import ExportError

pairs = st.tuples(sides, sides)


@st.composite
def transpose_conv_graphs(draw: st.DrawFn) -> IntegerGraph:
    """Every output size that has a window at every pixel of the input."""
    channels, filters = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    spatial, kernel, strides = draw(pairs), draw(pairs), draw(pairs)
    padding = draw(st.sampled_from(["same", "valid"]))
    if padding == "same":
        kernel = tuple(map(max, kernel, strides))
    reach = (1, 1) if padding == "same" else kernel
    output_size = tuple(
        (size - 1) * stride + taps + draw(st.integers(0, stride - 1))
        for size, stride, taps in zip(spatial, strides, reach, strict=True)
    )
    make = functools.partial(
        _transpose_conv, {"strides": strides, "padding": padding, "output_size": output_size}
    )
    return draw(linear_graphs((1, *spatial, channels), (filters, *kernel, channels), make, 0))


def _transpose_conv(options, inputs, output, weight, bias, activation):
    return ops.TransposeConv2D(inputs, output, weight, bias, activation, **options)


@exact_law
@given(transpose_conv_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)


def graph_of(kernel, strides, padding, output_size) -> IntegerGraph:
    values = np.ones((2, *kernel, 3), np.int8)
    grid = QuantParams(np.full(2, 0.01, np.float32), 0, -1, 1, 0)
    return one_op_graph(
        lambda _, x: ops.TransposeConv2D(
            (x,),
            "y",
            ops.QuantizedArray(values, grid),
            np.zeros(2),
            strides=strides,
            padding=padding,
            output_size=output_size,
        ),
        (1, 2, 3, 3),
        QuantParams(np.float32(0.05)),
    )


def test_a_window_with_holes_and_same_padding_is_refused():
    graph = graph_of((3, 1), (2, 2), "same", (4, 6))
    with pytest.raises(ExportError, match=r"no smaller than its strides.*window \(3, 1\)"):
        assert_exact(graph)


def test_a_size_that_no_window_yields_is_refused():
    with pytest.raises(ValueError, match=r"over \(4, 5\) has \(2, 3\) positions"):
        graph_of((2, 2), (2, 2), "valid", (4, 5))
