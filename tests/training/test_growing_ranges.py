"""Ranges grow in the first batches of a network that starts from random weights, and only there."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
from keras_qat.quantizers import ActivationQuantizer
from keras_qat.training.growing_ranges import FIRST_BATCHES, RangeGrowth, growth, looks_untrained

layers = keras.layers
X = np.random.default_rng(0).normal(0, 1, (64, 4)).astype(np.float32)
Y = 50.0 * X[:, :1]


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="features")
    hidden = layers.Dense(8, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(1, name="out")(hidden))


def quantized(config=None, model=None, rate=0.1):
    qmodel = keras_qat.quantize(model or network(), config, calibration_data=X)
    qmodel.compile(keras.optimizers.Adam(rate), "mse")
    return qmodel


def top_of(qmodel, name="out"):
    quantizer = qmodel.named_quantizers[f"{name}/activations"]
    return float(quantizer.scale) * quantizer.grid.qmax


@pytest.mark.parametrize("config", ["lsq", "ste", "dorefa", "pege", "gdnsq"])
def test_outputs_reach_labels_far_beyond_the_first_range(config):
    qmodel = quantized(config)
    start = top_of(qmodel)
    assert start < 5.0
    callbacks = [keras_qat.callbacks.PEGESchedule()] if config == "pege" else []
    if config == "gdnsq":
        callbacks = [keras_qat.callbacks.GDNSQSchedule(anneal=None)]
    qmodel.fit(X, Y, epochs=40, batch_size=8, verbose=0, callbacks=callbacks)
    assert top_of(qmodel) > 50.0
    assert np.mean((qmodel.predict(X, verbose=0) - Y) ** 2) < 0.1 * np.mean(Y**2)


def test_what_counts_as_untrained():
    model = network()
    assert looks_untrained(model)
    for layer in model.layers[1:]:
        layer.bias.assign_add(np.full(layer.bias.shape, 1e-3))
    assert not looks_untrained(model)
    assert not quantized(model=model).starts_untrained
    model.layers[-1].bias.assign(np.zeros(1))  # a new head on a trained network
    assert quantized(model=model).starts_untrained
    model.layers[-1].trainable = False
    assert not quantized(model=model).starts_untrained
    normalized = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    assert looks_untrained(normalized)
    normalized.layers[0].gamma.assign(np.full(4, 0.9))
    assert not looks_untrained(normalized)


def test_a_trained_network_keeps_its_ranges():
    model = network()
    for layer in model.layers[1:]:
        layer.bias.assign_add(np.full(layer.bias.shape, 1e-3))
    qmodel = quantized("ste", model)
    start = top_of(qmodel)
    qmodel.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    assert top_of(qmodel) == start


def test_growth_is_that_of_the_least_squared_error():
    quantizer = ActivationQuantizer({"qmin": -128, "qmax": 127})
    quantizer.build((None, 4))
    quantizer.set_scale(1.0)
    assert growth(np.linspace(-128.0, 127.0, 999), quantizer) == 1.0
    assert growth(np.linspace(-512.0, 508.0, 999), quantizer) == 4.0
    few = np.concatenate([np.linspace(-128.0, 127.0, 999), [1e4] * 9])
    assert growth(few, quantizer) == 1.0  # 0.9 % are clipped
    assert growth(np.array([np.nan, 1e4]), quantizer) == 1.0
    quantizer.widen(4.0)
    assert float(quantizer.scale) == 4.0


@pytest.mark.parametrize(
    ("config", "factors"), [("ste", [2.0, 1.0]), ("dorefa", [2.0, 1.0]), ("lsq", [2.0, 1.0])]
)
def test_kernels_grow_channel_by_channel(config, factors):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="dense")])
    kernel = np.random.default_rng(0).uniform(-1, 1, (4, 2)).astype(np.float32)
    kernel[0] = 1.0
    model.layers[0].kernel.assign(kernel)
    weights = keras_qat.quantize(model, config, calibration_data=X).layers[2].weight_quantizer
    before = np.array(weights.scale)
    np.testing.assert_array_equal(weights.outgrown(kernel), [1.0, 1.0])
    found = weights.outgrown(kernel * factors)
    np.testing.assert_allclose(found, factors, rtol=1e-6)  # of float32 scales
    weights.widen(found)
    np.testing.assert_allclose(np.array(weights.scale), before * factors, rtol=1e-6)


def test_free_and_deployable_ranges_of_gdnsq_grow_by_octaves():
    for config in (keras_qat.GDNSQConfig(), keras_qat.GDNSQConfig(offset="free")):
        qmodel = quantized(config)
        quantizer = qmodel.named_quantizers["out/activations"]
        step, levels = float(quantizer.scale), float(quantizer.levels())
        quantizer.widen(3.0)
        assert float(quantizer.scale) == 4.0 * step
        assert float(quantizer.levels()) == levels


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_a_run_that_resumes_ends_bit_equal(tmp_path):
    options = {"x": X, "y": Y, "epochs": 5, "batch_size": 8, "verbose": 0, "shuffle": False}
    whole = quantized("ste")
    whole.fit(**options)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    killed = quantized("ste")
    with pytest.raises(KeyboardInterrupt):
        killed.fit(**options, callbacks=[backup, Kill()])
    killed.save(tmp_path / "killed.keras")
    again = keras_qat.load_model(tmp_path / "killed.keras")
    assert again.starts_untrained
    again.fit(**options, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    for one, other in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_ranges_are_looked_at_after_the_first_batches_alone(monkeypatch):
    looks = []
    monkeypatch.setattr(RangeGrowth, "_grow", lambda self, probe: looks.append(self._done))
    qmodel = quantized()
    qmodel.fit(X, Y, epochs=3, batch_size=8, verbose=0)
    qmodel.fit(X, Y, epochs=1, batch_size=8, verbose=0)
    assert looks == [each for each in FIRST_BATCHES if each <= 32]
    qmodel.optimizer.iterations.assign(FIRST_BATCHES[-1])
    qmodel.fit(X, Y, epochs=1, batch_size=8, verbose=0)
    assert len(looks) == len([each for each in FIRST_BATCHES if each <= 32])


def test_a_dataset_is_judged_by_the_calibration_data():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).repeat().batch(8)
    options = {"epochs": 20, "steps_per_epoch": 8, "verbose": 0, "shuffle": False}
    qmodel = quantized("ste")
    start = top_of(qmodel)
    qmodel.fit(dataset, **options)
    assert top_of(qmodel) > 2.0 * start
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(qmodel))
    loaded.compile("sgd", "mse")
    with pytest.warns(UserWarning, match=r"looks untrained, .*cannot grow.*Pass arrays to fit"):
        loaded.fit(dataset, **options)
    loaded.fit(X, Y, verbose=0)  # the way out


def test_weights_that_training_turned_into_nan_end_no_fit_and_are_refused_in_the_export():
    qmodel = quantized("ste")
    broken = X.copy()
    broken[3] = np.nan
    assert np.isnan(qmodel.fit(broken, Y, batch_size=8, verbose=0).history["loss"][-1])
    with pytest.raises(keras_qat.LoweringError, match=r"Layer 'hidden' holds NaN.* 32 of 32"):
        qmodel.to_integer()
