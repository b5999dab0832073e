"""The index of the largest value as an output: equal in the model, the graph and the files."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
import tflite_export
from keras_qat.errors import UnsupportedLayerError
from keras_qat.integer import load_graph, save_graph
from tests.models import images, randomize
from tests.seams import assert_no_mismatch

layers = keras.layers


def with_classes(end):
    inputs = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.Dense(5, name="classes")(layers.Flatten(name="flat")(x))
    return randomize(keras.Model(inputs, end(x)))


ENDS = {
    "logits": lambda x: ops.argmax(x, axis=-1),
    "softmax": lambda x: ops.argmax(layers.Softmax(name="softmax")(x), axis=1),
    "of a Lambda": lambda x: layers.Lambda(lambda t: ops.argmax(t, -1), name="place")(x),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_the_index_is_the_same_everywhere_ties_included(name, target, tmp_path):
    x = images(64, (6, 6, 2))
    qmodel = keras_qat.quantize(
        with_classes(ENDS[name]),
        keras_qat.LSQConfig(activation_bits=2, first_and_last_bits=2),  # many ties
        calibration_data=x,
    )
    report = assert_no_mismatch(qmodel, x, target, tmp_path / "net.tflite")
    found = tflite_export.predict(tmp_path / "net.tflite", x, runtime=target)
    expected = qmodel.predict(x, verbose=0)
    assert expected.dtype == np.int32
    agreement = np.mean(found == expected)
    assert agreement == report.comparison.argmax_agreement
    assert agreement == 1.0 or (name, target) == ("softmax", "tflm")  # its kernel rounds otherwise


def test_the_graph_keeps_the_index(tmp_path):
    x = images(16, (6, 6, 2))
    model = with_classes(lambda x: [x, ops.argmax(x, axis=-1)])
    qmodel = keras_qat.quantize(model, calibration_data=x)
    save_graph(qmodel.to_integer(), tmp_path / "graph.npz")
    graph = load_graph(tmp_path / "graph.npz")
    inputs = graph.tensors[graph.inputs[0]].quantize(x)
    scores, index = (keras_qat.integer.run(graph, inputs)[name] for name in graph.outputs)
    np.testing.assert_array_equal(index, scores.argmax(axis=-1))
    assert keras_qat.plan(model).layers[-1].output == "int32"


def test_the_firmware_compares_the_index(tmp_path):
    x = images(8, (6, 6, 2))
    qmodel = keras_qat.quantize(with_classes(ENDS["logits"]), calibration_data=x)
    firmware = tflite_export.write_micro(qmodel, tmp_path, name="top", samples=x, verbose=False)
    assert firmware.report.mismatches == 0
    assert "AddArgMax" in (tmp_path / "top_ops.h").read_text()


def test_indices_are_an_output_alone():
    x = images(8, (6, 6, 2))
    model = with_classes(lambda x: layers.Dense(2)(ops.cast(ops.argmax(x, -1), "float32")[:, None]))
    with pytest.raises(UnsupportedLayerError, match="reads the indices of 'argmax"):
        keras_qat.quantize(model, calibration_data=x)
    with pytest.raises(UnsupportedLayerError, match="without keepdims"):
        keras_qat.quantize(
            with_classes(lambda x: ops.argmax(x, axis=-1, keepdims=True)), calibration_data=x
        )
