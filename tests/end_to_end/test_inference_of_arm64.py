"""A model that computes as LiteRT on arm64: MUL, MEAN and SOFTMAX round as on phones."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.integer import PROFILES, QuantParams, ops, run
from keras_qat.quantized_layers.mean import MeanOfCodes
from keras_qat.quantized_layers.product import ProductAccumulator
from keras_qat.quantizers import LSQActivationQuantizer
from keras_qat.quantizers.grid import Grid
from keras_qat.quantizers.softmax_rounding import CodesOfScores, SoftmaxRounding
from tests.models import images, randomize
from tests.seams import op_differences

layers = keras.layers
X86, ARM64 = PROFILES["xnnpack-x86"], PROFILES["xnnpack-arm64"]
CODES = np.arange(-128, 128, dtype=np.float32)
X = images(24, (8, 8, 3))


def quantizer(scale, signed=True, arithmetic="xnnpack-arm64"):
    made = LSQActivationQuantizer(Grid.for_activations(8, signed=signed), computes_as=arithmetic)
    made.build((None, 4))
    made.set_scale(scale)
    return made


def both(op, operands, output):
    """What each processor computes; they differ, so a test tells them apart."""
    x86, arm64 = (op.evaluate(operands, output, each) for each in (X86, ARM64))
    assert np.any(x86 != arm64)
    return {"litert": x86, "xnnpack-arm64": arm64}


@pytest.mark.parametrize("name", ["litert", "xnnpack-arm64"])
@pytest.mark.parametrize("scales", [(1.5, 0.82, 1.2), (1.0, 0.018, 1.0), (0.029, 0.4, 0.42)])
def test_every_product_of_two_codes(scales, name):
    left, right, output = (quantizer(each, arithmetic=name) for each in scales)
    operands = [
        ops.QuantizedArray(codes.astype(np.int8), QuantParams(np.float32(scale)))
        for codes, scale in ((CODES[:, None], scales[0]), (CODES[None, :], scales[1]))
    ]
    expected = both(ops.Mul(("a", "b"), "y"), operands, QuantParams(np.float32(scales[2])))
    x, w = left(CODES[:, None] * left.scale), right(CODES[None, :] * right.scale)
    output.accumulators[0] = ProductAccumulator(left, right, output)
    np.testing.assert_array_equal(output.codes(x * w), expected[name])


@pytest.mark.parametrize(
    ("side", "scales"), [(8, (0.44, 0.2)), (2, (0.024, 0.0072)), (6, (0.33, 0.048))]
)
def test_every_sum_of_an_image(side, scales):
    """The float mean of a layer is near a tie here as well, so the sum is found first."""
    before, output = quantizer(scales[0], signed=False), quantizer(scales[1], signed=False)
    count = side * side
    sums = np.arange(count * 255 + 1)
    codes = np.clip(sums[:, None] - 255 * np.arange(count), 0, 255).reshape(-1, side, side, 1)
    grids = [
        QuantParams(np.float32(scale), zero_point=0, qmin=0, qmax=255).placed_in_int8()
        for scale in scales
    ]
    operands = [ops.QuantizedArray((codes - 128).astype(np.int8), grids[0])]
    expected = both(ops.Mean(("x",), "y"), operands, grids[1])["xnnpack-arm64"]
    mean = keras.ops.mean(before(codes.astype("float32") * before.scale), axis=(1, 2))
    output.accumulators[0] = MeanOfCodes(before, output, count)
    np.testing.assert_array_equal(output.codes(mean), expected.astype(int) + 128)


@pytest.mark.parametrize("scale", [0.01, 0.06, 0.2])
def test_probabilities_of_random_scores(scale):
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (20_000, 7)).astype(np.int8)
    grid = QuantParams(np.float32(scale))
    expected = both(
        ops.Softmax(("x",), "y"), [ops.QuantizedArray(codes, grid)], ops.SOFTMAX_OUTPUT
    )["xnnpack-arm64"]
    scores = quantizer(scale)
    rounding = SoftmaxRounding(computes_as="xnnpack-arm64")
    rounding.connections[0] = CodesOfScores(scores)
    found = rounding(keras.ops.softmax(scores(codes.astype("float32") * scores.scale)))
    np.testing.assert_array_equal(np.rint(np.asarray(found) * 256) - 128, expected)


def gated_network():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(inputs)
    gate = layers.GlobalAveragePooling2D(name="squeeze")(x)
    gate = layers.Dense(6, activation="sigmoid", name="gate")(gate)
    x = layers.Multiply(name="scaled")([x, layers.Reshape((1, 1, 6))(gate)])
    x = layers.Dense(10, name="scores")(layers.Flatten()(x))
    return randomize(keras.Model(inputs, layers.Softmax(name="answers")(x)))


@pytest.fixture(scope="module")
def qmodel():
    return keras_qat.quantize(gated_network(), calibration_data=X)


@pytest.mark.parametrize("jit", [False, True])
def test_a_network_computes_so_in_its_graph(qmodel, jit):
    """Layer by layer, on its own inputs, traced and saved."""
    qmodel.compute_as("xnnpack-arm64")
    assert qmodel.computes_as == "xnnpack-arm64"
    graph = qmodel.to_integer()
    found = {each.name: each for each in op_differences(graph, qmodel.layer_codes(X), ARM64)}
    assert {found[name].flip_rate for name in ("squeeze", "scaled", "answers")} == {0.0}
    qmodel.compile(jit_compile=jit)
    answers = np.rint(qmodel.predict(X, verbose=0) * 256) - 128
    codes = {name: graph.tensors[name].quantize(X) for name in graph.inputs}
    (expected,) = run(graph, codes, "xnnpack-arm64").values()
    np.testing.assert_array_equal(answers, expected)


def test_the_choice_is_saved_and_a_file_is_judged_by_it(tmp_path):
    qmodel = keras_qat.quantize(gated_network(), calibration_data=X)
    qmodel.compute_as("xnnpack-arm64")
    qmodel.save(tmp_path / "net.keras")
    loaded = keras_qat.load_model(tmp_path / "net.keras")
    assert loaded.computes_as == "xnnpack-arm64"
    report = tflite_export.export(loaded, tmp_path / "net.tflite", samples=X, verbose=False)
    assert (report.comparison.profile, report.evaluation) == ("xnnpack-arm64", None)
    assert loaded.computes_as == "xnnpack-arm64"


@pytest.mark.parametrize("name", ["xnnpack", "xnnpack-x86"])
def test_the_arithmetic_of_x86_is_that_of_litert(qmodel, name):
    qmodel.compute_as(name)
    assert qmodel.computes_as == "litert"


@pytest.mark.parametrize(
    ("pooling", "in_float"),
    [(layers.GlobalAveragePooling2D(name="squeeze"), False), (layers.AveragePooling2D(40), True)],
)
def test_a_large_mean_is_computed_or_named(pooling, in_float):
    inputs, x = keras.Input((40, 40, 2), name="image"), images(64, (40, 40, 2))
    large = keras_qat.quantize(keras.Model(inputs, pooling(inputs)), calibration_data=x[:4])
    large.compute_as("xnnpack-arm64")
    assert (large.computes_as != "xnnpack-arm64") == in_float
    found = op_differences(large.to_integer(), large.layer_codes(x), ARM64)
    assert in_float or {each.flip_rate for each in found} == {0.0}
