"""Outputs are judged by what they are: classes of pixels, sides of a threshold, or numbers."""

import contextlib

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.training.output_kinds import kind_of, output_kinds
from tests.models import images, randomize
from tests.seams import RoundsOnce
from tflite_export.proof.comparison import ModelComparison
from tflite_export.proof.limits import Limits, check_limits
from tflite_export.proof.output_difference import OutputDifference
from tflite_export.targets import get_target

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

layers, losses = keras.layers, keras.losses
X = images(64, (16, 16, 3))


def pixels(channels, activation=None, name="pixels"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    outputs = layers.Conv2D(channels, 1, activation=activation, name=name)(x)
    return randomize(keras.Model(inputs, outputs))


def exported(qmodel, tmp_path, **options):
    options = {"samples": X, "target": "tflm", "verbose": False} | options
    return tflite_export.export(qmodel, tmp_path / "net.tflite", **options)


def quantized(model, loss=None):
    qmodel = keras_qat.quantize(model, calibration_data=X)
    if loss is not None:
        qmodel.compile("sgd", loss)
    return qmodel


def test_segmentation_counts_pixels(tmp_path):
    qmodel = quantized(pixels(3), losses.SparseCategoricalCrossentropy(from_logits=True))
    (output,) = exported(RoundsOnce(qmodel), tmp_path).comparison.outputs
    assert (output.kind, output.threshold, output.positions) == ("scores", None, 64 * 16 * 16)
    logits = qmodel.predict(X, verbose=0)
    file = tflite_export.predict(tmp_path / "net.tflite", X, runtime="tflm")
    kept = np.mean(logits.argmax(-1) == np.asarray(file).argmax(-1))
    assert output.agreement == pytest.approx(kept, abs=1e-9)
    assert 0.99 < output.agreement < 1.0  # one pixel of 256 would have failed most images


def test_several_labels_are_sides_of_a_threshold(tmp_path):
    qmodel = quantized(pixels(4, "sigmoid"), "binary_crossentropy")
    (output,) = exported(qmodel, tmp_path).comparison.outputs
    assert (output.kind, output.threshold, output.positions) == ("scores", 0.5, 64 * 256 * 4)
    assert output.agreement > 0.98


def test_an_autoencoder_is_judged_by_its_steps(tmp_path):
    report = exported(RoundsOnce(quantized(pixels(3, "sigmoid"), "mse")), tmp_path)
    (output,) = report.comparison.outputs
    assert (output.kind, output.agreement) == ("values", None)
    assert 0.0 < output.mean_steps <= output.high_steps <= output.max_steps
    assert report.comparison.argmax_agreement is None
    line = f"Output {output.name!r} (values): error of {output.mean_steps:.2f} steps on average"
    assert line in report.render()


class OtherAnswers(RoundsOnce):
    """A trained model whose answers lie on the other side for a third of the examples."""

    def layer_codes(self, x):
        codes = dict(super().layer_codes(x))
        (name,) = self.to_integer().outputs
        flipped = codes[name].astype(int)
        flipped[::3] = -1 - flipped[::3]
        return codes | {name: flipped.astype(np.int8)}


def binary():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(inputs))
    return randomize(keras.Model(inputs, layers.Dense(1, name="logit")(x)))


def test_changed_answers_of_a_single_score_are_refused(tmp_path):
    qmodel = quantized(binary(), losses.BinaryCrossentropy(from_logits=True))
    (output,) = exported(qmodel, tmp_path).comparison.outputs
    assert (output.kind, output.threshold) == ("scores", 0.0)
    message = r"0\.9 is missed: 0\.\d* of 64 examples of the output 'logit' keep their side of 0"
    with pytest.raises(tflite_export.ExportError, match=message):
        exported(OtherAnswers(qmodel), tmp_path, max_flip_rate=1.0)


def test_the_caller_says_what_an_output_is(tmp_path):
    wrong = OtherAnswers(quantized(binary(), "mse"))
    with pytest.raises(tflite_export.ExportError, match="is judged by its values") as error:
        exported(wrong, tmp_path, max_flip_rate=1.0)
    assert "outputs={'logit': 'scores'}" in str(error.value)
    with pytest.raises(tflite_export.ExportError, match="keep their side of 0") as error:
        exported(wrong, tmp_path, max_flip_rate=1.0, outputs={"logit": "scores"})
    assert "outputs={'logit': 'values'}" in str(error.value)
    free = {"max_flip_rate": 1.0, "max_output_error": 1.0, "outputs": {"logit": "values"}}
    assert exported(wrong, tmp_path, **free).comparison.argmax_agreement is None


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"other": "scores"}, r"the model has no output 'other'; it has \['logit'\]"),
        ({"logit": "classes"}, r"'logit' is 'scores' or 'values'\. Received: 'classes'"),
    ],
)
def test_what_does_not_exist_is_refused(outputs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        exported(quantized(binary()), tmp_path, outputs=outputs)


@pytest.mark.parametrize(
    ("agreement", "steps", "passes"),
    [(0.5, 1.0, True), (0.95, 40.0, True), (0.5, 40.0, False)],
)
def test_of_unknown_kind_one_of_two_limits_is_enough(agreement, steps, passes):
    output = OutputDifference("y", None, None, 100, agreement, steps, steps, steps, 256, 20.0)
    comparison = ModelComparison("tflm", 100, (), (output,))
    limits = Limits.of(get_target("tflm"), exact=False)
    refused = contextlib.nullcontext() if passes else pytest.raises(tflite_export.ExportError)
    with refused:
        check_limits(comparison, limits, answers=True)


def test_a_limit_that_is_given_holds_for_unknown_kinds_too(tmp_path):
    once = RoundsOnce(quantized(pixels(3, "sigmoid")))
    with pytest.raises(tflite_export.ExportError, match=r"min_argmax_agreement=1 is missed"):
        exported(once, tmp_path, min_argmax_agreement=1.0)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("mae", ("values", None)),
        (losses.Huber(), ("values", None)),
        (losses.CategoricalFocalCrossentropy(), ("scores", None)),
        ("binary_crossentropy", ("scores", 0.5)),
        (losses.binary_focal_crossentropy, ("scores", 0.5)),
        (losses.Hinge(), ("scores", 0.0)),
        (lambda y, p: 0.0, (None, None)),
        (None, (None, None)),
    ],
)
def test_the_loss_tells(loss, kind):
    assert kind_of(loss) == kind


@pytest.mark.parametrize("form", [list, dict])
def test_each_output_has_its_loss(form):
    inputs = keras.Input((6,), name="features")
    heads = [layers.Dense(3, name="classes")(inputs), layers.Dense(1, name="amount")(inputs)]
    model = keras.Model(inputs, heads)
    told = ["sparse_categorical_crossentropy", "mse"]
    model.compile("sgd", told if form is list else dict(zip(model.output_names, told, strict=True)))
    assert output_kinds(model) == [("scores", None), ("values", None)]
