"""Raw operations become layers of the same function, and deploy."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
import tflite_export
from keras_qat.errors import UnsupportedLayerError
from keras_qat.keras_graph import nodes
from keras_qat.layer_rules.table import ACTIVATIONS
from keras_qat.lowering.pointwise import lower_pointwise
from keras_qat.quantization.passes.to_layers import to_layers
from keras_qat.quantized_layers import approximate_gelu
from tests.models import images, randomize

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers

OPERATIONS = {
    "add": lambda x, y: x + y,
    "ops_add": lambda x, y: ops.add(x, y),
    "add_broadcast": lambda x, y: ops.max(y, axis=(1, 2), keepdims=True) + x,
    "subtract": lambda x, y: x - y,
    "ops_subtract": lambda x, y: ops.subtract(x2=x, x1=y),
    "subtract_broadcast": lambda x, y: x - ops.max(y, axis=(1, 2), keepdims=True),
    "multiply": lambda x, y: x * y,
    "multiply_broadcast": lambda x, y: x * ops.max(y, axis=(1, 2), keepdims=True),
    "square": lambda x, y: x * x,
    "maximum": lambda x, y: ops.maximum(x, y),
    "minimum_broadcast": lambda x, y: ops.minimum(ops.max(y, axis=(1, 2), keepdims=True), x),
    "add_a_number": lambda x, y: x + 3.0,
    "add_to_a_number": lambda x, y: 3.0 + x,
    "subtract_a_number": lambda x, y: x - 0.25,
    "subtract_from_a_number": lambda x, y: 1.0 - x,
    "negative": lambda x, y: -x,
    "multiply_by_a_number": lambda x, y: x * 0.3,
    "multiply_channels": lambda x, y: ops.multiply(np.float32([1, -2, 3, 0.5]), x),
    "divide_by_a_number": lambda x, y: x / 4.0,
    "concatenate": lambda x, y: ops.concatenate([x, y], axis=-1),
    "relu": lambda x, y: ops.relu(x),
    "activation_function": lambda x, y: keras.activations.relu(x),
    "relu6": lambda x, y: ops.relu6(x),
    "sigmoid": lambda x, y: ops.sigmoid(x),
    "exp": lambda x, y: ops.exp(x),
    "approximate_gelu": lambda x, y: ops.gelu(x),
    "gelu": lambda x, y: keras.activations.gelu(x),
    "elu": lambda x, y: ops.elu(x, alpha=0.5),
    "leaky_relu": lambda x, y: ops.leaky_relu(x, negative_slope=0.05),
    "limited_relu": lambda x, y: keras.activations.relu(x, max_value=2.0, negative_slope=0.1),
    "soft_shrink": lambda x, y: ops.soft_shrink(x),
    "softmax": lambda x, y: ops.softmax(x),
    "reshape": lambda x, y: ops.reshape(x, (-1, 256)),
    "transpose": lambda x, y: ops.transpose(x, (0, 3, 1, 2)),
    "mean": lambda x, y: ops.mean(x, axis=(1, 2)),
    "mean_kept": lambda x, y: ops.mean(x, axis=(-3, -2), keepdims=True),
    "max": lambda x, y: ops.max(x, axis=[2, 1]),
    "slice": lambda x, y: x[:, 1:7, :-2],
    "slice_in_steps": lambda x, y: x[:, ::2, 1::3],
    "slice_of_everything": lambda x, y: x[:, :],
    "slice_of_channels": lambda x, y: x[..., 1:],
    "slice_of_places_and_channels_in_steps": lambda x, y: x[:, 2:-1, ::3, :3:2],
    "one_row": lambda x, y: x[:, -2],
    "one_pixel": lambda x, y: x[:, 3, -1, :],
    "one_channel": lambda x, y: x[..., 2],
    "new_axis": lambda x, y: x[:, None, 1:, :, 0],
    "absolute": lambda x, y: ops.abs(x),
    "python_absolute": lambda x, y: abs(x),
    "square_function": lambda x, y: ops.square(x),
    "maximum_with_zero": lambda x, y: ops.maximum(x, 0.0),
    "clip_from_zero": lambda x, y: ops.clip(x, 0.0, 2.5),
    "pad": lambda x, y: ops.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0))),
    "pad_channels": lambda x, y: ops.pad(x, ((0, 0), (0, 0), (1, 0), (2, 1))),
}
OVER_SEQUENCES = {
    "mean": lambda x: ops.mean(x, axis=1),
    "mean_kept": lambda x: ops.mean(x, axis=(-2,), keepdims=True),
    "max": lambda x: ops.max(x, axis=1),
    "slice": lambda x: x[:, 1:-2],
    "slice_in_steps": lambda x: x[:, 1::3],
    "last_step": lambda x: x[:, -1, :],
    "slice_of_channels": lambda x: x[:, 2:6, 1:3],
    "one_channel": lambda x: x[..., -1],
    "features": lambda x: ops.max(x, axis=1)[:, 1:],
    "one_feature": lambda x: ops.max(x, axis=1)[:, 2:3],
    "pad": lambda x: ops.pad(x, ((0, 0), (2, 1), (0, 0))),
}
WITHOUT_LAYER = {
    "add_of_another_rank": lambda x, y: x + ops.max(y, axis=(0, 1, 2)),
    "mean_of_everything": lambda x, y: ops.mean(x),
    "max_with_start": lambda x, y: ops.max(x, axis=(1, 2), initial=0.0),
    "slice_of_examples": lambda x, y: x[1:, :],
    "pad_with_ones": lambda x, y: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0),
    "pad_by_reflection": lambda x, y: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"),
}


POINTWISE = [
    name
    for name, rule in ACTIVATIONS.items()
    if rule.lower is lower_pointwise and hasattr(keras.activations, name) and name != "mish"
]


def with_operation(operation) -> keras.Model:
    inputs = keras.Input((8, 8, 4), name="image")
    left = layers.Conv2D(4, 3, padding="same", name="left")(inputs)
    right = layers.Conv2D(4, 1, name="right")(inputs)
    return randomize(keras.Model(inputs, operation(left, right)))


@pytest.fixture
def x():
    return images(8, (8, 8, 4))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_function_stays_and_only_layers_are_left(name, x):
    model = with_operation(OPERATIONS[name])
    named = to_layers(model)
    assert all(isinstance(node.operation, layers.Layer) for node in nodes(named))
    np.testing.assert_array_equal(named.predict(x, verbose=0), model.predict(x, verbose=0))
    raw = {n.operation.name for n in nodes(model) if not isinstance(n.operation, layers.Layer)}
    assert raw <= {layer.name for layer in named.layers}


@pytest.mark.parametrize("name", OPERATIONS)
def test_it_deploys(name, x, tmp_path):
    qmodel = keras_qat.quantize(with_operation(OPERATIONS[name]), calibration_data=x)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0


@pytest.mark.parametrize("name", OVER_SEQUENCES)
def test_operations_over_sequences_deploy(name, tmp_path):
    inputs, x = keras.Input((8, 3), name="signal"), images(8, (8, 3))
    hidden = layers.Conv1D(4, 3, padding="same", name="conv")(inputs)
    model = randomize(keras.Model(inputs, OVER_SEQUENCES[name](hidden)))
    named = to_layers(model)
    assert all(isinstance(node.operation, layers.Layer) for node in nodes(named))
    np.testing.assert_array_equal(named.predict(x, verbose=0), model.predict(x, verbose=0))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0


@pytest.mark.parametrize("name", WITHOUT_LAYER)
def test_others_end_in_the_one_error(name, x):
    model = with_operation(WITHOUT_LAYER[name])
    before = model.predict(x, verbose=0)
    with pytest.raises(UnsupportedLayerError, match="this raw operation has no layer"):
        keras_qat.quantize(model, calibration_data=x)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


@pytest.mark.parametrize("name", POINTWISE)
def test_a_function_of_one_number_has_a_layer(name):
    """Every operation that stands for a function of `keras.activations` is that function."""
    function = getattr(keras.activations, name)
    inputs = keras.Input((64,))
    operation = getattr(ops, {"exponential": "exp"}.get(name, name))
    plain = to_layers(keras.Model(inputs, operation(inputs)))
    x = np.linspace(-8.0, 8.0, 64, dtype=np.float32).reshape(1, 64)
    if name == "gelu":
        function = approximate_gelu
    np.testing.assert_array_equal(plain(x), function(ops.convert_to_tensor(x)))


def test_a_model_of_layers_is_left_alone():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    assert to_layers(model) is model


def test_overrides_find_an_operation_by_its_name(x):
    model = with_operation(lambda x, y: ops.relu(x + y))
    name = next(n.operation.name for n in nodes(model) if type(n.operation).__name__ == "Relu")
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)
    overrides = {name: keras_qat.LSQConfig(activation_bits=2)}
    qmodel = keras_qat.quantize(model, config, overrides=overrides, calibration_data=x)
    assert qmodel.get_layer(f"{name}_quantizer").bits == 2


def backbone(name="backbone") -> keras.Model:
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(6, 3, padding="same", name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = keras.Sequential([layers.ReLU(), layers.Conv2D(4, 1, name="inner")], name="block")(x)
    return randomize(keras.Model(inputs, ops.relu(x + inputs), name=name))


def transfer() -> keras.Model:
    """A head on a backbone that has a model inside, as transfer learning builds it."""
    inputs = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(4, 1, name="conv")(inputs)
    x = backbone()(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomize(keras.Model(inputs, layers.Dense(3, name="head")(x)))


def test_models_inside_are_replaced_by_their_layers(x, tmp_path):
    model = transfer()
    plain = to_layers(model)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), model.predict(x, verbose=0))
    names = {layer.name for layer in plain.layers}
    assert {"conv", "conv_1", "norm", "inner", "pool", "head"} <= names
    assert not any(isinstance(layer, keras.Model) for layer in plain.layers)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0


@pytest.mark.parametrize("trainable", [True, False])
def test_averages_move_as_in_the_original(trainable, x):
    model = transfer()
    model.get_layer("backbone").trainable = trainable
    plain = to_layers(model)
    before = np.array(plain.get_layer("norm").moving_mean)
    model(x, training=True)
    plain(x, training=True)
    after = np.array(plain.get_layer("norm").moving_mean)
    np.testing.assert_allclose(after, model.get_layer("backbone").get_layer("norm").moving_mean)
    assert np.any(after != before) == trainable


def test_a_layer_inside_makes_way_for_the_name_of_one_outside(x):
    inputs = keras.Input((8, 8, 4), name="image")
    outputs = layers.Conv2D(2, 1, name="conv")(backbone()(inputs))
    plain = to_layers(randomize(keras.Model(inputs, outputs)))
    assert plain.get_layer("conv").filters == 2
    assert plain.get_layer("conv_1").filters == 6


def test_a_model_called_twice_keeps_one_set_of_weights(x):
    inputs = keras.Input((8, 8, 4), name="image")
    base = backbone()
    model = randomize(
        keras.Model(inputs, layers.Add(name="sum")([base(inputs), base(base(inputs))]))
    )
    plain = to_layers(model)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), model.predict(x, verbose=0))
    assert plain.count_params() == model.count_params()


def test_a_frozen_backbone_stays_frozen(x):
    model = transfer()
    model.get_layer("backbone").trainable = False
    plain = to_layers(model)
    assert len(plain.trainable_weights) == len(model.trainable_weights) == 4


def test_several_inputs_and_outputs_of_a_model_inside(x):
    left, right = keras.Input((8, 8, 4)), keras.Input((8, 8, 4))
    inner = keras.Model([left, right], [left + right, ops.relu(right)], name="pair")
    inputs = keras.Input((8, 8, 4), name="image")
    total, positive = inner([inputs, layers.Conv2D(4, 1, name="conv")(inputs)])
    model = randomize(keras.Model(inputs, [total, positive]))
    plain = to_layers(model)
    for ours, theirs in zip(plain.predict(x, verbose=0), model.predict(x, verbose=0), strict=True):
        np.testing.assert_array_equal(ours, theirs)
