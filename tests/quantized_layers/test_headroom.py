"""Headroom of learned grids: Keras rounds its bias to steps that the integer model has too."""

import math

import numpy as np
import pytest

import keras_qat
from keras_qat import integer
from keras_qat.integer import ops
from keras_qat.quantized_layers import QuantizeWrapper
from keras_qat.quantized_layers.accumulators import headroom
from tests.conversion.test_exact_inference import assert_bias_on_the_grid
from tests.models import depthwise_network, images
from tests.seams import op_differences

X = images(16, (8, 8, 3))


def narrowed(target, weight_bits, **config):
    """Weights aim at `target` bits and have learned `weight_bits` so far."""
    bits = {"weight_bits": target, "first_and_last_bits": target, "activation_bits": 4}
    config = keras_qat.GDNSQConfig(**bits, **config)
    qmodel = keras_qat.quantize(depthwise_network(), config, calibration_data=X)
    for width in qmodel.learned_widths:
        width.narrow(None if width.layer is None else weight_bits)
    return qmodel


def test_headroom_is_the_room_left_in_int8():
    codes = np.arange(1, 300)
    expected = [max(0, math.floor(math.log2(127 / code))) for code in codes]
    np.testing.assert_array_equal(headroom(codes), expected)
    assert [float(headroom(int(code))) for code in codes] == expected


@pytest.mark.parametrize("target", [1, 6, 8])
def test_a_target_that_is_met_has_the_bias_of_the_file(target):
    qmodel = narrowed(target, target)
    assert qmodel.meets_targets()
    assert_bias_on_the_grid(qmodel)


@pytest.mark.parametrize(
    ("target", "learned", "per_channel"), [(1, 4, True), (2, 6, False), (7, 7.4, True)]
)
def test_so_has_a_target_that_is_missed_while_int8_holds_the_codes(target, learned, per_channel):
    qmodel = narrowed(target, learned, per_channel=per_channel)
    assert not any(width.meets_target() for width in qmodel.learned_widths if width.layer)
    assert_bias_on_the_grid(qmodel)
    if target == 1:
        graph = integer.add_headroom(qmodel.to_integer())
        found = op_differences(graph, qmodel.layer_codes(X))
        # Keras' float32 sums against exact ones: values within about 1e-6 steps of a tie.
        assert max(difference.flip_rate for difference in found) < 1e-4, found


def test_the_integer_model_states_the_bits_that_were_learned():
    qmodel = narrowed(2, 5)
    graph = qmodel.to_integer()
    assert {op.weight_bits for op in graph.ops if isinstance(op, ops.LinearOp)} == {5}
    (dense,) = [layer for layer in qmodel.layers if layer.name == "head"]
    assert isinstance(dense, QuantizeWrapper)
    dense.weight_quantizer.hold(dense.channels_last_kernel())
    assert dense.lower("x").weight_bits == 2
    dense.layer.kernel.assign(np.zeros(dense.layer.kernel.shape))
    assert dense.lower("x").weight_bits == 1
