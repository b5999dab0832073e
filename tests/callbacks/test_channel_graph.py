"""The narrowest cut of networks whose tensors have known capacities."""

import math

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks.channel_graph import ChannelGraph
from tests.models import images, residual_network

layers = keras.layers


def quantized(inputs, outputs):
    model = keras.Model(inputs, outputs)
    data = np.random.default_rng(0).normal(size=(8, *inputs.shape[1:]))
    return keras_qat.quantize(model, "ste", calibration_data=data)


def dense(x, units, name):
    return layers.ReLU(name=name)(layers.Dense(units, name=f"{name}_dense")(x))


def records_of(qmodel, **bits):
    """One bit per value, or what is given, and the true numbers of values."""
    return {
        name: {
            "bits_per_value": bits.get(name.removesuffix("/activations"), 1.0),
            "values": math.prod(site.source.shape[1:]),
        }
        for name, site in qmodel.quantizer_sites().items()
        if site.kernel is None
    }


def cut(qmodel, hidden=False, **bits):
    found, tensors = ChannelGraph(qmodel).narrowest_cut(records_of(qmodel, **bits), hidden)
    return found, [name.removesuffix("/activations") for name in tensors]


@pytest.fixture(scope="module")
def chain():
    inputs = keras.Input((9,), name="x")
    hidden = dense(dense(inputs, 5, "first"), 7, "second")
    return quantized(inputs, layers.Dense(6, name="out")(hidden))


def test_a_chain_has_the_capacity_of_its_narrowest_tensor(chain):
    assert cut(chain) == (5.0, ["first"])
    for bits in ({"second": 0.3}, {"out": 0.1}, {"x": 0.2}):
        records = records_of(chain, **bits)
        smallest = min(each["bits_per_value"] * each["values"] for each in records.values())
        assert cut(chain, **bits) == (smallest, list(bits))


def test_hidden_tensors_alone(chain):
    assert cut(chain, out=0.1) == (6 * 0.1, ["out"])
    assert cut(chain, hidden=True, out=0.1) == (5.0, ["first"])


def test_softmax_belongs_to_the_outputs():
    inputs = keras.Input((9,), name="x")
    head = layers.Dense(3, name="head")(dense(inputs, 5, "first"))
    qmodel = quantized(inputs, layers.Softmax(name="answer")(head))
    assert cut(qmodel) == (3.0, ["head"])
    assert cut(qmodel, hidden=True) == (5.0, ["first"])


def test_parallel_branches_add_up():
    inputs = keras.Input((16,), name="x")
    branches = [dense(inputs, 3, "left"), dense(inputs, 4, "right")]
    joined = layers.Concatenate(name="joined")(branches)
    qmodel = quantized(inputs, layers.Dense(10, name="out")(joined))
    assert cut(qmodel) == (7.0, ["left", "right"])
    assert cut(qmodel, left=0.1, right=0.2) == (math.fsum([3 * 0.1, 4 * 0.2]), ["left", "right"])


def block(shortcut_units=None):
    """A block with two values inside, and a shortcut around it."""
    inputs = keras.Input((16,), name="x")
    trunk = dense(inputs, 8, "trunk")
    inside = layers.Dense(8, name="outer")(dense(trunk, 2, "inner"))
    shortcut = trunk
    if shortcut_units is not None:
        shortcut = layers.Dense(8, name="widened")(dense(trunk, shortcut_units, "side"))
    total = layers.ReLU(name="total")(layers.Add(name="sum")([inside, shortcut]))
    return quantized(inputs, layers.Dense(9, name="out")(total))


def test_a_shortcut_carries_what_the_block_does_not():
    """The inside of the block is no waist: the trunk goes around it."""
    found, names = cut(block())
    assert (found, names) == (8.0, ["trunk"])
    assert cut(block(), total=0.5) == (4.0, ["total"])


def test_a_narrow_shortcut_adds_to_the_block():
    assert cut(block(shortcut_units=3)) == (5.0, ["side", "inner"])
    assert cut(block(shortcut_units=3), inner=0.1) == (math.fsum([0.2, 3.0]), ["side", "inner"])


def test_a_pooling_picks_fewer_values_of_the_same_grid():
    inputs = keras.Input((8, 8, 2), name="x")
    pooled = layers.MaxPooling2D(name="pool")(layers.ReLU(name="relu")(inputs))
    x = layers.Conv2D(9, 1, name="conv")(pooled)
    qmodel = quantized(inputs, x)
    picked = {"x": 4.0, "relu": 3.0, "conv": 9.0}
    names = {name.removesuffix("/activations") for name in records_of(qmodel)}
    assert names <= set(picked)
    bits = picked["relu" if "relu" in names else "x"]
    assert cut(qmodel, **picked) == (bits * 4 * 4 * 2, ["pool"])


def test_a_flatten_is_no_channel():
    inputs = keras.Input((4, 2), name="x")
    qmodel = quantized(inputs, layers.Dense(9, name="out")(layers.Flatten(name="flat")(inputs)))
    assert cut(qmodel) == (8.0, ["x"])


def test_a_network_with_a_residual_block_by_hand():
    qmodel = keras_qat.quantize(residual_network(), "lsq", calibration_data=images(16))
    records = records_of(qmodel)
    found, names = cut(qmodel)
    assert (found, names) == (5.0, ["head"])
    assert cut(qmodel, head=100.0) == (12.0, ["pool"])
    assert records["pool/activations"]["values"] == 12


def test_an_unknown_capacity_makes_the_cut_unknown(chain):
    assert cut(chain, second=None) == (None, [])


def test_two_outputs_are_one_sink():
    inputs = keras.Input((9,), name="x")
    trunk = dense(inputs, 8, "trunk")
    outputs = [layers.Dense(2, name="left")(trunk), layers.Dense(3, name="right")(trunk)]
    qmodel = quantized(inputs, outputs)
    assert cut(qmodel) == (5.0, ["right", "left"])
    assert cut(qmodel, hidden=True) == (8.0, ["trunk"])
