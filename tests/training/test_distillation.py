"""`QuantizedModel.distill_from`: the teacher teaches, and is neither trained nor kept."""

import zipfile

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
from keras_qat.training.losses import jeffreys_divergence
from tests.models import dense_network, points
from tests.untouched import untouched

X, Y = points(64)
layers = keras.layers


def new_model(teacher=None, **options):
    float_model = dense_network()
    qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=X)
    qmodel.distill_from(teacher, **options)
    qmodel.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return qmodel, float_model


def training_loss(qmodel, **options):
    """Of the first batch, before any step: in inference mode nothing of these models differs."""
    outputs = qmodel(X, training=True)
    return float(qmodel.compute_loss(X, Y, outputs, **options))


def logits(model):
    return np.log(ops.convert_to_numpy(model(X)))


def test_the_loss_is_the_divergence_from_the_float_original():
    qmodel, float_model = new_model()
    expected = jeffreys_divergence(np.log(qmodel(X, training=True)), logits(float_model))
    # The logarithm of a softmax differs from its logits in rounding, and by a constant.
    assert training_loss(qmodel) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_a_regression_learns_from_outputs_as_they_are(loss):
    """Its way out of a loss on classes, which would be 0 for every output of one number."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, activation="relu")(inputs)
    float_model = keras.Model(inputs, layers.Dense(1, name="value")(hidden))
    qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=X)
    with pytest.raises(ValueError, match='loss="l2" or loss="l1"'):
        qmodel.distill_from()
    qmodel.distill_from(loss=loss)
    qmodel.compile("adam", "mse")
    difference = np.asarray(qmodel(X, training=True)) - np.asarray(float_model(X))
    expected = np.mean(np.abs(difference) if loss == "l1" else np.square(difference))
    assert training_loss(qmodel) == pytest.approx(float(expected), rel=1e-5)


def test_an_image_of_classes_learns_from_every_pixel():
    inputs = keras.Input((4, 4, 3))
    float_model = keras.Model(inputs, layers.Conv2D(5, 3, padding="same")(inputs))
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=x)
    qmodel.distill_from()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile("adam", loss)
    outputs = qmodel(x, training=True)
    found = float(qmodel.compute_loss(x, np.zeros((8, 4, 4)), outputs))
    pixels = [ops.reshape(each, (-1, 5)) for each in (outputs, float_model(x))]
    assert found == pytest.approx(float(jeffreys_divergence(*pixels)), rel=1e-5)


def test_labels_are_added_as_weighted_and_regularizers_once():
    float_model = dense_network()
    float_model.get_layer("hidden").kernel_regularizer = keras.regularizers.L2(0.01)
    losses = []
    for weight in (0.0, 0.5):
        qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=X)
        qmodel.distill_from(label_weight=weight)
        qmodel.compile("adam", "sparse_categorical_crossentropy")
        losses.append(training_loss(qmodel))
    labels = keras.losses.sparse_categorical_crossentropy(Y, qmodel(X, training=True))
    expected = losses[0] + 0.5 * float(ops.mean(labels))
    assert losses[1] == pytest.approx(expected, rel=1e-5)


def test_training_moves_towards_the_teacher_and_not_the_labels():
    qmodel, float_model = new_model()
    wrong = (Y + 1) % 3
    before = training_loss(qmodel)
    qmodel.fit(X, wrong, epochs=20, batch_size=16, verbose=0)
    assert training_loss(qmodel) < before
    same = np.argmax(logits(qmodel), -1) == np.argmax(logits(float_model), -1)
    assert same.mean() > 0.9


def test_metrics_and_evaluation_stay_the_users():
    qmodel, _ = new_model()
    scores = qmodel.evaluate(X, Y, verbose=0, return_dict=True)
    labels = keras.losses.sparse_categorical_crossentropy(Y, qmodel(X))
    assert set(scores) == {"loss", "accuracy"}
    assert scores["loss"] == pytest.approx(float(ops.mean(labels)), rel=1e-5)


def test_the_teacher_is_neither_trained_nor_saved(tmp_path):
    qmodel, float_model = new_model()
    plain = keras_qat.quantize(dense_network(), "lsq", calibration_data=X)
    assert qmodel.count_params() == plain.count_params()
    with untouched(float_model, X):
        qmodel.fit(X, Y, epochs=2, verbose=0)
    qmodel.save(tmp_path / "model.keras")
    text = zipfile.ZipFile(tmp_path / "model.keras").read("config.json").decode()
    assert "istill" not in text
    assert text.count('"hidden"') == zipfile_text(plain, tmp_path).count('"hidden"')
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), qmodel(X))
    with pytest.raises(ValueError, match=r"Pass the teacher: qmodel.distill_from"):
        loaded.distill_from()
    loaded.distill_from(float_model)
    loaded.fit(X, Y, verbose=0)


def zipfile_text(model, folder):
    model.save(folder / "plain.keras")
    return zipfile.ZipFile(folder / "plain.keras").read("config.json").decode()


def test_any_model_may_teach():
    teacher = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="logits")])
    qmodel, _ = new_model(teacher, from_logits=None, loss="kl")
    assert np.isfinite(training_loss(qmodel))
    qmodel.fit(X, Y, verbose=0)


def test_a_loss_of_ones_own_sees_logits():
    seen = []

    def squared(student, teacher):
        seen.append((student.shape[-1], teacher.shape[-1]))
        return ops.mean(ops.square(student - teacher))

    qmodel, _ = new_model(loss=squared)
    assert training_loss(qmodel) > 0.0
    assert seen[-1] == (3, 3)


def test_switching_it_on_after_a_fit_takes_effect():
    float_model = dense_network()
    qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=X)
    qmodel.compile("sgd", "sparse_categorical_crossentropy")
    on_labels = qmodel.fit(X, Y, batch_size=64, verbose=0).history["loss"][0]
    qmodel.distill_from()
    distilled = qmodel.fit(X, Y, batch_size=64, verbose=0).history["loss"][0]
    assert abs(distilled - on_labels) > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "cosine"}, "cosine"),
        ({"label_weight": -1.0}, "label_weight"),
        ({"teacher": keras.Sequential([keras.Input((5,)), layers.Dense(3)])}, "shape"),
    ],
    ids=["loss", "weight", "teacher"],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        new_model(**options)


@pytest.mark.parametrize(
    ("compiled", "distilled", "message"),
    [
        ({"metrics": ["accuracy"]}, {}, "has metrics of labels: compile it without metrics"),
        ({}, {"label_weight": 0.5}, "label_weight > 0: leave out label_weight"),
    ],
    ids=["metrics", "weight"],
)
def test_what_needs_labels_and_gets_none_is_said(compiled, distilled, message):
    float_model = dense_network()
    float_model.compile("sgd", "sparse_categorical_crossentropy", **compiled)
    with pytest.raises(ValueError, match="None"):
        float_model.fit(X, verbose=0)
    qmodel = keras_qat.quantize(float_model, calibration_data=X)
    qmodel.compile("sgd", "sparse_categorical_crossentropy", **compiled)
    qmodel.distill_from(**distilled)
    with pytest.raises(ValueError, match=f"Model 'dense' learns from a teacher.*{message}.*y=None"):
        qmodel.fit(X, verbose=0)
