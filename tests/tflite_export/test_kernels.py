"""The scratch of vendors' kernels: sizes that the formulas of their sources yield, by hand."""

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops
from tests.tflite_export.test_memory import weight
from tflite_export import export, plan_memory
from tflite_export.arena.kernels import scratch_of
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import KERNELS, TARGETS, target_with

GRID = QuantParams(np.float32(0.1))
ARM, VENDORS = KERNELS[1:3], KERNELS[1:]


def network(make, shape, grid=GRID):
    builder = GraphBuilder()
    x = builder.add_input("x", shape, GRID)
    return builder.build((builder.add(make((x,), "y"), grid),))


def convolution(shape, kernel, bits=8, strides=(1, 1), padding="same", groups=1, grid=GRID):
    filters = kernel[0]
    held = weight((filters, *kernel[1:], shape[-1] // groups), 0, bits)
    return network(
        lambda x, y: ops.Conv2D(
            x, y, held, np.zeros(filters), "linear", strides, padding, weight_bits=bits
        ),
        shape,
        grid,
    )


def depthwise(shape, window, multiplier=1, bits=8, strides=(1, 1), padding="same"):
    channels = shape[-1] * multiplier
    held = weight((1, *window, channels), 3, bits)
    return network(
        lambda x, y: ops.DepthwiseConv2D(
            x, y, held, np.zeros(channels), "linear", strides, padding, weight_bits=bits
        ),
        shape,
    )


def transposed(shape, filters, strides):
    held = weight((filters, 3, 3, shape[-1]), 0, 8)
    size = tuple(side * stride for side, stride in zip(shape[1:3], strides, strict=True))
    return network(
        lambda x, y: ops.TransposeConv2D(
            x, y, held, np.zeros(filters), "linear", strides, "same", output_size=size
        ),
        shape,
    )


def dense(shape, units):
    held = weight((units, shape[-1]), 0, 8)
    return network(lambda x, y: ops.FullyConnected(x, y, held, np.zeros(units)), shape)


def scratch(graph, kernels, storage="int8"):
    """The sizes of the operator that yields `y`."""
    file = emit_model(legalize(graph, TARGETS["tflm"], storage))
    (operator,) = (each for each in file.operators if each.outputs == ("y",))
    return list(scratch_of(kernels, operator, file))


@pytest.mark.parametrize(
    ("graph", "m4", "m55"),
    [
        (convolution((1, 4, 4, 64), (64, 3, 3)), [4 * 576], [4 * 576]),
        (convolution((1, 8, 8, 3), (5, 3, 3)), [4 * 28], [4 * 32]),
        (convolution((1, 8, 8, 12), (5, 1, 1)), [4 * 12], []),
        (convolution((1, 8, 8, 12), (5, 1, 1), strides=(2, 2)), [], []),
        (convolution((1, 8, 8, 12), (6, 1, 1), groups=2), [4 * 12], [4 * 16]),
        (convolution((1, 1, 40, 4), (5, 1, 3)), [4 * 12], [max(12 + 4, 8 + 4)]),
        (convolution((1, 1, 40, 3), (5, 1, 3)), [4 * 12], [4 * 16]),
        (depthwise((1, 8, 8, 10), (3, 3)), [], [4 * 124 * 9]),
        (depthwise((1, 8, 8, 10), (5, 5)), [2 * 250], [4 * 124 * 25]),
        (depthwise((1, 8, 8, 10), (3, 3), multiplier=2), [], []),
        (depthwise((1, 8, 8, 1), (3, 3), multiplier=8), [], [4 * 16 + 72]),
        (transposed((1, 4, 4, 20), 6, (2, 2)), [4 * 180, 1080], [4 * 192, 1080]),
        (transposed((1, 4, 4, 8), 6, (2, 2)), [4 * 9 * 6 * 3], [4 * 9 * 6 * 3]),
        (dense((1, 64), 10), [], [40]),
        (dense((1, 6, 64), 10), [4 * 64], []),
        (network(lambda x, y: ops.AveragePool2D(x, y, (2, 2), (2, 2)), (1, 4, 4, 9)), [36], []),
        (network(lambda x, y: ops.MaxPool2D(x, y, (2, 2), (2, 2)), (1, 4, 4, 9)), [], []),
    ],
)
def test_cmsis_nn(graph, m4, m55):
    assert [scratch(graph, kernels) for kernels in ARM] == [m4, m55]


def test_int4_is_not_unpacked_by_cmsis_nn():
    graph = depthwise((1, 8, 8, 10), (3, 3), bits=4)
    assert scratch(graph, "reference", "int4") == [90]
    assert scratch(graph, "cmsis-nn-m4", "int4") == [2 * 90]
    assert scratch(graph, "esp-nn", "int4") == [90, *scratch(graph, "esp-nn")]


@pytest.mark.parametrize(
    ("graph", "size"),
    [
        (convolution((1, 4, 4, 16), (8, 1, 1)), 16 * 8 + 16 * 16 + 64),
        (convolution((1, 4, 4, 12), (8, 1, 1)), 16 * 16 + 16 * 8 + 16 * 16 + 64),
        (convolution((1, 8, 8, 3), (5, 3, 3)), 20 + 16 + 5 * 32 + 16 + 32 + 64),
        (
            convolution((1, 8, 8, 16), (4, 3, 3)),
            10 * 10 * 16 + 9 * 16 * 4 + 48 * 3 * 4 + 10 * 10 * 16 + 64 + 16,
        ),
        (depthwise((1, 8, 8, 16), (3, 3)), 144 + 10 * 10 * 16 + 16),
        (depthwise((1, 8, 8, 8), (3, 3)), 2 * (72 + 512) + 32),
        (depthwise((1, 8, 8, 24), (3, 3)), 9 * 32 + 12 * 12 * 32 + 64 * 32 + 64),
        (depthwise((1, 8, 8, 8), (5, 5)), 2 * (200 + 512) + 32),
        (depthwise((1, 8, 8, 5), (3, 3)), 144 + 1024 + 512 + 96 + 16),
        (depthwise((1, 8, 8, 2), (3, 3), multiplier=4), 2 * (72 + 128) + 32),
        (depthwise((1, 8, 8, 2), (3, 3), multiplier=3), 32),
        (network(lambda x, y: ops.Softmax(x, y), (1, 10), ops.SOFTMAX_OUTPUT), 40),
    ],
)
def test_esp_nn(graph, size):
    assert scratch(graph, "esp-nn") == [size]


@pytest.mark.parametrize("kernels", VENDORS)
def test_a_plan_for_a_vendor_is_larger_and_not_measured(kernels):
    graph = convolution((1, 4, 4, 64), (64, 3, 3))
    plan, reference = plan_memory(graph, kernels=kernels), plan_memory(graph)
    assert plan.arena_bytes > reference.arena_bytes
    assert (plan.kernels, plan.measured_arena_bytes) == (kernels, None)
    assert f"Scratch as {kernels} states it" in plan.render()


def test_esp_nn_stores_no_layer_as_int4(tmp_path):
    """Without room for headroom INT4 holds the integers. A table saves less than its code takes."""
    graph = convolution((1, 4, 4, 64), (64, 3, 3), bits=4, grid=QuantParams(np.float32(2.0**-11)))
    options = {"target": "tflm", "verbose": False}
    for kernels, storage in ((None, "int4"), ("esp-nn", "int8")):
        report = export(graph, tmp_path / "net.tflite", kernels=kernels, **options)
        assert [each.storage for each in report.weights] == [storage]
    with pytest.raises(ValueError, match="loads weights as int8, lut"):
        export(graph, tmp_path / "net.tflite", kernels="esp-nn", weight_storage="int4", **options)


@pytest.mark.parametrize(("target", "kernels"), [("tflm", "cmsis"), ("litert", "esp-nn")])
def test_unknown_kernels_are_refused(target, kernels):
    with pytest.raises(ValueError, match="kernels must be one of"):
        target_with(target, kernels)
