"""A product in inference is rounded from the integer product of its codes."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat import integer
from keras_qat.quantized_layers.product import ProductAccumulator
from keras_qat.quantizers import LSQActivationQuantizer
from keras_qat.quantizers.grid import Grid
from tests.models import images

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers
CODES = np.arange(-128, 128, dtype=np.float32)


def quantizer(scale, accumulator=None):
    made = LSQActivationQuantizer(Grid.for_activations(8, signed=True))
    made.build(CODES.shape)
    made.set_scale(scale)
    if accumulator is not None:
        made.accumulators[0] = accumulator
    return made


@pytest.mark.parametrize(
    "scales",
    [
        (0.006233409512788057, 0.8308419585227966, 0.24034911394119263),
        (0.032618291676044464, 0.09083627909421921, 0.41115084290504456),
        (1.030896782875061, 0.08178940415382385, 4.699604511260986),
    ],
)
def test_every_product_of_two_codes_is_that_of_the_integer_op(scales):
    """Where floats end on the other side of a tie: about one element in a million."""
    left, right, output = map(quantizer, scales)
    x, w = left(CODES[:, None] * left.scale), right(CODES[None, :] * right.scale)
    operands = [
        integer.ops.QuantizedArray(codes.astype(np.int8), integer.QuantParams(np.float32(scale)))
        for codes, scale in ((CODES[:, None], scales[0]), (CODES[None, :], scales[1]))
    ]
    expected = integer.ops.Mul(("a", "b"), "y").evaluate(
        operands, integer.QuantParams(np.float32(scales[2])), integer.PROFILES["xnnpack"]
    )
    real = (CODES[:, None] * np.float32(scales[0])) * (CODES[None, :] * np.float32(scales[1]))
    assert np.any(np.clip(np.rint(real / np.float32(scales[2])), -128, 127) != expected)
    output.accumulators[0] = ProductAccumulator(left, right, output)
    np.testing.assert_array_equal(output.codes(x * w), expected)


@pytest.mark.parametrize("relu", [None, 6.0], ids=["linear", "relu6"])
@pytest.mark.parametrize("bits", [1, 8])
@pytest.mark.parametrize("gate", [True, False], ids=["gate", "whole"])
def test_the_product_is_that_of_the_integer_op(gate, bits, relu):
    inputs = keras.Input((6, 6, 3), name="image")
    left = layers.Conv2D(4, 3, padding="same", name="left")(inputs)
    right = layers.Conv2D(4, 1, name="right")(inputs)
    right = layers.GlobalMaxPooling2D(keepdims=True, name="pool")(right) if gate else right
    outputs = layers.Multiply(name="product")([right, left])
    outputs = outputs if relu is None else layers.ReLU(relu or None, name="relu")(outputs)
    config = keras_qat.LSQConfig(add_bits=bits, first_and_last_bits=bits)
    x = images(32, (6, 6, 3))
    qmodel = keras_qat.quantize(keras.Model(inputs, outputs), config, calibration_data=x)
    assert isinstance(qmodel.quantizers[-1].accumulators[0], ProductAccumulator)
    codes = qmodel.layer_codes(images(32, (6, 6, 3), seed=1))
    graph = integer.add_headroom(qmodel.to_integer())
    (output,) = graph.outputs
    known = {name: codes[name] for name in ("left", "right")}
    for op in graph.ops:
        if set(op.inputs) <= set(known):
            operands = [
                integer.ops.QuantizedArray(known[name], graph.tensors[name].qparams)
                for name in op.inputs
            ]
            profile = integer.PROFILES["xnnpack"]
            known[op.output] = op.evaluate(operands, graph.tensors[op.output].qparams, profile)
    np.testing.assert_array_equal(known[output], codes[output])
