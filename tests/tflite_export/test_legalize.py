"""Headroom and scale vectors: the same real network, more room for roundings."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops, run
from keras_qat.integer.headroom import add_headroom, headroom_bits
from tests.tflite_export.graphs import linear_graphs, random_codes, small_network
from tests.tflite_export.harness import exact_law
from tflite_export.errors import ExportError
from tflite_export.legal.legalize import legalize, with_channel_scales
from tflite_export.targets import get_target


def dense(values, scale, bias=0.0, x_scale=1.0, y_scale=1.0) -> IntegerGraph:
    values = np.asarray(values, np.int8)
    grid = QuantParams(np.full(values.shape[0], scale, np.float32), 0, -127, 127, 0)
    builder = GraphBuilder()
    x = builder.add_input("x", (1, values.shape[1]), QuantParams(np.float32(x_scale)))
    op = ops.FullyConnected(
        (x,), "y", ops.QuantizedArray(values, grid), np.full(values.shape[0], bias)
    )
    return builder.build((builder.add(op, QuantParams(np.float32(y_scale))),))


def shifts(graph: IntegerGraph) -> list[int]:
    return headroom_bits(graph.ops[0], graph).tolist()


@pytest.mark.parametrize(
    ("largest", "expected"), [(1, 6), (3, 5), (7, 4), (15, 3), (31, 2), (63, 1), (64, 0), (127, 0)]
)
def test_every_bit_width_fills_int8(largest, expected):
    assert shifts(dense([[largest, -largest]], 2.0**-4)) == [expected]


def test_channels_have_shifts_of_their_own_and_zero_channels_none():
    assert shifts(dense([[1, 0], [0, 0], [0, -127], [5, -6]], 2.0**-4)) == [6, 0, 0, 4]


def test_large_multipliers_need_no_headroom():
    assert shifts(dense([[1]], 0.5)) == [0]
    assert shifts(dense([[1]], 0.49)) == [6]


def test_a_large_bias_leaves_less_room():
    assert shifts(dense([[1]], 2.0**-10, bias=2.0**15)) == [5]


def test_a_small_multiplier_leaves_less_room():
    assert shifts(dense([[1]], 2.0**-28)) == [3]


@st.composite
def dense_graphs(draw: st.DrawFn) -> IntegerGraph:
    return draw(linear_graphs((1, 9), (4, 9), ops.FullyConnected, 0))


@exact_law
@given(dense_graphs())
def test_real_weights_and_biases_are_kept(graph):
    (before,), (after,) = graph.ops, add_headroom(graph).ops
    bits = headroom_bits(before, graph)
    assert np.abs(after.weight.values).max() <= 127
    np.testing.assert_array_equal(
        after.weight.values, before.weight.values.astype(int) << bits[:, None]
    )
    np.testing.assert_array_equal(
        after.weight.qparams.scale * 2.0**bits, before.weight.qparams.scale
    )
    np.testing.assert_array_equal(after.bias, before.bias)


def test_headroom_is_added_once():
    once = add_headroom(small_network())
    twice = add_headroom(once)
    for first, second in zip(once.ops, twice.ops, strict=True):
        if isinstance(first, ops.LinearOp):
            np.testing.assert_array_equal(second.weight.values, first.weight.values)


def test_headroom_brings_double_rounding_near_float_rounding():
    """The reason of the pass: fewer elements of TFLM differ from the float32 rounding."""
    graph = small_network()
    codes = random_codes(graph, samples=64)
    flips = []
    for version in (graph, add_headroom(graph)):
        both = [run(version, codes, p, keep_all=True)["conv"] for p in ("tflm", "xnnpack")]
        flips.append(np.count_nonzero(both[0] != both[1]))
    assert flips[1] * 4 < flips[0]


@pytest.mark.parametrize(("target", "shape"), [("litert", (2,)), ("tflm", ())])
def test_a_scalar_scale_becomes_a_vector_where_a_kernel_differs_on_it(target, shape):
    graph = dense([[1, 2], [3, 4]], 0.25)
    (op,) = graph.ops
    scalar = ops.QuantizedArray(op.weight.values, QuantParams(np.float32(0.25)))
    graph = dataclasses.replace(graph, ops=(dataclasses.replace(op, weight=scalar),))
    (stated,) = with_channel_scales(graph, get_target(target)).ops
    assert stated.weight.qparams.scale.shape == shape
    assert np.all(stated.weight.qparams.scale == 0.25)


def test_legalize_checks_first():
    with pytest.raises(ExportError, match=r"must lie within \+-127"):
        legalize(dense([[-128]], 0.25), get_target("tflm"))
