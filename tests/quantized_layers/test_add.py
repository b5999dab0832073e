"""The integer sum of inference against the integer interpreter: no element differs."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat import integer
from keras_qat.quantized_layers import QuantizeAdd, QuantizeSubtract
from tests.models import images

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


def quantized_sum(bits, relu=None, kind=layers.Add, gate=False):
    inputs = keras.Input((6, 6, 3), name="image")
    left = layers.Conv2D(4, 3, padding="same", name="left")(inputs)
    right = layers.Conv2D(4, 1, name="right")(inputs)
    right = layers.GlobalMaxPooling2D(keepdims=True, name="pool")(right) if gate else right
    total = kind(name="sum")([left, right])
    outputs = total if relu is None else layers.ReLU(relu or None, name="relu")(total)
    config = keras_qat.LSQConfig(add_bits=bits, first_and_last_bits=bits)
    return keras_qat.quantize(
        keras.Model(inputs, outputs), config, calibration_data=images(64, (6, 6, 3))
    )


@pytest.mark.parametrize("relu", [None, 0.0, 6.0], ids=["linear", "relu", "relu6"])
@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize(
    ("kind", "ours", "gate"),
    [(layers.Add, QuantizeAdd, False), (layers.Subtract, QuantizeSubtract, True)],
)
def test_the_sum_is_that_of_the_integer_op(kind, ours, gate, bits, relu):
    qmodel = quantized_sum(bits, relu, kind, gate)
    assert isinstance(qmodel.get_layer("sum"), ours)
    assert qmodel.get_layer("sum").connections
    codes = qmodel.layer_codes(images(64, (6, 6, 3), seed=1))
    graph = integer.add_headroom(qmodel.to_integer())
    (output,) = graph.outputs
    known = {name: codes[name] for name in ("left", "right")}
    for op in graph.ops:
        if not set(op.inputs) <= set(known):
            continue
        operands = [
            integer.ops.QuantizedArray(known[name], graph.tensors[name].qparams)
            for name in op.inputs
        ]
        profile = integer.PROFILES["xnnpack"]
        known[op.output] = op.evaluate(operands, graph.tensors[op.output].qparams, profile)
    np.testing.assert_array_equal(known[output], codes[output])


@pytest.mark.parametrize(
    ("kind", "expected"), [(layers.Add, np.add), (layers.Subtract, np.subtract)]
)
def test_training_adds_real_numbers(kind, expected):
    qmodel = quantized_sum(4, kind=kind)
    left, right = np.float32([[0.3]]), np.float32([[0.4]])
    total = qmodel.get_layer("sum")([left, right], training=True)
    np.testing.assert_array_equal(total, expected(left, right))
