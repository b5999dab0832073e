"""Configurations: bit widths, their checks, and every way to name one."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.config import CONFIGS, QuantizationConfig, get
from keras_qat.quantizers import Grid

WIDTHS = [f.name for f in dataclasses.fields(QuantizationConfig) if f.name.endswith("_bits")]


@pytest.mark.parametrize("bits", [0, 9, -1, 2.5, 4.0, True, "4", None])
@pytest.mark.parametrize("field", WIDTHS)
def test_a_width_that_is_not_a_whole_number_from_1_to_8_is_refused(field, bits):
    if (field, bits) == ("activation_bits", None):
        return  # the next test
    with pytest.raises(ValueError, match=f"{field} must be a whole number from 1 to 8") as error:
        keras_qat.LSQConfig(**{field: bits})
    assert f"Received: {bits!r}" in str(error.value)


@pytest.mark.parametrize("config_type", CONFIGS.values())
def test_no_activation_bits_leave_activations_in_float(config_type):
    config = config_type(weight_bits=1, activation_bits=None)
    assert not config.rounds_activations
    assert config_type().rounds_activations
    assert get(keras.saving.serialize_keras_object(config)) == config


def test_numpy_integers_are_whole_numbers_too():
    config = keras_qat.LSQConfig(weight_bits=np.int64(4))
    assert type(config.weight_bits) is int


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_from_1_to_8_has_that_many_bits(bits):
    config = keras_qat.LSQConfig(weight_bits=bits)
    assert config.weight_quantizer(bits).grid.bits == bits
    assert config.activation_quantizer(bits, True, "signed").grid.bits == bits
    assert config.activation_quantizer(bits, False, "unsigned").grid == Grid(0, 2**bits - 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_names_give_the_8_bit_default(name):
    assert get(name) == CONFIGS[name]()
    assert get(name).activation_bits == 8
    assert get(name).weight_bits == (7 if name == "waveq" else 8)  # 8 bits learn no width


def test_none_is_8_bit_lsq():
    assert get(None) == keras_qat.LSQConfig()


@pytest.mark.parametrize("config_type", CONFIGS.values())
def test_serialized_and_loaded_is_equal(config_type):
    config = config_type(weight_bits=3, per_channel=False, add_bits=5)
    serialized = keras.saving.serialize_keras_object(config)
    assert get(serialized) == config
    assert config_type.from_config(config.get_config()) == config


@pytest.mark.parametrize("unknown", ["LSQ", "int8", 4, {"weight_bits": 4}, keras_qat.LSQConfig])
def test_anything_else_is_refused_with_the_names_that_exist(unknown):
    with pytest.raises(
        ValueError,
        match="one of 'dorefa', 'gdnsq', 'lsq', 'pege', 'ste', 'waveq', or a serialized config",
    ) as error:
        get(unknown)
    assert repr(unknown) in str(error.value)


@pytest.mark.parametrize("config_type", CONFIGS.values())
def test_per_channel_is_about_weights_alone(config_type):
    assert config_type().weight_quantizer(4).per_channel
    assert not config_type(per_channel=False).weight_quantizer(4).per_channel
    assert not hasattr(config_type().activation_quantizer(4, True, "x"), "per_channel")


@pytest.mark.parametrize("config_type", CONFIGS.values())
def test_the_input_grid_is_not_trained(config_type):
    quantizer = config_type().input_quantizer(8, False, "pixels")
    quantizer.build((None, 4))
    assert quantizer.name == "pixels"
    assert quantizer.grid == Grid(0, 255)
    assert quantizer.trainable_variables == []
    np.testing.assert_array_equal(quantizer.scale, np.float32(1.0))


@pytest.mark.parametrize("config_type", CONFIGS.values())
def test_one_rule_chooses_the_estimator_of_every_config(config_type):
    """Activations have the one of weights, and nothing pulls a tensor of one bit unless told to."""

    def found(bits, estimator="pege", **options) -> list[str]:
        config = config_type(estimator=estimator, replacement="random", **options)
        quantizers = [config.weight_quantizer(bits), config.activation_quantizer(bits, False, "x")]
        assert all(quantizer.replacement == "random" for quantizer in quantizers)
        return [quantizer.estimator.name for quantizer in quantizers]

    assert found(2) == ["pege", "pege"]
    assert found(1) == ["ste", "ste"]
    assert found(1, pull_at_one_bit=True) == ["pege", "pege"]
    assert found(1, estimator="ewgs") == ["ewgs", "ewgs"]
    assert found(1, activation_estimator="dsq") == ["ste", "dsq"]


def test_pege_replaces_at_random_and_pulls():
    config = keras_qat.PEGEConfig()
    assert (config.estimator.name, config.replacement, config.order) == ("pege", "random", "global")


@pytest.mark.parametrize(
    ("config_type", "flag"),
    [(keras_qat.LSQConfig, "per_channel"), (keras_qat.PEGEConfig, "pull_at_one_bit")],
)
def test_a_flag_that_is_neither_true_nor_false_is_refused(config_type, flag):
    with pytest.raises(ValueError, match=f"{flag} must be True or False. Received: 'yes'"):
        config_type(**{flag: "yes"})
