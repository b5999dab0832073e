"""Average bits against sums by hand, and against the plan's multiply-accumulates."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks.average_bits import average_bits
from keras_qat.conversion.quantizer_sites import Product
from tests.models import images, residual_network

layers = keras.layers


def record(kind, values, bits):
    return {"kind": kind, "values": values, "mean_bits": bits, "target_bits": 2}


def network(*bits):
    """An input and two layers with kernels, of 3 and 5 MACs, with these bits in this order."""
    kinds = ["activations", "weights", "activations", "weights"]
    names = ["x/activations", "a/weights", "a/activations", "b/weights"]
    sizes = [10, 100, 30, 300]
    records = {
        name: record(kind, size, each)
        for name, kind, size, each in zip(names, kinds, sizes, bits, strict=True)
    }
    sites = {name: SimpleNamespace(products=()) for name in names}
    sites["a/weights"] = SimpleNamespace(products=(Product(3, "x/activations"),))
    sites["b/weights"] = SimpleNamespace(products=(Product(5, "a/activations"),))
    return records, sites


def test_by_hand():
    found = average_bits(*network(8.0, 4.0, 2.0, 1.5))
    assert found == {
        "bits_per_weight": (100 * 4.0 + 300 * 1.5) / 400,
        "bits_per_activation": (10 * 8.0 + 30 * 2.0) / 40,
        "bit_operations": 3 * 4.0 * 8.0 + 5 * 1.5 * 2.0,
        "bits_per_mac": math.sqrt((3 * 4.0 * 8.0 + 5 * 1.5 * 2.0) / 8),
    }


@pytest.mark.parametrize("bits", [1.0, 2.0, 4.0, 8.0])
def test_equal_bits_are_their_average(bits):
    found = average_bits(*network(*[bits] * 4))
    averages = found["bits_per_weight"], found["bits_per_activation"], found["bits_per_mac"]
    assert averages == (bits, bits, bits)


def test_w2a8_multiplies_as_w4a4():
    assert average_bits(*network(8.0, 2.0, 8.0, 2.0))["bits_per_mac"] == 4.0


def test_targets():
    assert average_bits(*network(8.0, 4.0, 2.0, 1.5), "target_bits")["bits_per_mac"] == 2.0


def test_a_product_with_float32_has_32_bits():
    records, sites = network(8.0, 4.0, 2.0, 1.5)
    sites["a/weights"] = SimpleNamespace(products=(Product(3, None),))
    assert average_bits(records, sites)["bit_operations"] == 3 * 4.0 * 32.0 + 5 * 1.5 * 2.0


def test_a_shared_kernel_multiplies_in_every_call():
    records, sites = network(8.0, 4.0, 2.0, 1.5)
    calls = (Product(3, "x/activations"), Product(7, "a/activations"))
    sites["a/weights"] = SimpleNamespace(products=calls)
    operations = 3 * 4.0 * 8.0 + 7 * 4.0 * 2.0 + 5 * 1.5 * 2.0
    assert average_bits(records, sites)["bit_operations"] == operations


def test_what_is_unknown_is_nan():
    records, sites = network(8.0, None, 2.0, 1.5)
    found = average_bits(records, sites)
    assert np.isnan([found["bits_per_weight"], found["bits_per_mac"]]).all()
    assert found["bits_per_activation"] == 3.5
    records, sites = network(8.0, 4.0, 2.0, 1.5)
    sites["a/weights"] = SimpleNamespace(products=(Product(None, "x/activations"),))
    assert math.isnan(average_bits(records, sites)["bits_per_mac"])
    assert math.isnan(average_bits({}, {})["bits_per_weight"])


def products(qmodel):
    sites = qmodel.quantizer_sites()
    return {name: site.products for name, site in sites.items() if site.kernel is not None}


def test_the_products_of_a_network_are_those_of_its_plan():
    qmodel = keras_qat.quantize(residual_network(), "lsq", calibration_data=images(16))
    found = products(qmodel)
    assert sum(each.macs for calls in found.values() for each in calls) == qmodel.plan.total("macs")
    assert found["stem/weights"] == (Product(12 * 12 * 27 * 8, "image/activations"),)
    assert found["conv/weights"] == (Product(12 * 12 * 72 * 8, "stem_relu/activations"),)
    assert found["head/weights"] == (Product(12 * 5, "pool/activations"),)


def test_a_product_reads_through_layers_that_move_values():
    inputs = keras.Input((4, 4, 2), name="x")
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(name="pool")(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    qmodel = keras_qat.quantize(model, "ste", calibration_data=images(4, (4, 4, 2)))
    assert products(qmodel) == {"out/weights": (Product(24, "x/activations"),)}


def test_a_shared_layer_has_a_product_for_each_call():
    inputs = keras.Input((5,), name="x")
    shared = layers.Dense(5, name="shared")
    model = keras.Model(inputs, shared(shared(inputs)))
    qmodel = keras_qat.quantize(model, "ste", calibration_data=np.eye(5))
    expected = (Product(25, "x/activations"), Product(25, "shared/activations"))
    assert products(qmodel) == {"shared/weights": expected}


def test_layers_that_compute_in_float32_read_float32():
    inputs = keras.Input((4, 6), name="x")
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    model = keras.Model(inputs, layers.Dense(3, name="out")(attention(inputs, inputs)))
    qmodel = keras_qat.quantize(model, "ste", calibration_data=images(4, (4, 6)))
    found = products(qmodel)
    assert found["attention/query/weights"] == (Product(4 * 36, None),)
    assert found["out/weights"][0].operand is not None
