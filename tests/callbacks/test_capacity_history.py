"""The history of a `CapacityMonitor` beyond single tensors: start, float, network and input."""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
from keras_qat.callbacks import CapacityMonitor
from keras_qat.callbacks.channel_capacity import CodeCounts, FloatMeasurement, channel_of
from keras_qat.quantizers import Grid, STEActivationQuantizer
from tests.callbacks.test_capacity_monitor import X, Y, look, single, waist

layers = keras.layers


def fit(qmodel, monitor, **epochs):
    with pytest.warns(UserWarning, match="GDNSQSchedule"):  # no width needs to arrive here
        qmodel.fit(X, Y, verbose=0, callbacks=[monitor], **epochs)


@pytest.fixture(scope="module")
def trained():
    """Two epochs of GDNSQ, and what another monitor sees before them."""
    qmodel = waist(keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2))
    before, monitor = look(qmodel).history, CapacityMonitor(X)
    fit(qmodel, monitor, epochs=2)
    return qmodel, before, monitor


def test_the_start_is_the_state_before_the_first_epoch(trained):
    _, before, monitor = trained
    start = monitor.history["start"]
    assert start == before["start"]
    for name, tensor in start["tensors"].items():
        for key, value in tensor.items():
            seen = before["tensors"][name][key]
            assert value == (seen[0] if isinstance(seen, list) else seen)
    assert start["tensors"]["wide_relu/activations"]["max_bits"] == 10.0
    assert start["network"]["bits_per_weight"] == pytest.approx(10.0, abs=0.05)  # snapped
    after = monitor.history["tensors"]["wide_relu/activations"]
    assert after["bits_per_value"][0] != start["tensors"]["wide_relu/activations"]["bits_per_value"]


def test_a_second_fit_keeps_the_start(trained):
    qmodel, before, monitor = trained
    fit(qmodel, monitor, initial_epoch=2, epochs=3)
    assert monitor.history["epochs"] == [0, 1, 2]
    assert monitor.history["start"] == before["start"]


def test_every_epoch_has_the_numbers_of_the_network(trained):
    _, _, monitor = trained
    history = monitor.history
    assert {len(values) for values in history["network"].values()} == {len(history["epochs"])}
    assert set(history["network"]) == set(history["start"]["network"])
    for epoch in range(len(history["epochs"])):
        tensors = history["tensors"].values()
        weights = [each for each in tensors if each["kind"] == "weights"]
        total = sum(each["values"] * each["mean_bits"][epoch] for each in weights)
        mean = total / sum(each["values"] for each in weights)
        assert history["network"]["bits_per_weight"][epoch] == mean
        bits = [each["bits_per_example"][epoch] for each in tensors if "bits_per_example" in each]
        assert history["network"]["bits_per_example"][epoch] == min(bits)  # a single path
    assert history["network"]["narrowest"][0] == ["narrow_relu/activations"]


def test_the_targets_are_the_averages_of_target_bits(trained):
    _, _, monitor = trained
    counts = {"wide": 48, "narrow": 16, "again": 16, "head": 24}
    bits = {"wide": 8, "narrow": 2, "again": 2, "head": 8}  # 8 at the ends of the network
    expected = sum(counts[name] * bits[name] for name in counts) / 104
    assert monitor.history["targets"]["bits_per_weight"] == expected


def test_the_float_network_is_seen_without_quantizers(trained):
    _, _, monitor = trained
    tensors = monitor.history["float"]["tensors"]
    assert tensors.keys() == monitor.history["tensors"].keys()
    assert {each["mean_bits"] for each in tensors.values()} == {32.0}
    features = tensors["features/activations"]
    assert (features["low"], features["high"]) == (float(X.min()), float(X.max()))
    assert 22.0 < features["bits_per_value"] < 26.0  # 24 bits of a mantissa, more for small values
    network = monitor.history["float"]["network"]
    assert (network["bits_per_weight"], network["bits_per_mac"]) == (32.0, 32.0)
    assert network["narrowest"] == ["narrow_relu/activations"]


def test_the_float_network_does_not_follow_the_training(trained):
    """Weights of the float network, not the latent ones that have moved since."""
    qmodel, before, _ = trained
    assert look(qmodel).history["float"] == before["float"]
    assert look(qmodel).history["start"] != before["start"]


def test_a_loaded_model_does_not_know_its_float_network(tmp_path):
    single().save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    loaded.compile(loss="mse")
    history = look(loaded).history
    assert "float" not in history
    assert history["start"]["network"]["bits_per_weight"] == 8.0


def test_layers_that_were_taken_apart_are_left_out_of_the_float_network():
    inputs = keras.Input((6,), name="features")
    model = keras.Model(inputs, layers.Dense(2, activation="relu", name="only")(inputs))
    history = look(keras_qat.quantize(model, "ste", calibration_data=X)).history
    assert set(history["float"]["tensors"]) == {"features/activations", "only/weights"}
    assert history["float"]["network"] == {}


def test_float32_is_a_channel_whose_step_grows():
    """Values from 1 to 2 lie 2**-23 apart: a uniform variance of 1/12 has 23 bits."""
    measured = FloatMeasurement()
    measured.add(np.linspace(1.0, 2.0, 10_001, dtype=np.float32)[:-1])
    found = measured.record()
    assert found["step"] == 2.0**-23
    assert found["bits_per_value"] == pytest.approx(23.0, abs=1e-3)
    scaled = FloatMeasurement()
    scaled.add(2.0**10 * np.linspace(1.0, 2.0, 10_001, dtype=np.float32)[:-1])
    assert scaled.record()["bits_per_value"] == pytest.approx(found["bits_per_value"], rel=1e-9)


def test_the_input_rate_is_the_entropy_of_the_codes():
    qmodel = single()
    codes = ops.convert_to_numpy(qmodel.get_layer("features_quantizer").codes(X))
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / codes.size
    entropy = -np.sum(shares * np.log2(shares))
    rate = look(qmodel).history["input_bits_per_example"]
    assert rate == pytest.approx(6 * entropy, rel=1e-12)
    assert rate <= 6 * 8


def test_entropy_by_hand():
    quantizer = STEActivationQuantizer(Grid.for_activations(2, signed=False))
    quantizer.build((None, 4))
    counts = CodeCounts(channel_of(quantizer))
    counts.add(np.zeros(8))
    assert counts.entropy() == 0.0
    counts.add(np.float32([1.0, 1.2, 2.0, 2.0, 3.0, 3.0, 9.0, 9.0]))  # 8, 2, 2 and 4 of 16
    assert counts.entropy() == 1 / 2 + 2 * 3 / 8 + 2 / 4


def test_a_raw_input_has_no_known_rate():
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    embedded = layers.Flatten()(layers.Embedding(9, 4, name="table")(tokens))
    model = keras.Model(tokens, layers.Dense(3, name="out")(embedded))
    data = np.random.default_rng(0).integers(0, 9, (8, 5))
    history = look(keras_qat.quantize(model, "ste", calibration_data=data), data=data).history
    assert history["input_bits_per_example"] is None
    assert history["network"]["bits_per_example"][0] is not None


def test_the_history_is_plain_json(trained):
    _, _, monitor = trained
    assert json.loads(json.dumps(monitor.history, allow_nan=False)) == monitor.history


def test_a_network_that_diverged_has_unknown_averages():
    qmodel = single()
    kernel = qmodel.get_layer("only").layer.kernel
    kernel.assign(np.full(kernel.shape, math.nan))
    history = look(qmodel).history
    assert history["network"]["bits_per_example"] == [None]  # the outputs are NaN
    json.dumps(history, allow_nan=False)
