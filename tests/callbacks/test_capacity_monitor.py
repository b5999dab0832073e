"""`CapacityMonitor`: it records what is in the model, and only looks on."""

import json
import struct

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
from keras_qat.callbacks import CapacityMonitor, GDNSQSchedule
from keras_qat.quantizers import LSQActivationQuantizer

layers = keras.layers
X = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
Y = np.arange(16) % 3
SERIES = {"mean_bits", "max_bits", "step", "low", "high", "saturation", "bits_per_value"}


def waist(config=None):
    """Dense layers of 8, 2 and 8 units with ReLUs, and a softmax head."""
    inputs = x = keras.Input((6,), name="features")
    for name, units in (("wide", 8), ("narrow", 2), ("again", 8)):
        x = layers.Dense(units, name=name, bias_initializer=keras.initializers.Constant(0.5))(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    outputs = layers.Dense(3, activation="softmax", name="head")(x)
    model = keras.Model(inputs, outputs, name="waist")
    qmodel = keras_qat.quantize(model, config or keras_qat.GDNSQConfig(), calibration_data=X)
    qmodel.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return qmodel


def single(name="only"):
    """One Dense layer."""
    model = keras.Sequential([keras.Input((6,), name="features"), layers.Dense(2, name=name)])
    return keras_qat.quantize(model, "ste", calibration_data=X)


def look(qmodel, epoch=0, data=X, **kwargs):
    """The monitor of a model after one epoch without training."""
    monitor = CapacityMonitor(data, **kwargs)
    monitor.set_model(qmodel)
    monitor.on_train_begin()
    monitor.on_epoch_end(epoch)
    return monitor


@pytest.fixture(scope="module")
def qmodel():
    """An untrained GDNSQ model. Tests must not change it."""
    return waist()


@pytest.fixture(scope="module")
def monitor(qmodel):
    return look(qmodel)


def test_every_quantizer_has_a_record(qmodel, monitor):
    assert monitor.history["epochs"] == [0]
    tensors = monitor.history["tensors"]
    assert list(tensors) == [
        "features/activations",
        "wide/weights",
        "wide_relu/activations",
        "narrow/weights",
        "narrow_relu/activations",
        "again/weights",
        "again_relu/activations",
        "head/weights",
        "head/activations",
    ]
    assert len(tensors) == len(qmodel.quantizers)
    for name, tensor in tensors.items():
        assert tensor["kind"] == name.rsplit("/", 1)[1]
        series = {key for key, values in tensor.items() if isinstance(values, list)}
        assert series - {"bits_per_example"} == SERIES
        assert all(len(tensor[key]) == 1 for key in series)
        assert tensor["target_bits"] == 8
        assert tensor["learned"] == (name != "features/activations")
    assert tensors["features/activations"]["max_bits"] == [8.0]
    assert tensors["wide_relu/activations"]["max_bits"][0] == pytest.approx(10.0, abs=0.01)


def test_records_are_those_of_the_values_in_the_model(qmodel, monitor):
    """The pre-activations, computed here, of the first layer of a model."""
    wide = qmodel.get_layer("wide")
    features = ops.convert_to_numpy(qmodel.get_layer("features_quantizer")(X))
    kernel = ops.convert_to_numpy(wide.weight_quantizer(wide.layer.kernel))
    values = np.maximum(features @ kernel + ops.convert_to_numpy(wide.deployed_bias()), 0.0)
    found = monitor.history["tensors"]["wide_relu/activations"]
    (step,), (high,) = found["step"], found["high"]
    expected = min(0.5 * np.log2(1.0 + 12.0 * np.var(values) / step**2), 10.0)
    assert found["bits_per_value"][0] == pytest.approx(expected, rel=1e-3)
    assert found["saturation"][0] == np.mean(values > high + step / 1024)
    assert found["values"] == 8
    assert found["bits_per_example"] == [8 * found["bits_per_value"][0]]
    weights = monitor.history["tensors"]["wide/weights"]
    assert weights["values"] == 48
    assert "bits_per_example" not in weights


def test_saturation_sees_a_narrow_range():
    qmodel = waist(keras_qat.STEConfig())
    quantizer = qmodel.get_layer("wide_relu_quantizer")
    probe = keras.Model(qmodel.inputs, qmodel.get_layer("wide_relu").output)
    values = probe.predict(X, verbose=0)
    quantizer.set_scale(np.median(values[values > 0.0]) / 255.0)
    share = look(qmodel).history["tensors"]["wide_relu/activations"]["saturation"][0]
    assert share == pytest.approx(np.mean(values > 0.0) / 2.0, abs=1.0 / values.size)


def test_batches_of_any_size_tell_the_same():
    qmodel = single()
    other = look(qmodel, batch_size=6).history["tensors"]  # 6, 6 and 4 of 16
    for name, tensor in look(qmodel).history["tensors"].items():
        for key in SERIES:
            np.testing.assert_allclose(other[name][key], tensor[key], rtol=1e-4, atol=1e-9)


def test_the_history_survives_json(monitor, tmp_path):
    path = tmp_path / "capacity.json"
    monitor.save_json(path)
    monitor.save_json(path)  # over the one that is there
    assert json.loads(path.read_text()) == monitor.history
    assert [file.name for file in tmp_path.iterdir()] == ["capacity.json"]


def test_a_run_that_diverged_is_recorded_as_such(tmp_path):
    qmodel = single()
    kernel = qmodel.get_layer("only").layer.kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    monitor = look(qmodel)
    assert monitor.history["tensors"]["only/weights"]["bits_per_value"] == [None]
    assert "features/activations" not in monitor.bottlenecks(n=2)
    monitor.save_json(tmp_path / "capacity.json")
    assert "NaN" not in (tmp_path / "capacity.json").read_text()


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """`fit` for three epochs, watched: what there is to say of it."""
    qmodel, log_dir = waist(keras_qat.LSQConfig()), tmp_path_factory.mktemp("logs")
    qmodel.starts_untrained = False  # growing ranges run the model op by op
    monitor = CapacityMonitor(X, log_dir=log_dir, batch_size=6)
    traced, fake_quantize = [0], LSQActivationQuantizer.fake_quantize

    def counted(self, *args, **kwargs):
        traced[0] += 1
        return fake_quantize(self, *args, **kwargs)

    counts = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: counts.append(traced[0]))
    before = qmodel.get_config(), [v.path for v in qmodel.variables], qmodel.count_params()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LSQActivationQuantizer, "fake_quantize", counted)
        qmodel.fit(X, Y, batch_size=8, epochs=3, verbose=0, callbacks=[monitor, count])
    return qmodel, monitor, counts, before, log_dir


def test_it_compiles_in_the_first_epoch_only(watched):
    _, monitor, counts, _, _ = watched
    assert monitor.history["epochs"] == [0, 1, 2]
    assert counts[0] > 0
    assert counts == [counts[0]] * 3


def test_the_model_keeps_its_layers_and_variables(watched):
    qmodel, _, _, (config, _, parameters), _ = watched
    assert qmodel.get_config() == config
    assert qmodel.count_params() == parameters
    assert not any(isinstance(layer, keras.Model) for layer in qmodel._flatten_layers()[1:])


def test_a_watched_model_saves_and_loads(watched, tmp_path):
    qmodel, _, _, _, _ = watched
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), qmodel.predict(X, verbose=0))


def test_looking_changes_no_variable_and_sees_the_last_epoch(watched):
    qmodel, monitor, _, _, _ = watched
    before = [np.array(ops.convert_to_numpy(v)) for v in qmodel.variables]
    now, then = look(qmodel, batch_size=6).history["tensors"], monitor.history["tensors"]
    for variable, value in zip(qmodel.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    for name, tensor in now.items():
        for key in SERIES:
            assert then[name][key][2] == tensor[key][0]
    steps = then["wide_relu/activations"]["step"]
    assert steps[0] != steps[1] != steps[2]


def events(log_dir):
    """What the event files hold: `{plugin: {tag: [(step, value), ...]}}`."""
    import tensorflow as tf

    found = {}
    for path in sorted(map(str, log_dir.iterdir())):
        for record in tf.data.TFRecordDataset(path):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plugin, array = (
                    value.metadata.plugin_data.plugin_name,
                    tf.make_ndarray(value.tensor),
                )
                content = float(array) if plugin == "scalars" else array
                found.setdefault(plugin, {}).setdefault(value.tag, []).append((event.step, content))
    return found


def test_tensorboard_gets_every_number(watched):
    _, monitor, _, _, log_dir = watched
    found = events(log_dir)["scalars"]
    series = {**monitor.history["tensors"], "network": monitor.history["network"]}
    expected = {
        f"{key}/{name}": values
        for name, tensor in series.items()
        for key, values in tensor.items()
        if isinstance(values, list) and isinstance(values[0], float)
    }
    assert {"bits_per_weight/network", "bits_per_activation/network"} <= expected.keys()
    assert {"bits_per_mac/network", "bits_per_example/network"} <= expected.keys()
    assert "saturation/wide_relu/activations" in expected
    assert found.keys() == expected.keys()
    for tag, values in expected.items():
        assert [step for step, _ in found[tag]] == [0, 1, 2]
        np.testing.assert_allclose([value for _, value in found[tag]], values, rtol=1e-6)


def test_tensorboard_gets_the_codes_and_a_picture(watched):
    qmodel, _, _, _, log_dir = watched
    found = events(log_dir)
    histograms = found["histograms"]
    assert set(histograms) == {f"codes/{name}" for name in qmodel.quantizer_sites()}
    layer = next(each for each in qmodel.layers if hasattr(each, "weight_codes"))
    steps, buckets = zip(*histograms[f"codes/{layer.name}/weights"], strict=True)
    assert steps == (0, 1, 2)
    codes = layer.weight_codes() - layer.weight_quantizer.grid.qmin
    last = buckets[-1]
    counts = [np.sum((codes > low) & (codes < high)) for low, high, _ in last]
    np.testing.assert_array_equal(last[:, 2], counts)
    assert last[:, 2].sum() == codes.size
    ((step, (width, height, picture)),) = found["images"]["capacity"]
    assert step == 2
    size = struct.unpack(">II", picture[16:24])  # of the PNG
    assert size == (int(width), int(height))


def test_epochs_run_again_replace_their_records():
    monitor = look(single())
    monitor.on_train_end()
    monitor.on_train_begin()  # as `fit` with initial_epoch=1
    for epoch in (1, 2, 1):
        monitor.on_epoch_end(epoch)
    assert monitor.history["epochs"] == [0, 1]
    assert len(monitor.history["tensors"]["only/weights"]["step"]) == 2
    assert {len(values) for values in monitor.history["network"].values()} == {2}


def test_what_the_schedule_did_by_hand_is_recorded_with_the_capacity():
    config = keras_qat.GDNSQConfig(weight_bits=6, activation_bits=6, start_bits=8)
    monitor = CapacityMonitor(X)
    history = (
        waist(config)
        .fit(
            np.repeat(X, 8, axis=0),
            np.repeat(Y, 8),
            batch_size=4,
            epochs=5,
            verbose=0,
            callbacks=[GDNSQSchedule(verbose=0), monitor],
        )
        .history
    )
    for key in ("assisted_widths", "refit_octaves"):
        assert monitor.history["network"][key] == [float(value) for value in history[key]]
    assert sum(history["refit_octaves"]) > 0.0


def test_another_model_starts_over():
    monitor = look(single())
    monitor.set_model(single("other"))
    monitor.on_train_begin()
    assert (monitor.history["epochs"], monitor.history["tensors"]) == ([], {})
    assert "other/weights" in monitor.history["start"]["tensors"]
    monitor.on_epoch_end(0)
    assert set(monitor.history["tensors"]) >= {"other/weights", "features/activations"}
    assert "only/weights" not in monitor.history["tensors"]


def test_on_jax_variables_are_brought_back_first(monkeypatch):
    """In `fit` on JAX they are elsewhere: without the call, old ones would be read."""
    qmodel = single()

    def bring_back(self):
        self.get_layer("only").weight_quantizer.set_scale(np.full(2, 0.375))

    monkeypatch.setattr(type(qmodel), "jax_state_sync", bring_back, raising=False)
    assert look(qmodel).history["tensors"]["only/weights"]["step"] == [0.375]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"data": None}, "Received: None"),
        ({"data": X, "batch_size": 0}, "batch_size"),
        ({"data": X, "batch_size": 2.0}, "batch_size"),
    ],
)
def test_bad_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        CapacityMonitor(**arguments)


def test_a_log_dir_wants_tensorflow(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="Leave log_dir out"):
        CapacityMonitor(X, log_dir=tmp_path)
    with pytest.raises(ValueError, match="Leave labels out"):
        CapacityMonitor(X, labels=Y)
    CapacityMonitor(X)


def test_data_that_do_not_fit_are_named(qmodel):
    with pytest.raises(ValueError, match=r"CapacityMonitor cannot run its data: .* 'features'"):
        look(qmodel, data=X[:, :5])


def test_models_without_quantizers_are_refused():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2, name="only")], name="float")
    with pytest.raises(ValueError, match=r"keras_qat\.quantize returned.*'float'"):
        look(model)
    with pytest.raises(ValueError, match="no quantizers to monitor"):
        look(keras_qat.QuantizedModel(model.inputs, model.outputs))
