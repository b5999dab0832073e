"""A target is asked before training what it cannot hold, and again after each epoch."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.targets import known_targets
from tests.models import dense_network, points

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

layers = keras.layers
X, Y = points(64)


def with_a_layer_in_float():
    inputs = keras.Input((6,), name="numbers")
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Dense(3, name="last")(x))


def recurrent(unroll):
    inputs = keras.Input((4, 6), name="steps")
    x = layers.LSTM(3, unroll=unroll, name="memory")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="last")(x))


STEPS = np.random.default_rng(0).normal(size=(32, 4, 6)).astype(np.float32)


def test_float_parts_are_refused_for_tflm_by_their_names():
    model = with_a_layer_in_float()
    with pytest.raises(
        keras_qat.UnsupportedLayerError,
        match=r"Target 'tflm' cannot hold this network: The layers 'norm' compute in float32.*"
        r"Export for 'litert'",
    ):
        keras_qat.quantize(model, calibration_data=X, target="tflm")
    assert keras_qat.quantize(model, calibration_data=X, target="litert").target == "litert"
    assert keras_qat.quantize(model, calibration_data=X).target is None


@pytest.mark.slow
def test_a_loop_is_refused_before_training_and_its_way_out_works(tmp_path):
    options = {"overrides": {"memory": None}, "calibration_data": STEPS, "target": "litert"}
    with pytest.raises(keras_qat.UnsupportedLayerError, match=r"'memory'.*set unroll=True"):
        keras_qat.quantize(recurrent(unroll=False), **options)
    qmodel = keras_qat.quantize(recurrent(unroll=True), **options)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=STEPS, verbose=False)
    assert report.mismatches == 0


def test_a_plan_says_it_too():
    planned = keras_qat.plan(with_a_layer_in_float(), calibration_data=X, target="tflm")
    assert "Target 'tflm' cannot hold this network: The layers 'norm'" in planned.warnings[-1]
    assert keras_qat.plan(dense_network(), calibration_data=X, target="tflm").warnings == ()
    with pytest.raises(ValueError, match=r"plan\(target=...\) needs calibration_data"):
        keras_qat.plan(dense_network(), target="tflm")


def test_learned_widths_are_asked_at_their_targets():
    qmodel = keras_qat.quantize(dense_network(), "gdnsq", calibration_data=X, target="tflm")
    assert not qmodel.meets_targets()
    assert qmodel.target == "tflm"


@pytest.mark.parametrize("function", [keras_qat.quantize, keras_qat.plan])
def test_an_unknown_target(function):
    message = r"must be None or one of \['ethos-u', 'litert', 'tflm'\]\. Received: 'phone'"
    with pytest.raises(ValueError, match=message):
        function(dense_network(), calibration_data=X, target="phone")
    assert known_targets() == sorted(tflite_export.targets.TARGETS)


def test_the_target_is_saved(tmp_path):
    keras_qat.quantize(dense_network(), calibration_data=X, target="tflm").save(
        tmp_path / "model.keras"
    )
    assert keras_qat.load_model(tmp_path / "model.keras").target == "tflm"


class Ruins(keras.callbacks.Callback):
    """Sets a bias that int32 cannot hold, after the second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            hidden = self.model.get_layer("hidden")
            scale = hidden.weight_quantizer.scale
            hidden.weight_quantizer.set_scale(np.full(scale.shape, 1e-6, np.float32))
            hidden.layer.bias.assign(np.full(hidden.layer.bias.shape, 100.0, np.float32))
            self.model.get_layer("hidden_relu_quantizer").set_scale(1.0)


def test_fit_looks_again_after_every_epoch():
    qmodel = keras_qat.quantize(dense_network(), calibration_data=X, target="litert")
    qmodel.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match=r"After epoch 2, target 'litert' cannot hold .*'hidden"):
        qmodel.fit(X, Y, epochs=2, verbose=0, callbacks=[Ruins()])


def test_a_fit_that_stays_within_says_nothing():
    qmodel = keras_qat.quantize(dense_network(), calibration_data=X, target="tflm")
    qmodel.compile("sgd", "sparse_categorical_crossentropy")
    qmodel.fit(X, Y, epochs=2, verbose=0)
