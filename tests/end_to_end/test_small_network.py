"""From a float model to a proven file, for the corners of the configuration."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat import integer
from keras_qat.lowering.pending import LoweringError
from tests.models import images, residual_network
from tests.seams import assert_no_mismatch, op_differences

X = images(64)
LABELS = np.arange(64) % 5
CONFIGS = {
    "w8a8": keras_qat.LSQConfig(),
    "w4a4": keras_qat.LSQConfig(weight_bits=4, activation_bits=4),
    "w3a5_per_tensor": keras_qat.LSQConfig(weight_bits=3, activation_bits=5, per_channel=False),
    "w2a2": keras_qat.LSQConfig(weight_bits=2, activation_bits=2),
    "w1a1_everywhere": keras_qat.LSQConfig(
        weight_bits=1,
        activation_bits=1,
        first_and_last_bits=1,
        input_bits=1,
        add_bits=1,
    ),
    "ste_w4a4": keras_qat.STEConfig(weight_bits=4, activation_bits=4),
}


FAST = ("w8a8", "w4a4")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS if name not in FAST]


@pytest.fixture(scope="module", params=[*FAST, *SLOW])
def qmodel(request):
    """Quantized and trained for two short epochs."""
    keras.utils.set_random_seed(0)
    model = keras_qat.quantize(residual_network(), CONFIGS[request.param], calibration_data=X)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    model.fit(X, LABELS, batch_size=16, epochs=2, verbose=0)
    return model


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_the_file_computes_the_learned_integers(qmodel, target, tmp_path):
    report = assert_no_mismatch(qmodel, X, target, tmp_path / "model.tflite")
    assert report.compared_elements > 100_000


def test_each_op_is_what_keras_trained(qmodel):
    graph = integer.add_headroom(qmodel.to_integer())
    found = op_differences(graph, qmodel.layer_codes(X))
    assert len(found) == 8
    assert all(difference.largest <= 1 for difference in found), found


def test_the_file_gives_the_models_own_outputs(qmodel, tmp_path):
    path = tmp_path / "model.tflite"
    tflite_export.export(qmodel, path, samples=X, min_argmax_agreement=0.0, verbose=False)
    outputs = tflite_export.predict(path, X)
    expected = qmodel.predict(X, verbose=0)
    # A single flip inside may move a probability by some steps of 1/256; most have none.
    assert np.mean(outputs == expected) >= 0.99


def test_the_integer_graph_is_all_that_the_exporter_needs(qmodel, tmp_path):
    """Saved, loaded where there is no Keras, exported: the same bytes."""
    graph = qmodel.to_integer()
    integer.save_graph(graph, tmp_path / "graph.npz")
    paths = [tmp_path / "direct.tflite", tmp_path / "loaded.tflite"]
    for source, path in zip(
        (graph, integer.load_graph(tmp_path / "graph.npz")), paths, strict=True
    ):
        tflite_export.export(source, path, verify=False, verbose=False)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_several_inputs_keep_the_order_of_the_model(tmp_path):
    """Two pictures through one network: the walk meets the second one first."""
    first, second = keras.Input((8, 8, 3), name="z"), keras.Input((8, 8, 3), name="a")
    conv = keras.layers.Conv2D(4, 3, name="conv")
    gate = keras.layers.Activation("sigmoid", name="gate")(conv(second))
    product = keras.layers.Multiply(name="product")([gate, conv(first)])
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(product)
    model = keras.Model([first, second], keras.layers.Dense(2, name="head")(pooled))
    pictures = [images(16, (8, 8, 3)), 0.5 * images(16, (8, 8, 3), seed=1)]
    qmodel = keras_qat.quantize(model, CONFIGS["w8a8"], calibration_data=pictures)
    assert qmodel.to_integer().inputs == ("z", "a")
    path = tmp_path / "two.tflite"
    tflite_export.export(qmodel, path, samples=pictures, verbose=False)
    found = tflite_export.predict(path, pictures)
    by_name = dict(zip(("z", "a"), pictures, strict=True))
    np.testing.assert_array_equal(found, tflite_export.predict(path, by_name))
    np.testing.assert_allclose(found, qmodel.predict(pictures, verbose=0), atol=0.02)


def test_a_model_of_any_image_size_is_given_one_and_deploys(tmp_path):
    inputs = keras.Input((None, None, 3), name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D(name="pooled")(x)
    model = keras.Model(inputs, keras.layers.Dense(5, name="head")(x))
    qmodel = keras_qat.quantize(model, CONFIGS["w4a4"], calibration_data=X)
    assert "conv" in str(keras_qat.plan(model))
    path = tmp_path / "model.tflite"
    with pytest.raises(LoweringError, match="clone_model"):
        tflite_export.export(qmodel, path, samples=X, verbose=False)
    clone = keras.models.clone_model(qmodel, input_tensors=keras.Input((12, 12, 3), name="image"))
    clone.set_weights(qmodel.get_weights())
    np.testing.assert_array_equal(clone.predict(X, verbose=0), qmodel.predict(X, verbose=0))
    report = tflite_export.export(clone, path, samples=X, min_argmax_agreement=0.0, verbose=False)
    assert report.mismatches == 0
