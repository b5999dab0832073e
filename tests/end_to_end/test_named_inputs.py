"""Models that are built on a dict of inputs are fed by its keys, from calibration to the file."""

import collections
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
import tflite_export
from keras_qat.callbacks import CapacityMonitor
from keras_qat.integer import run
from tests.models import images

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers

LEFT, RIGHT = images(32, (4,)), 100.0 * images(32, (4,), seed=1)
NAMES = {
    "other names": ("first", "second"),
    "swapped names": ("right", "left"),
    "the same names": ("left", "right"),
}


def difference(names, nested=False):
    """`left - right / 100`, from inputs of those layer names."""
    left, right = (keras.Input((4,), name=name) for name in names)
    small = layers.Dense(
        4, use_bias=False, kernel_initializer=keras.initializers.Identity(0.01), name="small"
    )
    total = layers.Subtract(name="difference")([left, small(right)])
    outputs = layers.Activation("linear", name="answer")(total)
    model = on_keys({"left": left, "right": right}, outputs)
    if not nested:
        return model
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    return on_keys({"left": a, "right": b}, model({"right": b, "left": a}))


def on_keys(inputs, outputs):
    """A user's model, of whose keys Keras itself warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        return keras.Model(inputs, outputs)


def exact():
    return LEFT - RIGHT / 100.0


def close(values):
    return np.abs(values - exact()).max() < 0.1


WAYS = {
    "dict": lambda: {"right": RIGHT, "left": LEFT},
    "list": lambda: [LEFT, RIGHT],
    "dataset": lambda: tf.data.Dataset.from_tensor_slices({"right": RIGHT, "left": LEFT}).batch(8),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", NAMES.values(), ids=list(NAMES))
def test_keys_decide_from_calibration_to_the_file(names, way, nested, tmp_path):
    model = difference(names, nested)
    x = WAYS["dict"]()
    assert close(model.predict(x, verbose=0))
    qmodel = keras_qat.quantize(model, calibration_data=WAYS[way]())
    assert close(qmodel.predict(x, verbose=0))
    graph = qmodel.to_integer()
    assert graph.inputs == ("left", "right")
    scales = {name: float(graph.tensors[name].qparams.scale) for name in graph.inputs}
    assert scales["right"] > 50 * scales["left"]

    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=x, verbose=False)
    assert report.mismatches == 0
    assert report.comparison.flip_rate == 0
    for inputs in (x, [LEFT, RIGHT]):
        assert close(tflite_export.predict(path, inputs))
    codes = qmodel.layer_codes(x)
    integers = run(graph, {name: codes[name] for name in graph.inputs}, "xnnpack")
    (name,) = graph.outputs
    np.testing.assert_array_equal(integers[name], codes[name])


@pytest.mark.parametrize("names", NAMES.values(), ids=list(NAMES))
def test_callbacks_and_plots_are_fed_by_keys(names):
    x = WAYS["dict"]()
    qmodel = keras_qat.quantize(difference(names), calibration_data=x)
    qmodel.compile("sgd", "mse")
    qmodel.fit(x, exact(), verbose=0, callbacks=[CapacityMonitor(x)])
    keras_qat.plot_grids(qmodel, x)


def test_a_list_model_inside_that_is_called_by_names():
    left, right = keras.Input((4,), name="zebra"), keras.Input((4,), name="ant")
    small = layers.Dense(4, use_bias=False, kernel_initializer=keras.initializers.Identity(0.01))
    inner = keras.Model([left, right], layers.Subtract()([left, small(right)]), name="inner")
    a, b = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    model = keras.Model([a, b], inner({"ant": b, "zebra": a}))
    assert close(model.predict([LEFT, RIGHT], verbose=0))
    qmodel = keras_qat.quantize(model, calibration_data=[LEFT, RIGHT])
    assert close(qmodel.predict([LEFT, RIGHT], verbose=0))


def test_a_key_that_is_the_name_of_another_layer(tmp_path):
    left, right = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    dense = layers.Dense(
        4, use_bias=False, kernel_initializer=keras.initializers.Identity(0.01), name="right"
    )
    outputs = layers.Subtract(name="left")([left, dense(right)])
    model = on_keys({"left": left, "right": right}, outputs)
    x = WAYS["dict"]()
    qmodel = keras_qat.quantize(model, calibration_data=x)
    assert qmodel.to_integer().inputs == ("left", "right")
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=x, verbose=False)
    assert report.mismatches == report.comparison.flip_rate == 0
    assert close(tflite_export.predict(path, x))


def test_one_input_in_a_dict():
    image = keras.Input((4,), name="pixels")
    model = on_keys({"image": image}, layers.Dense(2, name="head")(image))
    qmodel = keras_qat.quantize(model, calibration_data={"image": LEFT})
    assert qmodel.to_integer().inputs == ("image",)
    by_key, bare = qmodel.layer_codes({"image": LEFT}), qmodel.layer_codes(LEFT)
    np.testing.assert_array_equal(by_key["head"], bare["head"])


def test_wrong_keys_are_named_with_those_of_the_model():
    with pytest.raises(ValueError, match=r"inputs are \['left', 'right'\].*\['first', 'second'\]"):
        keras_qat.quantize(
            difference(("first", "second")), calibration_data={"first": LEFT, "second": RIGHT}
        )


def test_layer_codes_refuse_a_wrong_key():
    qmodel = keras_qat.quantize(difference(("left", "right")), calibration_data=WAYS["dict"]())
    message = r"inputs \['left', 'right'\]\. Received: \['left', 'up'\]"
    with pytest.raises(ValueError, match=message):
        qmodel.layer_codes({"left": LEFT, "up": RIGHT})


def test_an_ordered_dict_that_keras_feeds_in_two_orders_is_refused():
    a, b = keras.Input((4,), name="z"), keras.Input((4,), name="c")
    model = on_keys(collections.OrderedDict([("z", a), ("c", b)]), layers.Subtract()([a, b]))
    with pytest.raises(ValueError, match=r"keys are not sorted, \['z', 'c'\].*plain dict"):
        keras_qat.quantize(model, calibration_data={"z": LEFT, "c": RIGHT})
