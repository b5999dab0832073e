"""`keras_qat.metrics`: scores that rounding made equal."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.metrics import TopKAccuracy

CLASSES = 40
X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
Y = np.random.default_rng(1).integers(CLASSES, size=200)


def quantized(metric, **options):
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(CLASSES, activation="softmax", name="scores")(inputs)
    model = keras.Model(inputs, outputs)
    kernel, bias = model.get_layer("scores").get_weights()
    model.get_layer("scores").set_weights([60.0 * kernel, bias])
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=X)
    qmodel.compile("adam", "sparse_categorical_crossentropy", metrics=[metric], **options)
    return qmodel


def argsorted(scores, labels, k=5):
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    return np.mean([label in row for label, row in zip(labels, best, strict=True)])


@pytest.mark.parametrize(
    "metric",
    [
        "sparse_top_k_categorical_accuracy",
        keras.metrics.SparseTopKCategoricalAccuracy(5),
        keras.metrics.sparse_top_k_categorical_accuracy,
    ],
    ids=["name", "class", "function"],
)
def test_a_metric_that_counts_ties_as_hits_is_warned_of(metric):
    qmodel = quantized(metric)
    with pytest.warns(UserWarning, match=r"to 256 values.*Use keras_qat.metrics.TopKAccuracy"):
        inflated = qmodel.evaluate(X, Y, verbose=0)[1]
    assert inflated > 0.5 > 0.3 > argsorted(qmodel.predict(X, verbose=0), Y)


def test_its_way_out_ranks_as_the_users_of_a_file_do(recwarn):
    qmodel = quantized(TopKAccuracy(5))
    found = qmodel.evaluate(X, Y, verbose=0, return_dict=True)["top_k_accuracy"]
    assert found == pytest.approx(argsorted(qmodel.predict(X, verbose=0), Y))
    history = qmodel.fit(X, Y, validation_data=(X, Y), verbose=0).history
    assert history["val_top_k_accuracy"][0] == pytest.approx(
        argsorted(qmodel.predict(X, verbose=0), Y)
    )
    assert not [each for each in recwarn if "TopK" in str(each.message)]


def test_labels_may_be_classes_or_one_hot():
    scores = np.random.default_rng(2).integers(3, size=(200, CLASSES)).astype(np.float32)
    expected = argsorted(scores, Y)
    for labels in (Y, Y[:, None], keras.ops.one_hot(Y, CLASSES)):
        metric = TopKAccuracy(5)
        metric.update_state(labels, scores)
        assert float(metric.result()) == pytest.approx(expected)


def test_a_loaded_model_has_the_metric(tmp_path):
    qmodel = quantized(TopKAccuracy(3, name="best"))
    qmodel.fit(X, Y, verbose=0)
    expected = qmodel.evaluate(X, Y, verbose=0, return_dict=True)
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(X, Y, verbose=0, return_dict=True) == expected
