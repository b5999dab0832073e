"""What users pass by mistake: a clear error or a documented meaning, and their things untouched."""

import re
import sys

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat import keras_graph
from keras_qat.errors import UnsupportedLayerError
from tests.models import images, randomize
from tests.reliability.tiny import CONFIGS, X, Y, compiled, fit, network
from tests.untouched import untouched
from tflite_export import export

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


def quantize(model, config="lsq", x=X, **options):
    return keras_qat.quantize(model, config, calibration_data=x, **options)


def deploys(qmodel):
    """Everything finite, and as integers."""
    for width in qmodel.learned_widths:
        width.narrow()
        width.hold()
    for quantizer in qmodel.replaced_quantizers.values():
        quantizer.replaced_share.assign(1.0)
    for variable in qmodel.variables:
        assert np.all(np.isfinite(variable.numpy())), variable.path
    assert np.all(np.isfinite(qmodel.predict(X, verbose=0)))
    return bool(qmodel.to_integer().ops)


def step(qmodel, x=X):
    """One step of training, eagerly."""
    compiled(qmodel, keras.optimizers.SGD(0.01), run_eagerly=True)
    loss = qmodel.train_on_batch(x, Y)
    assert np.all(np.isfinite(keras.tree.flatten(loss)))
    return qmodel


# Numbers: zeros, constants, far too small ones.


def with_kernel(change):
    model = network()
    kernel, bias = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([change(kernel), bias])
    return model


def channels(kernel):
    kernel[:, 1], kernel[:, 2] = 0.0, 0.3
    return kernel


HARMLESS = {
    "zero layer": (lambda: with_kernel(np.zeros_like), X),
    "zero and constant channels": (lambda: with_kernel(channels), X),
    "tiny weights": (lambda: with_kernel(lambda k: k * np.float32(1e-38)), X),
    "zero data": (network, np.zeros_like(X)),
    "constant data": (network, np.full_like(X, 3.0)),
    "tiny data": (network, X * np.float32(1e-38)),
    "one sample": (network, X[:1]),
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("case", HARMLESS)
def test_zeros_constants_and_tiny_numbers_train_and_deploy(case, kind):
    make, x = HARMLESS[case]
    model = make()
    with untouched(model, X):
        qmodel = step(quantize(model, CONFIGS[kind], x))
    assert deploys(qmodel)


@pytest.mark.parametrize("kind", ["lsq", "gdnsq"])
def test_what_is_far_below_the_smallest_scale_is_zero(kind):
    qmodel = quantize(with_kernel(lambda k: k * np.float32(1e-38)), CONFIGS[kind])
    wrapper = qmodel.get_layer("first")
    assert not np.any(wrapper.weight_quantizer.codes(wrapper.channels_last_kernel()))


def with_weight(layer, name, value):
    model = normalized()
    variable = getattr(model.get_layer(layer), name)
    values = variable.numpy()
    values.flat[0] = value
    variable.assign(values)
    return model


def normalized():
    inputs = keras.Input((6,), name="numbers")
    x = layers.BatchNormalization(name="bn")(layers.Dense(4, name="dense")(inputs))
    return randomize(keras.Model(inputs, layers.ReLU(name="relu")(x)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "where", [("dense", "kernel"), ("dense", "bias"), ("bn", "beta"), ("bn", "moving_variance")]
)
def test_weights_that_are_not_finite_are_named_though_an_activation_hides_them(where, value):
    message = f"layer '{where[0]}' hold NaN or infinity, in 1 of .* values of '{where[1]}'"
    with pytest.raises(ValueError, match=message):
        quantize(with_weight(*where, value))


@pytest.mark.parametrize("value", [1e30, -3e38])
def test_weights_that_overflow_are_named(value):
    message = "weights of layer 'dense' are too large, in 'kernel'.* Received: "
    with pytest.raises(ValueError, match=message + re.escape(f"{abs(value):.3g}")):
        quantize(with_weight("dense", "kernel", value))


def test_values_that_overflow_are_named():
    with pytest.raises(ValueError, match=r"'numbers' yields .* too large.* Received: 1e"):
        quantize(network(), x=np.full_like(X, 1e30))
    with pytest.raises(ValueError, match="'relu' yields values that are too large"):
        quantize(with_weight("bn", "gamma", 1e18), x=100.0 * X)


# Types: float64, float16, integers.


def of_policy(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return network()
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("policy", ["float64", "float16", "bfloat16"])
def test_models_without_float32_weights_are_refused_with_what_to_do(policy):
    model = of_policy(policy)
    message = f"'first' has the dtype {policy}.*set_weights.* Received: '{policy}'"
    with pytest.raises(ValueError, match=message):
        quantize(model)
    with pytest.raises(ValueError, match=message):
        keras_qat.plan(model)


def test_another_floatx_is_refused():
    keras.config.set_floatx("float64")
    try:
        with pytest.raises(ValueError, match=r"set_floatx\('float32'\).* is 'float64'"):
            quantize(network())
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_data_of_another_type_calibrates_as_its_float32_numbers(dtype):
    x = X.astype("float16")
    model = network()
    qmodel, expected = quantize(model, x=x.astype(dtype)), quantize(model, x=x.astype("float32"))
    for now, then in zip(qmodel.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_whole_numbers_are_inputs_too(dtype):
    x = np.random.default_rng(0).integers(0, 200, X.shape).astype(dtype)
    inputs = keras.Input((6,), dtype=dtype, name="bytes")
    scaled = layers.Rescaling(1 / 255, name="scaled")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="dense")(scaled))
    qmodel = step(quantize(model, x=x), x)
    assert qmodel.layer_codes(x)["bytes"].dtype == np.int8
    assert qmodel.to_integer().ops


# Models: nothing in them, too much in them.


def identity():
    inputs = keras.Input((6,))
    return keras.Model(inputs, inputs)


@pytest.mark.parametrize(
    "make", [identity, keras.Sequential, lambda: keras.Sequential([keras.Input((6,))])]
)
def test_models_without_layers_are_refused(make):
    with pytest.raises(ValueError, match="has no layers: there is nothing to quantize"):
        quantize(make())


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0, 2)])
def test_sizes_of_0_are_refused_with_the_input(shape):
    inputs = keras.Input(shape, name="nothing")
    model = keras.Model(inputs, layers.Dense(3)(inputs))
    for call in (keras_qat.plan, lambda model: keras_qat.quantize(model, calibration_data=X)):
        with pytest.raises(ValueError, match=r"Input 'nothing' .* every size must be 1 or more"):
            call(model)


def test_an_input_that_nothing_reads_is_refused():
    read, unread = keras.Input((6,), name="read"), keras.Input((4,), name="unread")
    model = keras.Model([read, unread], layers.Dense(2)(read))
    with pytest.raises(ValueError, match=r"No layer .* reads its input 'unread': build the model"):
        keras_qat.quantize(model, calibration_data=[X, X[:, :4]])


def test_an_output_that_is_listed_twice_is_refused():
    inputs = keras.Input((6,))
    outputs = layers.Dense(2, name="last")(inputs)
    with pytest.raises(ValueError, match=r"lists an output twice.*\['last', 'last'\]"):
        keras_qat.quantize(keras.Model(inputs, [outputs, outputs]), calibration_data=X)


@pytest.mark.slow
def test_deep_networks_are_quantized_and_the_limit_of_calls_stays():
    inputs = x = keras.Input((6,))
    for _ in range(330):
        x = layers.Dense(6, activation="relu")(x)
    before = sys.getrecursionlimit()
    qmodel = keras_qat.quantize(keras.Model(inputs, x), "ste", calibration_data=X)
    assert sys.getrecursionlimit() == before
    assert len(qmodel.to_integer().ops) == 330


def test_a_graph_is_walked_as_often_whatever_its_depth(tmp_path, monkeypatch):
    """A walk for each layer would take a time that grows with the square of the depth."""
    true, walked = keras_graph.functional, []

    def functional(model):
        walked.append(model)
        return true(model)

    monkeypatch.setattr(keras_graph, "functional", functional)
    counts = []
    for depth in (3, 6):
        inputs = x = keras.Input((6,))
        for _ in range(depth):
            x = layers.Dense(6, activation="relu", bias_initializer="ones")(x)
        walked.clear()
        qmodel = keras_qat.quantize(keras.Model(inputs, x), calibration_data=X)
        export(qmodel, tmp_path / "net.tflite", samples=X[:4], verbose=False)
        counts.append(len(walked))
    assert counts[1] <= counts[0], counts


def test_quantized_layers_inside_are_refused():
    model = keras.Sequential([keras.Input((6,)), quantize(network())])
    with pytest.raises(ValueError, match="quantized already: put the float model inside"):
        quantize(model)
    model = network()
    model.get_layer("first").quantize("int8")
    with pytest.raises(ValueError, match=r"'first' was quantized by Keras itself.*'int8'"):
        quantize(model)


def test_lora_is_refused_with_what_to_do():
    model = network()
    model.get_layer("last").enable_lora(2)
    with pytest.raises(ValueError, match=r"'last' has LoRA weights.*without enable_lora"):
        quantize(model)


def test_equal_names_in_nested_models_are_told_apart():
    parts = [
        keras.Sequential([keras.Input((6,)), layers.Dense(6, name="dense")], name=name)
        for name in ("one", "two")
    ]
    model = keras.Sequential([keras.Input((6,)), *parts, layers.Dense(3, name="dense")])
    with untouched(model, X):
        qmodel = step(quantize(model, overrides={"dense": keras_qat.LSQConfig(weight_bits=2)}))
    wrapped = {
        each.name: each.weight_quantizer.bits
        for each in qmodel.layers
        if hasattr(each, "weight_quantizer")
    }
    assert wrapped == {"dense_1": 8, "dense_2": 8, "dense": 2}
    assert deploys(qmodel)


# Options.


@pytest.mark.parametrize("bits", [0, 9, 2.5, "4", True, None, np.nan])
@pytest.mark.parametrize("config", ["LSQConfig", "STEConfig", "GDNSQConfig", "PEGEConfig"])
def test_bits_that_are_none_are_refused_in_every_config(config, bits):
    fields = ("weight_bits",) if bits is None else ("weight_bits", "activation_bits")
    for field in fields:
        message = f"{field} must be a whole number from 1 to 8. Received: {bits!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            getattr(keras_qat, config)(**{field: bits})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_channel": "yes"}, "per_channel must be True or False. Received: 'yes'"),
        ({"code_regularization": "a lot"}, "number, 0 or more. Received: 'a lot'"),
        ({"code_regularization": None}, "number, 0 or more. Received: None"),
    ],
    ids=str,
)
def test_options_of_the_wrong_type_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        keras_qat.LSQConfig(**options)


@pytest.mark.parametrize("overrides", [["first"], "first", 3])
def test_overrides_that_are_no_dict_are_refused(overrides):
    for function in (keras_qat.quantize, keras_qat.plan):
        with pytest.raises(ValueError, match=r"Overrides are a dict.* Received: "):
            function(network(), overrides=overrides, calibration_data=X)


def test_an_error_on_the_way_changes_nothing():
    model = network()
    model.get_layer("last").bias.assign([np.inf, 0.0, 0.0])
    with untouched(model, X), pytest.raises(ValueError, match="'last' hold NaN or infinity"):
        quantize(model)
    inputs = keras.Input((6,))
    sliced = keras.Model(inputs, keras.ops.sort(layers.Dense(2)(inputs)))
    with untouched(sliced, X), pytest.raises(UnsupportedLayerError, match="'sort"):
        quantize(sliced)


# Frozen layers.


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_layer_frozen_after_quantize_keeps_its_weights_and_their_scales(kind):
    qmodel = compiled(quantize(network(), CONFIGS[kind]))
    first = qmodel.get_layer("first")
    first.trainable = False
    compiled(qmodel)
    seeds = {variable.path for variable in first.variables if "seed" in variable.path}
    kept = ("last_error", "replaced_share")  # what progressive replacement notes
    before = {v.path: np.array(v) for v in first.variables if not v.path.endswith(kept)}
    last = np.array(qmodel.get_layer("last").layer.kernel)
    fit(qmodel, kind, epochs=8 if kind == "gdnsq" else 2)
    for variable in first.variables:
        if variable.path in before.keys() - seeds:
            np.testing.assert_array_equal(variable, before[variable.path], err_msg=variable.path)
    assert np.any(last != np.array(qmodel.get_layer("last").layer.kernel))
    assert qmodel.to_integer().ops


def test_images_of_one_colour_calibrate_every_layer():
    inputs = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(3, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten(name="flat")(x)))
    qmodel = quantize(model, x=np.zeros_like(images(4, (6, 6, 2))))
    assert qmodel.to_integer().ops
