"""Values of unlike range on one grid: said in the plan, in quantize and in the report."""

import warnings

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_wine

import keras_qat
import tflite_export
from tests.models import images

pytestmark = pytest.mark.slow_beyond(1)

layers = keras.layers

SCALES = np.float32([1, 1, 1e4, 1e4])
RAW = images(4000, (4,))
X = RAW * SCALES
Y = (RAW[:, 0] + RAW[:, 1] > 0).astype(np.int32)


def trained(normalized):
    """A classifier of the small columns, which a Normalization inside the model brings up."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="features")
    x = inputs
    if normalized:
        normalization = layers.Normalization(name="normalization")
        normalization.adapt(X)
        x = normalization(x)
    x = layers.Dense(16, activation="relu", name="hidden")(x)
    return fitted(keras.Model(inputs, layers.Dense(2, name="classes")(x)), X if normalized else RAW)


def fitted(model, x):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    model.fit(x, Y, epochs=3, verbose=0)
    return model


def accuracy(model, x):
    return model.evaluate(x, Y, verbose=0)[1]


COLUMNS = r"Input 'features' has one grid of 8 bits .* column 0 \(-\d\.\d+ to \d\.\d+\) has 0\.0\d"


def test_columns_behind_a_normalization_are_said_to_be_lost(tmp_path):
    model = trained(normalized=True)
    assert accuracy(model, X) > 0.97
    with pytest.warns(UserWarning, match=COLUMNS + ".*before the model"):
        qmodel = keras_qat.quantize(model, calibration_data=X[:1000])
    assert accuracy(fitted(qmodel, X), X) < 0.7  # what the warning is for

    plan = keras_qat.plan(model, calibration_data=X[:1000])
    assert len(plan.warnings) == 1
    assert "column 0" in plan.warnings[0]
    assert f"Warning: {plan.warnings[0]}" in str(plan)
    (guess,) = keras_qat.plan(model).warnings  # from the statistics of the Normalization
    assert "column 0" in guess

    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=X[:500], verbose=False)
    (limit,) = (limit for limit in report.limits if "Input 'features'" in limit)
    assert "column 0" in limit
    assert "column 2" not in limit
    assert limit in report.render()


def test_normalization_in_the_data_pipeline_is_a_way_out(tmp_path):
    model = trained(normalized=False)
    qmodel = fitted(keras_qat.quantize(model, calibration_data=RAW[:1000]), RAW)
    assert accuracy(qmodel, RAW) > 0.97
    assert keras_qat.plan(model, calibration_data=RAW[:1000]).warnings == ()
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=RAW[:500], verbose=False)
    assert not any("one grid" in limit for limit in report.limits)


def test_inputs_of_their_own_are_a_way_out():
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((2,), name="small"), keras.Input((2,), name="large")]
    data = [X[:, :2], X[:, 2:]]
    found = []
    for tensor, values in zip(inputs, data, strict=True):
        normalization = layers.Normalization()
        normalization.adapt(values)
        found.append(layers.Dense(8)(normalization(tensor)))
    x = layers.ReLU()(layers.Add()(found))
    model = fitted(keras.Model(inputs, layers.Dense(2)(x)), data)
    qmodel = fitted(
        keras_qat.quantize(model, calibration_data=[each[:1000] for each in data]), data
    )
    assert accuracy(qmodel, data) > 0.97


def test_columns_that_weights_bring_up_are_named_without_a_normalization():
    inputs = keras.Input((4,), name="features")
    dense = layers.Dense(3)
    model = keras.Model(inputs, dense(inputs))
    dense.kernel.assign(images(4, (3,)) / SCALES[:, None])
    with pytest.warns(UserWarning, match=COLUMNS):
        keras_qat.quantize(model, calibration_data=X)


def test_columns_that_matter_little_are_not():
    """Such as pixels at the border of an image."""
    inputs = keras.Input((4,), name="features")
    dense = layers.Dense(3)
    model = keras.Model(inputs, dense(inputs))
    dense.kernel.assign(images(4, (3,)))
    keras_qat.quantize(model, calibration_data=X)


def test_channels_of_a_sequence():
    inputs = keras.Input((16, 3), name="sensor")
    normalization = layers.Normalization(mean=[0.0, 0.0, 0.0], variance=[1.0, 1.0, 1e8])
    x = layers.Conv1D(4, 3)(layers.Dropout(0.1)(normalization(inputs)))
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    data = images(64, (16, 3)) * np.float32([1, 1, 1e4])
    with pytest.warns(UserWarning, match=r"Input 'sensor' .* column 0 .* column 1 "):
        keras_qat.quantize(model, calibration_data=data)


def boxes_and_scores(apart, activation="sigmoid"):
    """A detector's two heads: boxes in pixels, scores from 0 to 1."""
    inputs = keras.Input((6,), name="features")
    boxes = layers.Dense(4, name="boxes")(inputs)
    scores = layers.Dense(2, activation=activation, name="scores")(inputs)
    outputs = [boxes, scores] if apart else layers.Concatenate(name="both")([boxes, scores])
    model = keras.Model(inputs, outputs)
    model.get_layer("boxes").kernel.assign(300.0 * images(6, (4,)))
    return model


def test_a_concatenation_of_boxes_and_scores(tmp_path):
    x = images(200, (6,))
    model = boxes_and_scores(apart=False)
    with pytest.warns(UserWarning, match=r"What 'both' joins .*'scores.*outputs of their own"):
        qmodel = keras_qat.quantize(model, calibration_data=x)
    (found,) = keras_qat.plan(model, calibration_data=x).warnings
    assert "'both'" in found
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert any("What 'both' joins" in limit for limit in report.limits)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_joining_in_float_at_the_end_is_a_way_out(activation, tmp_path):
    x = images(200, (6,))
    model = boxes_and_scores(False, activation)
    how = {"both": keras_qat.LSQConfig(activation_bits=None)}
    said = r"overrides=\{'both': keras_qat\.LSQConfig\(activation_bits=None\)\}"
    if activation == "softmax":
        with pytest.raises(keras_qat.UnsupportedLayerError, match=said):
            keras_qat.quantize(model, calibration_data=x)
    else:
        with pytest.warns(UserWarning, match=said):
            keras_qat.quantize(model, calibration_data=x)
    qmodel = keras_qat.quantize(model, overrides=how, calibration_data=x)
    assert qmodel.output_names == ["both"]
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=x, verbose=False)
    assert report.mismatches == 0
    for found in (qmodel.predict(x, verbose=0), tflite_export.predict(path, x)):
        assert np.abs(found - model.predict(x, verbose=0))[:, 4:].max() < 0.02


def test_separate_outputs_are_the_way_out(tmp_path):
    x = images(200, (6,))
    model = boxes_and_scores(apart=True)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert not any("one grid" in limit for limit in report.limits)
    scores = qmodel.predict(x, verbose=0)[1]
    assert np.abs(scores - model.predict(x, verbose=0)[1]).max() < 0.02


def test_columns_of_an_output(tmp_path):
    inputs = keras.Input((6,), name="features")
    head = layers.Dense(3, name="targets")
    model = keras.Model(inputs, head(inputs))
    head.kernel.assign(images(6, (3,)) * np.float32([1000, 1, 1000]))
    x = images(200, (6,))
    with pytest.warns(UserWarning, match=r"Output 'targets' .* column 1 .*outputs of their own"):
        qmodel = keras_qat.quantize(model, calibration_data=x)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert any("Output 'targets'" in limit and "column 1" in limit for limit in report.limits)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_networks_of_like_ranges_are_never_warned_about(bits):
    inputs = keras.Input((8, 8, 3), name="image")
    left = layers.Conv2D(4, 3, activation="relu")(inputs)
    right = layers.Conv2D(4, 3, activation="relu")(inputs)
    x = layers.Concatenate()([left, right])
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "__array__ implementation")
        keras_qat.quantize(model, config, calibration_data=images(64, (8, 8, 3)))


def test_small_columns_of_a_trained_table_that_decide_answers_are_named():
    """Real measurements in their own units: one column is a thousand times the others."""
    table = load_wine()
    x, y = table.data.astype(np.float32), table.target
    keras.utils.set_random_seed(0)
    inputs = keras.Input((13,), name="measured")
    hidden = layers.Dense(32, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=150, verbose=0)
    with pytest.warns(UserWarning, match="Input 'measured' has one grid"):
        qmodel = keras_qat.quantize(model, calibration_data=x)
    qmodel.compile(loss=loss, metrics=["accuracy"])
    drop = model.evaluate(x, y, verbose=0)[1] - qmodel.evaluate(x, y, verbose=0)[1]
    assert drop > 0.05  # what the warning is for


def test_digits_are_not():
    digits = load_digits()
    x, y = digits.data.astype(np.float32), digits.target
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,), name="pixels")
    model = keras.Model(inputs, layers.Dense(10)(layers.Dense(32, activation="relu")(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(x, y, epochs=10, verbose=0)
    assert keras_qat.quantize(model, calibration_data=x[:512]).grid_warnings == ()


def test_columns_that_all_lie_far_from_zero():
    inputs = keras.Input((2,), name="weather")
    x = images(512, (2,)) * np.float32([5, 300]) + np.float32([20, 101325])
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = keras.Model(inputs, layers.Dense(2)(normalization(inputs)))
    with pytest.warns(UserWarning, match="Input 'weather' .*column 0 .*column 1"):
        keras_qat.quantize(model, calibration_data=x)


@pytest.mark.parametrize("samples", [58, 64])
def test_numbers_without_columns(samples, tmp_path):
    inputs = keras.Input((), name="number")
    outputs = layers.Dense(3)(layers.Reshape((1,))(inputs))
    model = keras.Model(inputs, outputs[:, 0])
    x = images(samples, ())
    qmodel = keras_qat.quantize(model, calibration_data=x)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert not any("one grid" in limit for limit in report.limits)
