"""Who gets how many bits."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.integer import ops
from keras_qat.quantizers import PutsOnGrid
from tests.models import images, residual_network

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

layers = keras.layers
LSQ = keras_qat.LSQConfig


def quantized(model, overrides=None, **config):
    widths = {"weight_bits": 4, "activation_bits": 3, **config}
    return keras_qat.quantize(
        model,
        LSQ(**widths),
        overrides=overrides,
        calibration_data=images(8, model.inputs[0].shape[1:]),
    )


def weight_bits(qmodel):
    return {
        layer.name: layer.weight_quantizer.grid.bits
        for layer in qmodel.layers
        if hasattr(layer, "weight_quantizer")
    }


def grid_bits(qmodel):
    return {
        layer.name.removesuffix("_quantizer"): layer.grid.bits
        for layer in qmodel.layers
        if isinstance(layer, PutsOnGrid)
    }


def chain():
    """Three weight layers with a ReLU each."""
    inputs = keras.Input((6, 6, 3), name="image")
    x = inputs
    for name in ("first", "middle", "last"):
        x = layers.Conv2D(3, 3, padding="same", activation="relu", name=name)(x)
    return keras.Model(inputs, x)


def test_the_ends_have_8_bits_and_the_middle_has_the_config():
    qmodel = quantized(chain())
    assert weight_bits(qmodel) == {"first": 8, "middle": 4, "last": 8}
    assert grid_bits(qmodel) == {"image": 8, "first_relu": 3, "middle_relu": 3, "last_relu": 8}


def test_the_ends_follow_the_config():
    qmodel = quantized(chain(), first_and_last_bits=2, input_bits=5)
    assert weight_bits(qmodel) == {"first": 2, "middle": 4, "last": 2}
    assert grid_bits(qmodel)["image"] == 5
    assert grid_bits(qmodel)["last_relu"] == 2


def test_the_first_separable_layer_begins_with_its_depthwise_half():
    inputs = keras.Input((6, 6, 3))
    x = layers.SeparableConv2D(3, 3, name="sep")(inputs)
    qmodel = quantized(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x)))
    assert weight_bits(qmodel) == {"sep_depthwise": 8, "sep": 4, "last": 8}


def test_every_branch_has_its_own_ends():
    inputs = keras.Input((6, 6, 3))
    left = layers.Conv2D(3, 1, name="left")(inputs)
    right = layers.Conv2D(3, 1, name="right_2")(layers.Conv2D(3, 1, name="right_1")(inputs))
    total = layers.Add()([left, right])
    heads = [layers.Conv2D(2, 1, name=f"head_{i}")(total) for i in range(2)]
    qmodel = quantized(keras.Model(inputs, heads))
    bits = {"left": 8, "right_1": 8, "right_2": 4, "head_0": 8, "head_1": 8}
    assert weight_bits(qmodel) == bits


@pytest.mark.parametrize(
    "between",
    [
        [],
        [layers.Dropout(0.1)],
        [layers.MaxPooling2D(1)],
        [layers.AveragePooling2D(1), layers.Dropout(0.1)],
        [layers.ReLU(), layers.MaxPooling2D(1)],
    ],
    ids=["nothing", "dropout", "max_pool", "average_pool", "relu_max_pool"],
)
def test_what_enters_an_add_has_8_bits(between):
    """Also where layers that keep the grid stand in between."""
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(3, 1, name="first")(inputs)
    branch = layers.Conv2D(3, 1, name="branch")(x)
    other = layers.Conv2D(3, 1, name="other")(layers.Conv2D(3, 1, name="deep")(x))
    for layer in between:
        branch = type(layer).from_config(layer.get_config())(branch)
    total = layers.Add(name="add")([branch, other])
    qmodel = quantized(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(total)))
    bits = grid_bits(qmodel)
    branch_bits = {v for k, v in bits.items() if k.startswith(("branch", "re_lu"))}
    assert branch_bits == {8}
    assert bits["other"] == 8
    assert (bits["first"], bits["deep"], bits["add"]) == (3, 3, 3)
    assert grid_bits(quantized(keras.Model(inputs, total), add_bits=5))["other"] == 5


def test_a_global_mean_has_at_least_8_bits():
    inputs = keras.Input((6, 6, 3))
    x = layers.GlobalAveragePooling2D(name="mean")(layers.Conv2D(3, 1)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert grid_bits(quantized(model))["mean"] == 8
    assert grid_bits(quantized(model, overrides={"mean": LSQ(activation_bits=4)}))["mean"] == 4


def test_logits_before_a_softmax_count_as_outputs():
    bits = grid_bits(quantized(residual_network()))
    assert bits["head"] == 8
    assert bits["head_softmax"] == 8  # the runtimes' own grid


def test_overrides_set_weights_outputs_and_inputs():
    config = LSQ(weight_bits=2, activation_bits=5)
    qmodel = quantized(chain(), overrides={"first|middle": config, "image": LSQ(activation_bits=6)})
    assert weight_bits(qmodel) == {"first": 2, "middle": 2, "last": 8}
    assert grid_bits(qmodel) == {"image": 6, "first_relu": 5, "middle_relu": 5, "last_relu": 8}


def test_the_override_of_the_last_layer_of_an_op_decides_its_output():
    overrides = {"middle_relu": LSQ(activation_bits=7), "middle": LSQ(activation_bits=2)}
    assert grid_bits(quantized(chain(), overrides=overrides))["middle_relu"] == 7


def test_the_first_pattern_that_matches_wins():
    overrides = {"mid.*": LSQ(weight_bits=2), ".*": LSQ(weight_bits=7)}
    assert weight_bits(quantized(chain(), overrides=overrides)) == {
        "first": 7,
        "middle": 2,
        "last": 7,
    }


def test_an_override_takes_what_the_config_takes():
    qmodel = quantized(chain(), overrides={"middle": "ste"})
    kind = type(qmodel.get_layer("middle").weight_quantizer)
    assert kind is keras_qat.STEWeightQuantizer
    with pytest.raises(ValueError, match="Received: 'unknown'"):
        quantized(chain(), overrides={"middle": "unknown"})


@pytest.mark.parametrize("pattern", ["mid", "iddle", "Middle", ""])
def test_a_pattern_that_matches_no_whole_name_lists_the_layers(pattern):
    with pytest.raises(ValueError, match=r"matches no layer.*first, first_relu, middle") as error:
        quantized(chain(), overrides={pattern: None})
    assert repr(pattern) in str(error.value)


@pytest.mark.parametrize("pattern", ["(", 3])
def test_a_key_that_is_no_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="must be a regular expression"):
        quantized(chain(), overrides={pattern: None})


def test_an_override_of_a_separable_layer_covers_both_halves():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(3, 1, name="first")(inputs)
    x = layers.SeparableConv2D(3, 3, name="sep")(x)
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x))
    both = quantized(model, overrides={"sep": LSQ(weight_bits=2)})
    assert weight_bits(both) == {"first": 8, "sep_depthwise": 2, "sep": 2, "last": 8}
    half = quantized(model, overrides={"sep_depthwise": LSQ(weight_bits=2)})
    assert weight_bits(half) == {"first": 8, "sep_depthwise": 2, "sep": 4, "last": 8}


@pytest.mark.parametrize("name", ["first", "middle", "last"])
def test_none_leaves_one_layer_in_float_and_the_rest_quantized(name):
    qmodel = quantized(chain(), overrides={name: None})
    weight_layers = ("first", "middle", "last")
    grids = [each if each == name else f"{each}_relu" for each in weight_layers]
    assert list(grid_bits(qmodel)) == ["image", *grids]
    assert grid_bits(qmodel)[name] == 8
    assert set(weight_bits(qmodel)) == {"first", "middle", "last"} - {name}
    x = images(8, (6, 6, 3))
    qmodel.compile("sgd", "mse")
    before = qmodel.get_layer("middle").trainable_variables[0].numpy()
    qmodel.fit(x, np.zeros((8, 6, 6, 3)), verbose=0)
    assert np.any(qmodel.get_layer("middle").trainable_variables[0].numpy() != before)
    parts = [op for op in qmodel.to_integer().ops if isinstance(op, ops.FloatPart)]
    assert [(op.output, op.layers) for op in parts] == [(name, (name,))]


def test_what_enters_or_leaves_a_layer_in_float_has_bits_of_its_own():
    config = LSQ(weight_bits=4, activation_bits=3, add_bits=6, input_bits=7)
    x = images(8, (6, 6, 3))
    qmodel = keras_qat.quantize(chain(), config, overrides={"middle": None}, calibration_data=x)
    found = {"image": 7, "first_relu": 6, "middle": 7, "last_relu": 8}
    assert grid_bits(qmodel) == found


def test_an_input_in_float_cannot_be_read_by_a_quantized_layer():
    with pytest.raises(ValueError, match="The input 'image' is left in float"):
        quantized(chain(), overrides={"image": None})


def test_pooling_left_in_float_has_a_grid_of_its_own_behind_it():
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.AveragePooling2D(2, name="pool")(layers.Conv2D(3, 1, name="conv")(inputs))
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x))
    qmodel = quantized(model, overrides={"pool": None})
    assert list(grid_bits(qmodel)) == ["image", "conv", "pool", "last"]
    assert any(isinstance(op, ops.FloatPart) for op in qmodel.to_integer().ops)


def test_the_integers_use_the_bits():
    graph = quantized(chain()).to_integer()
    widths = [op.weight_bits for op in graph.ops if isinstance(op, ops.LinearOp)]
    assert widths == [8, 4, 8]
    assert graph.tensors["middle_relu"].qparams.levels == 8
