"""`preserve_sparsity` and `preserve_clusters`: from the float model into the file."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.callbacks import GDNSQSchedule, PEGESchedule
from keras_qat.quantized_layers import quantized_kernels
from tests.models import depthwise_network, images, randomize

layers = keras.layers
X = images(64, (8, 8, 3))
Y = np.arange(64) % 5

CONFIGS = {
    "ste": keras_qat.STEConfig(weight_bits=3),
    "lsq": keras_qat.LSQConfig(weight_bits=2),
    "dorefa": keras_qat.DoReFaConfig(weight_bits=2),
    "waveq": keras_qat.WaveQConfig(weight_bits=3),
    "gdnsq": keras_qat.GDNSQConfig(weight_bits=7, activation_bits=7, start_bits=8),
    "pege": keras_qat.PEGEConfig(weight_bits=3),
    "ewgs": keras_qat.LSQConfig(weight_bits=3, estimator="ewgs", code_regularization=0.1),
}
OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1),
    "sgd": lambda: keras.optimizers.SGD(1e-2, momentum=0.9, nesterov=True, weight_decay=0.1),
}


def pruned(model, share=0.6):
    """The same model with the smallest weights of each kernel set to 0."""
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = np.asarray(layer.kernel)
            smallest = np.abs(kernel) < np.quantile(np.abs(kernel), share)
            layer.kernel.assign(np.where(smallest, 0.0, kernel))
    return model


def clustered(model, clusters=4):
    """The same model with the weights of each kernel moved to a few values, zero among them."""
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = np.asarray(layer.kernel)
            step = 2.0 * np.abs(kernel).max() / clusters
            layer.kernel.assign(np.round(kernel / step) * step)
    return model


def schedules(name):
    return {"gdnsq": [GDNSQSchedule(verbose=0)], "pege": [PEGESchedule()]}.get(name, [])


def compiled(qmodel, optimizer="adamw"):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(OPTIMIZERS[optimizer](), loss, jit_compile=False)
    return qmodel


def fit(qmodel, name="lsq", epochs=2):
    x, y = (X, Y) if name != "gdnsq" else (np.tile(X, (4, 1, 1, 1)), np.tile(Y, 4))
    data = {"batch_size": 8, "shuffle": False, "verbose": 0}
    qmodel.fit(x, y, epochs=epochs, callbacks=schedules(name), **data)
    return qmodel


def codes(qmodel):
    return {
        kernel.name: np.asarray(kernel.weight_quantizer.codes(kernel.channels_last_kernel()))
        for layer in qmodel.layers
        for kernel in quantized_kernels(layer)
    }


def latents(qmodel):
    return {
        kernel.name: np.array(kernel.channels_last_kernel())
        for layer in qmodel.layers
        for kernel in quantized_kernels(layer)
    }


def values(kernel):
    """The number of different values in each channel."""
    channels = kernel.reshape(-1, kernel.shape[-1]).T
    return np.array([np.unique(channel).size for channel in channels])


@pytest.mark.parametrize(
    ("name", "optimizer"), [*((name, "adamw") for name in CONFIGS), ("lsq", "sgd")]
)
def test_zeros_and_clusters_stay_in_training_and_in_the_file(name, optimizer, tmp_path):
    model = pruned(clustered(depthwise_network(), 16))
    options = {"preserve_sparsity": True, "preserve_clusters": True}
    qmodel = keras_qat.quantize(model, CONFIGS[name], calibration_data=X, **options)
    start = latents(qmodel)
    fit(compiled(qmodel, optimizer), name)
    report = tflite_export.export(qmodel, tmp_path / "model.tflite", samples=X, verbose=False)
    assert report.mismatches == 0
    for weight, (key, then) in zip(report.weights, start.items(), strict=True):
        now, learned = latents(qmodel)[key], codes(qmodel)[key]
        np.testing.assert_array_equal(now[then == 0], 0.0)
        assert np.any(now != then)
        assert not learned[then == 0].any()
        assert weight.zeros == np.mean(learned == 0) >= np.mean(then == 0) >= 0.4
        assert all(values(learned) <= values(then))
        assert weight.values == max(values(learned))
    assert "zeros  values" in report.render()


@pytest.mark.parametrize("option", ["preserve_sparsity", "preserve_clusters"])
def test_either_option_works_alone(option):
    model = clustered(depthwise_network())
    qmodel = keras_qat.quantize(model, "ste", calibration_data=X, **{option: True})
    start = latents(qmodel)
    fit(compiled(qmodel), epochs=1)
    for key, then in start.items():
        learned = codes(qmodel)[key]
        assert all(values(learned) <= values(then)) == (option == "preserve_clusters")
        assert learned[then == 0].any() == (option == "preserve_clusters")


def test_the_same_training_fills_zeros_without_it():
    model = pruned(depthwise_network())
    with pytest.warns(
        UserWarning, match=r"'head' \(60%\), and training fills .*preserve_sparsity="
    ):
        qmodel = keras_qat.quantize(model, "lsq", calibration_data=X)
    fit(compiled(qmodel))
    assert np.mean(latents(qmodel)["head"] == 0) < 0.1


def test_saved_loaded_and_resumed_it_is_the_same_training(tmp_path):
    model = pruned(clustered(depthwise_network(), 16))
    options = {"preserve_sparsity": True, "preserve_clusters": True}
    qmodel = compiled(keras_qat.quantize(model, "lsq", calibration_data=X, **options))
    fit(qmodel, epochs=1).save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    fit(loaded, epochs=1)
    fit(qmodel, epochs=1)
    for now, then in zip(loaded.variables, qmodel.variables, strict=True):
        np.testing.assert_array_equal(now, then, err_msg=then.path)
    clone = keras.models.clone_model(qmodel)
    clone.set_weights(qmodel.get_weights())
    fit(compiled(clone), epochs=1)
    for key, found in codes(clone).items():
        assert not found[latents(qmodel)[key] == 0].any()
        assert all(values(found) <= values(latents(qmodel)[key]))


def test_a_shared_layer_keeps_its_zeros():
    shared = layers.Dense(6, name="shared")
    inputs = keras.Input((6,), name="numbers")
    x = layers.ReLU(name="relu")(shared(inputs))
    outputs = layers.Dense(5, name="head")(shared(x))
    model = pruned(randomize(keras.Model(inputs, outputs)))
    x = images(64, (6,))
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=x, preserve_sparsity=True)
    start = latents(qmodel)
    compiled(qmodel).fit(x, Y, epochs=2, verbose=0)
    assert not latents(qmodel)["shared"][start["shared"] == 0].any()
    assert np.any(latents(qmodel)["shared"] != start["shared"])


def test_weight_only_kernels_keep_their_zeros(tmp_path):
    config = keras_qat.LSQConfig(weight_bits=3, activation_bits=None)
    inputs = keras.Input((6,), name="numbers")
    outputs = layers.EinsumDense("ab,bc->ac", (5,), name="einsum")(inputs)
    model = pruned(keras.Model(inputs, outputs))
    x = images(64, (6,))
    qmodel = keras_qat.quantize(model, config, calibration_data=x, preserve_sparsity=True)
    zeros = latents(qmodel)["einsum"] == 0
    compiled(qmodel).fit(x, Y, epochs=2, verbose=0)
    assert not codes(qmodel)["einsum"][zeros].any()
    report = tflite_export.export(qmodel, tmp_path / "model.tflite", samples=x, verbose=False)
    (weight,) = report.float_parts[0].weights
    assert weight.zeros == np.mean(codes(qmodel)["einsum"] == 0) >= 0.6
    assert weight.values == max(np.unique(each).size for each in codes(qmodel)["einsum"].T)


def test_one_bit_has_no_zero_and_the_ways_out_work():
    model, config = pruned(depthwise_network()), keras_qat.LSQConfig(weight_bits=1)
    message = r"'depthwise' has 60% zeros, and 1 bit has the levels -1 and \+1 alone\nWays out: "
    with pytest.raises(keras_qat.UnsupportedLayerError, match=message):
        keras_qat.quantize(model, config, calibration_data=X, preserve_sparsity=True)
    two = {"depthwise": keras_qat.LSQConfig(weight_bits=2)}
    qmodel = keras_qat.quantize(
        model, config, overrides=two, calibration_data=X, preserve_sparsity=True
    )
    assert np.mean(codes(qmodel)["depthwise"] == 0) >= 0.59
    others = keras_qat.LSQConfig(preserve_sparsity=True)
    qmodel = keras_qat.quantize(model, others, overrides={"depthwise": config}, calibration_data=X)
    assert np.mean(codes(qmodel)["depthwise"] == 0) == 0.0
    assert np.mean(codes(qmodel)["head"] == 0) >= 0.6


def test_a_free_offset_has_no_zero():
    config = keras_qat.GDNSQConfig(offset="free")
    with pytest.raises(keras_qat.UnsupportedLayerError, match="offset='snapped' has one"):
        keras_qat.quantize(
            pruned(depthwise_network()), config, calibration_data=X, preserve_sparsity=True
        )


def test_a_config_that_makes_its_own_quantizers_has_to_know_it():
    class Own(keras_qat.LSQConfig):
        def weight_quantizer(self, bits):
            return keras_qat.quantizers.LSQWeightQuantizer(
                keras_qat.quantizers.Grid.for_weights(bits), per_channel=True
            )

    model = depthwise_network()
    assert keras_qat.quantize(model, Own(), calibration_data=X)
    with pytest.raises(ValueError, match=r"Own .*'conv'.*preserve_clusters.*_for_weights\(bits\)"):
        keras_qat.quantize(model, Own(), calibration_data=X, preserve_clusters=True)


def test_the_argument_switches_the_option_on_everywhere():
    overrides = {"head": "ste", "depthwise": None}
    options = {"preserve_sparsity": True, "preserve_clusters": True}
    plan = keras_qat.plan(depthwise_network(), "dorefa", overrides=overrides, **options)
    found = {each.name: each.config for each in plan.layers}
    assert found["head"] == keras_qat.STEConfig(**options)
    assert found["conv"] == keras_qat.DoReFaConfig(**options)
    assert found["depthwise"] is None


def test_a_flag_that_is_no_bool_is_refused():
    with pytest.raises(ValueError, match=r"preserve_sparsity must be True or False. Received: 0.8"):
        keras_qat.quantize(depthwise_network(), calibration_data=X, preserve_sparsity=0.8)
