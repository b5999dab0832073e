"""An output of one channel has no largest channel: its steps are compared, not its argmax."""

import json

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from tests.models import images, randomize
from tests.seams import RoundsOnce

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers

X = images(200, (8, 8, 3))


def binary_classifier(bits):
    """Few bits and no headroom (INT4): TensorFlow Lite Micro's second rounding changes answers."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(4):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 1)(x)))
    logit = layers.Dense(1, name="logit")(layers.GlobalAveragePooling2D()(x))
    model = randomize(keras.Model(inputs, logit))
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)
    return keras_qat.quantize(model, config, calibration_data=X)


def exported(qmodel, path, **options):
    return tflite_export.export(
        qmodel, path, target="tflm", samples=X, max_flip_rate=1.0, verbose=False, **options
    )


def changed_answers(qmodel, path):
    logits = qmodel.predict(X, verbose=0)
    threshold = np.median(logits)
    found = tflite_export.predict(path, X, runtime="tflm")
    return np.mean((found > threshold) != (logits > threshold))


def test_other_answers_of_a_binary_classifier_are_refused_by_its_steps(tmp_path):
    qmodel, path = binary_classifier(2), tmp_path / "net.tflite"
    message = r"max_output_error=0\.0625 is exceeded: the output 'logit' is judged by its values"
    with pytest.raises(tflite_export.ExportError, match=message):
        exported(RoundsOnce(qmodel), path, weight_storage="int4")
    assert not path.exists()

    report = exported(RoundsOnce(qmodel), path, weight_storage="int4", max_output_error=1.0)
    assert changed_answers(qmodel, path) > 1 / 3
    (error,) = report.comparison.output_errors
    assert error.mean_steps > 16
    assert report.comparison.argmax_agreement is None
    assert "argmax" not in report.render()
    assert "Output 'logit' (values): error of 4" in report.render()
    stated = json.loads(report.to_json())["comparison"]
    assert stated["output_errors"][0]["mean_steps"] == error.mean_steps
    assert stated["argmax_agreement"] is None


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 8])
def test_a_storage_with_headroom_passes(bits, tmp_path):
    qmodel, path = binary_classifier(bits), tmp_path / "net.tflite"
    (error,) = exported(qmodel, path).comparison.output_errors
    assert error.mean_steps < 1
    assert changed_answers(qmodel, path) < 0.05


class Shifted:
    """A trained model whose answers are some steps away from those of its integers."""

    def __init__(self, qmodel, steps):
        self._qmodel, self._steps = qmodel, steps

    def to_integer(self):
        return self._qmodel.to_integer()

    def layer_codes(self, x):
        codes = dict(self._qmodel.layer_codes(x))
        shifted = np.clip(codes["logit"].astype(int) + self._steps, -128, 127)
        return codes | {"logit": shifted.astype(np.int8)}


@pytest.mark.slow
@pytest.mark.parametrize(("target", "steps"), [("litert", 5), ("tflm", 40)])
def test_a_wrong_bias_of_a_regression_is_refused(target, steps, tmp_path):
    qmodel = binary_classifier(8)
    options = {"samples": X, "target": target, "max_flip_rate": 1.0, "verbose": False}
    tflite_export.export(Shifted(qmodel, 0), tmp_path / "right.tflite", **options)
    with pytest.raises(tflite_export.ExportError, match="max_output_error"):
        tflite_export.export(Shifted(qmodel, steps), tmp_path / "wrong.tflite", **options)
    tflite_export.export(
        Shifted(qmodel, steps), tmp_path / "allowed.tflite", max_output_error=0.5, **options
    )


def test_random_samples_are_not_held_to_it(tmp_path):
    qmodel = binary_classifier(8)
    tflite_export.export(
        Shifted(qmodel, 40), tmp_path / "net.tflite", max_flip_rate=1.0, verbose=False
    )


def test_one_channel_of_several_outputs_is_judged_apart(tmp_path):
    inputs = keras.Input((6,), name="features")
    x = layers.Dense(8, activation="relu")(inputs)
    heads = [layers.Dense(3, name="classes")(x), layers.Dense(1, name="amount")(x)]
    samples = images(64, (6,))
    qmodel = keras_qat.quantize(keras.Model(inputs, heads), calibration_data=samples)
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=samples, verbose=False)
    assert [error.name for error in report.comparison.output_errors] == ["amount"]
    assert report.comparison.argmax_agreement >= 0.99
