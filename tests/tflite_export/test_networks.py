"""Whole networks: runtimes fuse and reorder what they see together."""

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops, run
from tests.tflite_export.graphs import random_codes, small_network
from tests.tflite_export.harness import assert_exact
from tflite_export.file.runtimes import run_litert
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target


@pytest.mark.parametrize("weight_bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("seed", range(4))
def test_a_network_of_every_op(seed, weight_bits):
    assert_exact(small_network(seed, weight_bits), seed, samples=8)


@pytest.mark.parametrize("seed", range(4))
def test_xnnpack_computes_the_outputs_alone_as_with_every_tensor_open(seed):
    """With only the true outputs open, XNNPACK is free to fuse."""
    stored = legalize(small_network(seed), get_target("litert"))
    graph, file = stored.graph, emit_model(stored)
    codes = random_codes(graph, seed, samples=16)
    actual = run_litert(write_model(file), file, codes, reference=False)
    expected = run(graph, codes, "xnnpack")
    for name in graph.outputs:
        np.testing.assert_array_equal(actual[name], expected[name])


@pytest.mark.parametrize("zero_point", [-128, 5])
def test_a_pad_before_a_strided_convolution(zero_point):
    """The usual first block of a mobile network; XNNPACK folds the pad into the convolution."""
    generator = np.random.default_rng(0)
    grid = QuantParams(np.float32(0.02), zero_point=zero_point)
    values = generator.integers(-7, 8, (8, 3, 3, 3)).astype(np.int8)
    weight = QuantParams(np.full(8, 0.05, np.float32), 0, -7, 7, 0)
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 9, 9, 3), grid)
    x = builder.add(ops.Pad((x,), "pad", ((0, 1), (0, 1))), grid)
    op = ops.Conv2D(
        (x,), "y", ops.QuantizedArray(values, weight), generator.normal(size=8), "relu", (2, 2)
    )
    y = builder.add(op, QuantParams(np.float32(0.1), 112, 112, 127))
    assert_exact(builder.build((y,)), samples=8)


def test_a_tensor_that_is_output_and_input_at_once():
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 4, 4, 2), QuantParams(np.float32(0.1)))
    mean = builder.add(ops.Mean((x,), "mean"), QuantParams(np.float32(0.05)))
    y = builder.add(ops.Softmax((mean,), "y"), ops.SOFTMAX_OUTPUT)
    assert_exact(builder.build((mean, y)))
