"""The report measures what the file is worth: float model, trained model and file together."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from tests.models import dense_network, points

X, Y = points(256)


@pytest.fixture(scope="module")
def qmodel():
    keras.utils.set_random_seed(0)
    model = dense_network()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=3, verbose=0)
    return keras_qat.quantize(model, calibration_data=X)


def exported(qmodel, tmp_path, **options):
    return tflite_export.export(qmodel, tmp_path / "net.tflite", verbose=False, **options)


def test_without_labels_the_float_model_is_the_measure(qmodel, tmp_path):
    report = exported(qmodel, tmp_path, samples=X)
    worth, original = report.worth, qmodel.float_outputs(X)[0]
    error = original - qmodel.predict(X, verbose=0)
    expected = 10 * np.log10(np.sum(original**2) / np.sum(error**2))
    (name,) = worth.trained_sqnr
    assert worth.trained_sqnr[name] == pytest.approx(expected, rel=1e-4)
    assert 25 < worth.file_sqnr[name] < 60
    (line,) = (each for each in report.render().splitlines() if each.startswith("SQNR of"))
    assert f"{expected:.1f} dB" in line


def test_labels_give_the_accuracy_of_all_three(qmodel, tmp_path):
    worth = exported(qmodel, tmp_path, samples=(X, Y)).worth
    file = tflite_export.predict(tmp_path / "net.tflite", X)
    for value, outputs in (
        (worth.of_float, qmodel.float_outputs(X)[0]),
        (worth.of_trained, qmodel.predict(X, verbose=0)),
        (worth.of_file, np.asarray(file)),
    ):
        assert value == np.mean(outputs.argmax(-1) == Y)
    assert worth.metric == "accuracy"


def mean_distance(labels, outputs):
    return np.mean(np.abs(outputs - keras.utils.to_categorical(labels, 3)))


def test_a_metric_of_the_caller(qmodel, tmp_path):
    report = exported(qmodel, tmp_path, samples=(X, Y), metric=mean_distance)
    assert report.worth.metric == "mean_distance"
    assert report.worth.of_trained == mean_distance(Y, qmodel.predict(X, verbose=0))
    assert "mean_distance" in report.render()


def test_a_model_that_was_loaded_has_no_float_model(qmodel, tmp_path):
    qmodel.save(tmp_path / "model.keras")
    worth = exported(keras_qat.load_model(tmp_path / "model.keras"), tmp_path, samples=(X, Y)).worth
    assert worth.of_float is None
    assert worth.of_trained == exported(qmodel, tmp_path, samples=(X, Y)).worth.of_trained
    assert worth.trained_sqnr == {}


def test_a_metric_needs_labels_and_a_number(qmodel, tmp_path):
    with pytest.raises(ValueError, match=r"A metric needs labels: pass samples=\(x, labels\)"):
        exported(qmodel, tmp_path, samples=X, metric=mean_distance)
    with pytest.raises(ValueError, match=r"must return one number .* Received: ndarray"):
        exported(qmodel, tmp_path, samples=(X, Y), metric=lambda labels, outputs: outputs)


def test_indices_are_answers(tmp_path):
    model = dense_network()
    model = keras.Model(model.inputs, keras.ops.argmax(model.outputs[0], axis=-1))
    qmodel = keras_qat.quantize(model, calibration_data=X)
    report = exported(qmodel, tmp_path, samples=(X, Y))
    assert report.worth.of_trained == np.mean(qmodel.predict(X, verbose=0) == Y)
    assert report.worth.of_float == np.mean(model.predict(X, verbose=0) == Y)
    assert report.worth.file_sqnr == {}  # the distance of two indices means nothing
    assert "100.00% of 256 answers kept (largest)" in report.render()


@pytest.mark.parametrize(
    ("of", "samples", "message"),
    [
        ("graph", (np.zeros((4, 6), np.int8), Y[:4]), "compare a trained model with its file"),
        ("model", (None, Y), "Labels need their samples"),
    ],
)
def test_labels_that_nothing_can_use_are_refused(qmodel, of, samples, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        exported(qmodel.to_integer() if of == "graph" else qmodel, tmp_path, samples=samples)


def test_random_samples_say_nothing_of_worth(qmodel, tmp_path):
    assert exported(qmodel, tmp_path).worth is None
