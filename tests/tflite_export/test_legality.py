"""Every refusal names the tensor, what was received and what to do."""

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from keras_qat.integer.ops.softmax import MAX_SOFTMAX_CLASSES
from tests.tflite_export.graphs import one_op_graph, small_network
from tflite_export.errors import ExportError
from tflite_export.legal.legality import check_float_inputs, check_legal, runnable_profiles
from tflite_export.targets import TARGETS, get_target

GRID = QuantParams(np.float32(0.1), zero_point=3)
SHAPE = (1, 4, 4, 2)


def refuse(graph: IntegerGraph, message: str, target: str = "litert") -> None:
    with pytest.raises(ExportError, match=message):
        check_legal(graph, get_target(target))


def conv(activation="linear", y_grid=GRID, weight_grid=None, value=1) -> IntegerGraph:
    weight_grid = weight_grid or QuantParams(np.full(2, 0.1, np.float32), 0, -128, 127, 0)
    weight = ops.QuantizedArray(np.full((2, 1, 1, 2), value, np.int8), weight_grid)
    return one_op_graph(
        lambda _, x: ops.Conv2D((x,), "y", weight, np.zeros(2), activation), SHAPE, GRID, y_grid
    )


@pytest.mark.parametrize("target", list(TARGETS))
def test_a_legal_network_passes(target):
    check_legal(small_network(), get_target(target))
    check_legal(conv(), get_target(target))


def test_an_empty_graph():
    builder = GraphBuilder()
    x = builder.add_input("x", SHAPE, GRID)
    refuse(builder.build((x,)), "no ops")


def test_a_batch():
    graph = one_op_graph(lambda _, x: ops.Mean((x,), "y"), (2, 3, 3, 1), GRID)
    refuse(graph, "'x' must have batch 1")


def test_a_zero_point_outside_int8():
    grid = QuantParams(np.float32(1.0), zero_point=200)
    refuse(one_op_graph(lambda _, x: ops.Mean((x,), "y"), SHAPE, grid), "zero_point=200")


def test_an_activation_with_a_scale_per_channel():
    grid = QuantParams(np.ones(2, np.float32), axis=3)
    graph = one_op_graph(lambda _, x: ops.MaxPool2D((x,), "y", (1, 1), (1, 1)), SHAPE, grid)
    refuse(graph, "Activation 'x' needs one scale")


def test_an_unknown_op_type():
    class Exotic(ops.Mean):
        pass

    graph = one_op_graph(lambda _, x: Exotic((x,), "y"), SHAPE, GRID)
    refuse(graph, "does not run the op of 'y'. Received: Exotic", "tflm")


def test_weights_at_minus_128():
    refuse(conv(value=-128), "narrow range. Received: -128..-128")


@pytest.mark.parametrize("changes", [{"zero_point": 1}, {"axis": 3}])
def test_weights_with_another_grid(changes):
    options = {"zero_point": 0, "axis": 0, **changes}
    grid = QuantParams(np.full(2, 0.1, np.float32), qmin=-127, qmax=127, **options)
    refuse(conv(weight_grid=grid), "need zero point 0 and one scale per output channel")


@pytest.mark.parametrize("scale", [1e-12, 1e4])
def test_a_multiplier_out_of_range(scale):
    grid = QuantParams(np.array([0.1, scale], np.float32), 0, -127, 127, 0)
    refuse(conv(weight_grid=grid), "Channel 1 of 'y' is rescaled by")


def test_a_multiplier_that_float32_rounds_to_the_limit():
    """XNNPACK takes multipliers below 256, and computes them in float32."""
    x_scale, y_scale = np.float32(21.023334503173828), np.float32(86.77954864501953)
    scales = np.full(2, 255.99999956 * float(y_scale) / float(x_scale), np.float32)
    x_grid, weight_grid = QuantParams(x_scale), QuantParams(scales, 0, -128, 127, 0)
    weight = ops.QuantizedArray(np.ones((2, 4), np.int8), weight_grid)
    graph = one_op_graph(
        lambda _, x: ops.FullyConnected((x,), "y", weight, np.zeros(2)),
        (1, 4),
        x_grid,
        QuantParams(y_scale),
    )
    assert float(x_scale) * float(scales[0]) / float(y_scale) < 256
    refuse(graph, "Channel 0 of 'y' is rescaled by 256, outside what 'litert' computes")


@pytest.mark.parametrize("scale", [2.0**-136, 2.0**126])
@pytest.mark.parametrize("target", list(TARGETS))
def test_a_scale_that_ends_a_runtime(target, scale):
    grid = QuantParams(np.float32(scale))
    graphs = [
        one_op_graph(lambda _, x: ops.InterpolatePixels((x,), "y", (2, 2)), SHAPE, grid),
        one_op_graph(lambda _, x: ops.MaxPool2D((x,), "y", (2, 2), (2, 2)), SHAPE, grid),
    ]
    for graph in graphs:
        refuse(graph, "'x' has a scale of .* outside what runtimes take", target)


@pytest.mark.parametrize(
    ("activation", "y_grid"),
    [
        ("linear", QuantParams(np.float32(0.1), 112, 112, 127)),
        ("linear", QuantParams(np.float32(0.1), 0, -128, 100)),
        ("relu", QuantParams(np.float32(0.1), 0, -128, 127)),
        ("relu", QuantParams(np.float32(0.1), 0, 1, 127)),
        ("relu6", QuantParams(np.float32(0.1), -128, -128, 127)),
    ],
)
def test_a_clamp_that_the_op_does_not_have(activation, y_grid):
    refuse(conv(activation, y_grid), "a clamp would be lost")


def test_a_relu6_that_ends_half_way():
    grid = QuantParams(np.float32(4.0), -127, -127, -125)
    refuse(conv("relu6", grid), "half way between two integers")


@pytest.mark.parametrize("kind", [ops.Add, ops.Sub])
def test_a_sum_across_too_many_octaves(kind):
    builder = GraphBuilder()
    left = builder.add_input("left", SHAPE, QuantParams(np.float32(2.0**-11)))
    right = builder.add_input("right", SHAPE, QuantParams(np.float32(1)))
    y = builder.add(kind((left, right), "y"), QuantParams(np.float32(1)))
    graph = builder.build((y,))
    refuse(graph, f"{kind.__name__} 'y' rescales 'left'")
    check_legal(graph, get_target("tflm"))


@pytest.mark.parametrize(("exponent", "tflm_runs"), [(-17, True), (8, False)])
def test_a_product_across_too_many_octaves(exponent, tflm_runs):
    builder = GraphBuilder()
    left, right = (builder.add_input(n, SHAPE, QuantParams(np.float32(1))) for n in ("a", "b"))
    y = builder.add(ops.Mul((left, right), "y"), QuantParams(np.float32(2.0**-exponent)))
    graph = builder.build((y,))
    refuse(graph, "Mul 'y' rescales its product by")
    if tflm_runs:
        check_legal(graph, get_target("tflm"))


@pytest.mark.parametrize(
    "op",
    [
        lambda _, x: ops.MaxPool2D((x,), "y", (2, 2), (2, 2)),
        lambda _, x: ops.AveragePool2D((x,), "y", (2, 2), (2, 2)),
        lambda _, x: ops.Pad((x,), "y", ((1, 1), (1, 1))),
        lambda _, x: ops.Reshape((x,), "y", (32,)),
        lambda _, x: ops.Maximum((x,), "y", -128),
        lambda _, x: ops.Minimum((x,), "y", 127),
    ],
)
@pytest.mark.parametrize(
    ("y_grid", "message"),
    [
        (QuantParams(np.float32(0.2), 3), "keeps the scale and zero point"),
        (QuantParams(np.float32(0.1), 4), "keeps the scale and zero point"),
        (QuantParams(np.float32(0.1), 3, -128, 126), "a clamp would be lost"),
    ],
)
def test_ops_that_keep_the_grid(op, y_grid, message):
    refuse(one_op_graph(op, SHAPE, GRID, y_grid), message)


@pytest.mark.parametrize("factors", [(3, 2), (2, 128)])
def test_an_interpolation_that_fixed_point_weights_do_not_state(factors):
    graph = one_op_graph(lambda _, x: ops.InterpolatePixels((x,), "y", factors), SHAPE, GRID)
    refuse(graph, rf"factors of 1, 2, 4 up to 64.*Received: \({factors[0]}, {factors[1]}\)")


@pytest.mark.parametrize("kind", [ops.MaximumOfTwo, ops.MinimumOfTwo])
@pytest.mark.parametrize(
    ("right", "y_grid", "message"),
    [
        (QuantParams(np.float32(0.2), 3), GRID, "keeps the scale and zero point"),
        (QuantParams(np.float32(0.1), 4), GRID, "keeps the scale and zero point"),
        (GRID, QuantParams(np.float32(0.1), 4), "keeps the scale and zero point"),
        (GRID, QuantParams(np.float32(0.1), 3, -127, 127), "a clamp would be lost"),
    ],
)
def test_two_tensors_are_compared_on_one_grid(kind, right, y_grid, message):
    builder = GraphBuilder()
    inputs = (builder.add_input("a", SHAPE, GRID), builder.add_input("b", SHAPE, right))
    refuse(builder.build((builder.add(kind(inputs, "y"), y_grid),)), message)


def test_padding_with_zeros_that_the_grid_lacks():
    grid = QuantParams(np.float32(0.1), 0, 5, 127)
    graph = one_op_graph(lambda _, x: ops.Pad((x,), "y", ((1, 1), (0, 0))), SHAPE, grid)
    refuse(graph, r"yields integers 0\.\.127")


def test_the_mean_of_a_tensor_without_negative_values():
    positive = QuantParams(np.float32(0.1), 112, 112, 127)
    for low in (0, -128):
        y_grid = QuantParams(np.float32(0.1), 0, low, 127)
        graph = one_op_graph(lambda _, x: ops.Mean((x,), "y"), SHAPE, positive, y_grid)
        check_legal(graph, get_target("litert"))
    y_grid = QuantParams(np.float32(0.1), 112, 112, 127)
    refuse(one_op_graph(lambda _, x: ops.Mean((x,), "y"), SHAPE, GRID, y_grid), "clamp")


def test_softmax_limits():
    def graph(classes, x_grid=GRID, y_grid=ops.SOFTMAX_OUTPUT):
        return one_op_graph(lambda _, x: ops.Softmax((x,), "y"), (1, classes), x_grid, y_grid)

    tflm, litert = get_target("tflm"), get_target("litert")
    check_legal(graph(MAX_SOFTMAX_CLASSES), tflm)
    refuse(graph(MAX_SOFTMAX_CLASSES + 1), "has 512 classes", "tflm")
    check_legal(graph(MAX_SOFTMAX_CLASSES + 1), litert)
    assert runnable_profiles(graph(MAX_SOFTMAX_CLASSES), litert) == litert.profiles
    assert runnable_profiles(graph(MAX_SOFTMAX_CLASSES + 1), litert) == ("xnnpack-x86",)
    refuse(graph(3, y_grid=GRID), "SOFTMAX_OUTPUT")
    refuse(graph(3, QuantParams(np.float32(1e-9))), "scale above")


def test_float_inputs_need_eight_bits():
    graph = one_op_graph(
        lambda _, x: ops.Mean((x,), "y"), SHAPE, QuantParams(np.float32(0.1), 112, 112, 127), GRID
    )
    for dtype in ("int8", "uint8"):
        check_float_inputs(graph, {"x": dtype})
    with pytest.raises(ExportError, match="Input 'x' has a grid of 16 levels"):
        check_float_inputs(graph, {"x": "float32"})


def test_targets_are_found_by_name():
    assert get_target(TARGETS["tflm"]) is TARGETS["tflm"]
    with pytest.raises(ValueError, match="one of 'litert', 'tflm', 'ethos-u'"):
        get_target("onnx")


def dense(scale: float, bias: float = 0.0) -> IntegerGraph:
    """127 times 64 inputs of up to 125 on a grid of 0.1, to an output on a grid of `scale`."""
    grid = QuantParams(np.ones(1, np.float32), 0, -127, 127, 0)
    weight = ops.QuantizedArray(np.full((1, 64), 127, np.int8), grid)
    return one_op_graph(
        lambda _, x: ops.FullyConnected((x,), "y", weight, np.full(1, bias)),
        (1, 64),
        GRID,
        QuantParams(np.float32(scale)),
    )


@pytest.mark.parametrize("target", list(TARGETS))
def test_a_product_beyond_int32(target):
    check_legal(dense(0.1 / 255), get_target(target))  # 1,064,768 * 2**8 is within
    refuse(dense(0.1 / 255, bias=8e5), "Channel 0 of 'y' has an accumulator of up to 9,", target)


@pytest.mark.parametrize("scale", [2.0**22, 2.0**60, 2.0**106])
@pytest.mark.parametrize("target", list(TARGETS))
def test_a_mean_beyond_int32(target, scale):
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 7, 7, 1), QuantParams(np.float32(scale)))
    builder.add(ops.Mean((x,), "y"), QuantParams(np.float32(0.5)))
    refuse(builder.build(("y",)), "Mean 'y' of 49 values .*out of int32", target)


def _joined(count):
    builder = GraphBuilder()
    names = tuple(builder.add_input(f"x{n}", (1, 3), GRID) for n in range(count))
    return builder.build((builder.add(ops.Concatenate(names, "y", 1), GRID),))


def test_a_concatenation_of_more_tensors_than_tflm_joins():
    check_legal(_joined(10), get_target("tflm"))
    check_legal(_joined(64), get_target("litert"))
    refuse(_joined(11), "joins 11 tensors, and 'tflm' joins at most 10.* Join 10 of them", "tflm")
