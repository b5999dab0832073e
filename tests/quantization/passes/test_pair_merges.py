"""Merges of many tensors become merges of two; the function stays, and it deploys."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.errors import UnsupportedLayerError
from keras_qat.keras_graph import nodes
from tests.models import images, randomize
from tests.quantization.passes.alone import pair_merges
from tests.seams import op_differences
from tests.untouched import untouched

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


def branches(count, kind, relu=False):
    """`count` convolutions of an image, and their merge."""
    inputs = keras.Input((8, 8, 3), name="image")
    merged = [layers.Conv2D(4, 1, name=f"branch{index}")(inputs) for index in range(count)]
    merged = kind(name="merge")(merged)
    return randomize(keras.Model(inputs, layers.ReLU(name="relu")(merged) if relu else merged))


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("kind", [layers.Add, layers.Multiply, layers.Maximum, layers.Minimum])
def test_the_function_is_the_same(kind, count):
    model, x = branches(count, kind), images(4, (8, 8, 3))
    with untouched(model, x):
        chained, origins = pair_merges(model)
    np.testing.assert_array_equal(chained(x), model(x))
    merges = [node for node in nodes(chained) if type(node.operation) is kind]
    assert [len(node.inputs) for node in merges] == [2] * (count - 1)
    names = ["merge_partial", "merge_partial_1"][: count - 2]
    assert [node.operation.name for node in merges] == [*names, "merge"]
    assert origins == dict.fromkeys(names, "merge")


@pytest.mark.parametrize("count", [2, 3])
def test_an_average_is_a_sum_and_a_division(count):
    model, x = branches(count, layers.Average), images(4, (8, 8, 3))
    chained, origins = pair_merges(model)
    # Keras divides by the count; a product with its reciprocal may end in another last bit.
    np.testing.assert_allclose(chained(x), model(x), rtol=1e-6, atol=1e-7)
    kinds = [type(layer) for layer in chained.layers]
    assert kinds.count(layers.Add) == count - 1
    assert type(chained.get_layer("merge")) is layers.Rescaling
    assert set(origins.values()) == {"merge"}


def test_sizes_of_one_may_come_first():
    inputs = keras.Input((8, 8, 3), name="image")
    gate = layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    model = keras.Model(inputs, layers.Multiply(name="product")([gate, gate, inputs]))
    x = images(4, (8, 8, 3))
    np.testing.assert_array_equal(pair_merges(model)[0](x), model(x))


@pytest.mark.parametrize("kind", [layers.Add, layers.Multiply, layers.Subtract])
def test_features_get_height_and_width(kind):
    inputs = keras.Input((8, 8, 3), name="image")
    features = layers.GlobalAveragePooling2D()(inputs)
    features = layers.Dense(3, name="dense")(features)
    model = keras.Model(inputs, kind(name="gate")([inputs, features]))
    x = images(4, (8, 8, 3))
    paired, origins = pair_merges(model)
    np.testing.assert_array_equal(paired(x), model(x))
    assert origins == {"gate_reshape": "gate"}
    assert paired.get_layer("gate_reshape").target_shape == (1, 1, 3)


def test_a_shared_layer_may_be_called_with_other_counts():
    inputs = keras.Input((8, 8, 3), name="image")
    add = layers.Add(name="sum")
    model = keras.Model(inputs, add([add([inputs] * 2), add([inputs] * 4), inputs]))
    x = images(4, (8, 8, 3))
    chained, _ = pair_merges(model)
    np.testing.assert_array_equal(chained(x), model(x))
    assert all(len(node.inputs) == 2 for node in nodes(chained))


def test_an_average_of_several_counts_is_refused():
    inputs = keras.Input((8, 8, 3), name="image")
    average = layers.Average(name="average")
    model = keras.Model(inputs, average([average([inputs] * 2), inputs, inputs]))
    with pytest.raises(UnsupportedLayerError, match=r"'average' \(Average\).*Received: 2 and 3"):
        pair_merges(model)


@pytest.mark.parametrize("kind", [layers.Add, layers.Subtract, layers.Multiply])
def test_a_model_of_pairs_is_left_alone(kind):
    model = branches(2, kind)
    assert pair_merges(model) == (model, {})


@pytest.mark.parametrize(
    ("kind", "relu"),
    [
        (layers.Add, True),
        (layers.Multiply, False),
        (layers.Average, False),
        (layers.Maximum, True),
    ],
)
def test_it_deploys(kind, relu, tmp_path):
    model, x = branches(4, kind, relu), images(16, (8, 8, 3))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0
    differences = op_differences(qmodel.to_integer(), qmodel.layer_codes(x))
    assert len(differences) == 4 + {layers.Average: 4, layers.Maximum: 0}.get(kind, 3)
    assert all(each.largest <= 1 for each in differences), differences


def test_a_product_of_an_image_and_features_deploys(tmp_path):
    inputs = keras.Input((8, 8, 3), name="image")
    features = layers.Dense(3, name="dense")(layers.GlobalMaxPooling2D()(inputs))
    product = layers.Multiply(name="gate")([features, inputs, features])
    model, x = keras.Model(inputs, product), images(16, (8, 8, 3))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0


def test_partial_sums_enter_an_add_and_follow_an_override():
    model, x = branches(4, layers.Add, relu=True), images(16, (8, 8, 3))
    narrow = keras_qat.LSQConfig(weight_bits=2, activation_bits=3, first_and_last_bits=4)
    names = ["merge_partial_quantizer", "merge_partial_1_quantizer", "relu_quantizer"]
    plain = keras_qat.quantize(model, narrow, calibration_data=x)
    assert [plain.get_layer(name).bits for name in names] == [8, 8, 4]
    overrides = {"merge": keras_qat.LSQConfig(activation_bits=5)}
    qmodel = keras_qat.quantize(model, narrow, overrides=overrides, calibration_data=x)
    assert [qmodel.get_layer(name).bits for name in names] == [5, 5, 5]


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("merge", [layers.Add, layers.Average, layers.Multiply, layers.Maximum])
def test_a_regularizer_counts_the_whole_result_once(merge, count):
    inputs = keras.Input((6,))
    parts = [layers.Dense(4)(inputs) for _ in range(count)]
    outputs = merge(activity_regularizer=keras.regularizers.L1(0.01))(parts)
    model = keras.Model(inputs, layers.Dense(2)(outputs))
    x = images(32, (6,))
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=x)
    losses = []
    for each in (model, qmodel):
        each(x, training=True)
        losses.append([float(loss) for loss in each.losses])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # the grids round what is regularized
