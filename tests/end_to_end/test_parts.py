"""Parts of a trained model as files: an encoder, one of several heads, a feature tensor."""

import re

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.errors import LoweringError
from keras_qat.integer import run
from tflite_export.file.writer import read_model

layers = keras.layers
X = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32)
Y = np.arange(64) % 3


@pytest.fixture(scope="module")
def qmodel():
    """An encoder and two heads. Only `"relu"`, `"pool"`, `"embedding"` and heads are on grids."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="conv")(image))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu")(x))
    x = layers.Dense(5, name="embedding")(x)
    outputs = [layers.Dense(3, name="scores")(x), layers.Dense(1, name="size")(x)]
    found = keras_qat.quantize(keras.Model(image, outputs), calibration_data=X)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found.compile("sgd", [crossentropy, "mse"])
    return found


def up_to(qmodel, layer):
    return keras.Model(qmodel.inputs, qmodel.get_layer(layer).output)


def exported(model, folder, **options):
    path = folder / "part.tflite"
    report = tflite_export.export(model, path, samples=X, verbose=False, **options)
    assert report.mismatches == 0
    return path, report


@pytest.mark.parametrize("name", ["relu", "pool", "embedding", "size"])
def test_a_part_is_the_model_up_to_a_tensor(qmodel, name, tmp_path):
    path, report = exported(qmodel, tmp_path, outputs=[name])
    expected = up_to(qmodel, f"{name}_quantizer").predict(X, verbose=0)
    np.testing.assert_array_equal(tflite_export.predict(path, X), expected)
    assert list(read_model(path.read_bytes()).outputs) == [name]
    assert report.comparison.tensors[-1].name == name
    assert report.comparison.flip_rate == 0.0


def test_several_tensors_are_several_outputs_in_their_order(qmodel, tmp_path):
    path, _ = exported(qmodel, tmp_path, outputs=["embedding", "relu"])
    found = tflite_export.predict(path, X)
    assert list(read_model(path.read_bytes()).outputs) == ["embedding", "relu"]
    for name in ("embedding", "relu"):
        expected = up_to(qmodel, f"{name}_quantizer").predict(X, verbose=0)
        np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_a_plain_model_of_the_layers_yields_the_very_file(qmodel, target, tmp_path):
    plain = up_to(qmodel, "embedding_quantizer")
    data = exported(plain, tmp_path, target=target)[0].read_bytes()
    assert not isinstance(plain, keras_qat.QuantizedModel)
    assert data == exported(qmodel, tmp_path, target=target, outputs=["embedding"])[0].read_bytes()


@pytest.mark.parametrize(
    ("layer", "behind"),
    [("conv", "relu"), ("bn", "relu"), ("relu", "relu"), ("pool", "pool"), ("size", "size")],
)
def test_a_tensor_on_no_grid_names_the_next_one(qmodel, layer, behind, tmp_path):
    first, second = f"get_layer('{behind}_quantizer').output", f"outputs=['{behind}']"
    says = f"output '{layer}' .*{re.escape(first)}, or .*{re.escape(second)}"
    with pytest.raises(LoweringError, match=says):
        exported(up_to(qmodel, layer), tmp_path)
    assert qmodel.next_on_grid(layer) == [behind]
    exported(up_to(qmodel, f"{behind}_quantizer"), tmp_path)  # both ways out
    exported(qmodel, tmp_path, outputs=[behind])


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["conv"], r"layer 'conv' yields is on no grid. .* is 'relu': pass outputs=\['relu'\]"),
        (["relu_quantizer"], r"The next tensor on a grid is 'relu'"),
        (["nothing"], r"computes no tensor 'nothing'. It computes \['relu', .*'size'"),
        (["image"], "computes no tensor 'image'"),
        (["relu", "relu"], r"each once. Received: \['relu', 'relu'\]"),
        ([], r"one or more outputs, each once. Received: \[\]"),
        ("relu", "pass a list of names .* Received: 'relu'"),
    ],
)
def test_names_that_are_no_part_are_refused(qmodel, outputs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        exported(qmodel, tmp_path, outputs=outputs)


def test_a_head_keeps_what_the_model_knows_of_it(qmodel, tmp_path):
    path = tmp_path / "head.tflite"
    report = tflite_export.export(qmodel, path, outputs=["scores"], samples=(X, Y), verbose=False)
    (output,) = report.comparison.outputs
    assert (output.name, output.kind) == ("scores", "scores")
    answers = qmodel.predict(X, verbose=0)[0]
    assert report.worth.of_trained == np.mean(answers.argmax(axis=-1) == Y)
    assert set(report.worth.file_sqnr) == {"scores"}


def test_an_inner_tensor_has_no_counterpart_in_the_float_model(qmodel, tmp_path):
    """It is values, which labels of the classes say nothing about."""
    path = tmp_path / "part.tflite"
    for name in ("embedding", "relu"):
        report = tflite_export.export(qmodel, path, outputs=[name], samples=(X, Y), verbose=False)
        assert (report.worth.file_sqnr, report.worth.of_trained) == ({}, None)
        assert [(each.name, each.kind) for each in report.comparison.outputs] == [(name, "values")]


def test_a_part_takes_the_inputs_that_it_reads(tmp_path):
    keras.utils.set_random_seed(1)
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    sides = layers.Dense(2, name="of_left")(left), layers.Dense(2, name="of_right")(right)
    model = keras.Model([left, right], layers.Add(name="sum")(sides))
    a, b = X[:, 0, 0, :].repeat(2, axis=1)[:, :4], X[:, 0, 0, :]
    qmodel = keras_qat.quantize(model, calibration_data=[a, b])
    path = tmp_path / "right.tflite"
    report = tflite_export.export(qmodel, path, outputs=["of_right"], samples=b, verbose=False)
    assert (report.mismatches, report.comparison.flip_rate) == (0, 0.0)
    assert list(read_model(path.read_bytes()).inputs) == ["right"]
    expected = up_to(qmodel, "of_right_quantizer").predict([a, b], verbose=0)
    np.testing.assert_array_equal(tflite_export.predict(path, b), expected)


def test_a_part_of_a_graph_and_of_firmware(qmodel, tmp_path):
    graph = qmodel.to_integer()
    codes = graph.tensors["image"].quantize(X)
    path = tmp_path / "graph.tflite"
    tflite_export.export(graph, path, outputs=["pool"], samples=codes, verbose=False)
    expected = graph.tensors["pool"].dequantize(run(graph, codes, keep_all=True)["pool"])
    assert tflite_export.predict(path, X).shape == expected.shape
    firmware = tflite_export.write_micro(
        qmodel, tmp_path, outputs=["pool"], samples=X, verbose=False
    )
    assert firmware.report.mismatches == 0
    assert firmware.report.comparison.tensors[-1].name == "pool"


def test_the_proof_compares_with_the_part(qmodel, tmp_path, monkeypatch):
    stated = type(qmodel).layer_codes

    def shifted(model, x, **options):
        codes = stated(model, x, **options)
        return codes | {"embedding": np.clip(codes["embedding"], -128, 117) + np.int8(10)}

    monkeypatch.setattr(type(qmodel), "layer_codes", shifted)
    with pytest.raises(tflite_export.ExportError, match="of 'embedding' differs from the trained"):
        exported(qmodel, tmp_path, outputs=["embedding"])


def test_a_plain_model_without_grids_is_no_part(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"keras.Model\(qmodel.inputs, .* Received: Sequential"):
        tflite_export.export(model, tmp_path / "part.tflite")
