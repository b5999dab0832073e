"""Grids that several tensors share."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.errors import UnsupportedLayerError
from keras_qat.quantization.bit_width_policy import BitWidthPolicy
from keras_qat.quantization.grid_planning import GridPlanner
from keras_qat.quantization.passes.layer_copies import nothing_stays_float
from keras_qat.quantization.ruled_graph import RuledGraph
from tests.models import images

layers = keras.layers


def planned(model, overrides=None, **signed):
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)
    rules = RuledGraph(model, nothing_stays_float)
    planner = GridPlanner(rules, BitWidthPolicy(rules, config, overrides or {}, {}))
    signs = {layer.name: True for layer in model.layers} | signed
    planner.grids = tuple(grid.with_sign(signs) for grid in planner.grids)
    return planner


def two_branches(left=True, right=True):
    """Two convolutions, each with a ReLU or without one, joined and read by a third."""
    inputs = keras.Input((6, 6, 3), name="image")
    branches = []
    for name, activated in {"left": left, "right": right}.items():
        x = layers.Conv2D(3, 1, name=name)(inputs)
        branches.append(layers.ReLU(name=f"{name}_relu")(x) if activated else x)
    joined = layers.Concatenate(name="joined")(branches)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="last")(joined))


def described(plan):
    return [(grid.name, grid.bits, grid.signed, len(grid.tensors)) for grid in plan.grids]


def test_joined_tensors_share_one_grid():
    model = two_branches()
    plan = planned(model)
    assert described(plan) == [
        ("image", 8, True, 1),
        ("joined", 4, False, 2),
        ("last", 8, True, 1),
    ]
    grid = plan.starts(model.get_layer("left_relu").output)
    assert grid == plan.starts(model.get_layer("right_relu").output) == 1
    assert grid == plan.grid_of(model.get_layer("joined").output)
    assert plan.starts(model.get_layer("joined").output) is None


def test_a_grid_is_signed_where_one_of_its_tensors_is():
    assert described(planned(two_branches(left=False)))[1] == ("joined", 4, True, 2)


def test_a_grid_has_the_most_bits_that_one_of_its_tensors_asks_for():
    wide = keras_qat.STEConfig(activation_bits=7)
    plan = planned(two_branches(), {"right_relu": wide})
    grid = plan.grids[1]
    assert grid.bits == 7
    assert isinstance(grid.quantizer("q"), keras_qat.STEActivationQuantizer)


def test_what_is_joined_again_is_one_grid_all_along():
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(3, 1, name="stem")(inputs)
    for index in range(3):
        y = layers.Conv2D(2, 1, name=f"grow{index}")(x)
        x = layers.Concatenate(name=f"joined{index}")([x, layers.ReLU(name=f"relu{index}")(y)])
    plan = planned(keras.Model(inputs, x))
    assert described(plan) == [("image", 8, True, 1), ("joined0", 8, True, 4)]


def test_an_input_that_is_joined_keeps_its_name_and_its_fixed_grid():
    inputs = keras.Input((6, 6, 3), name="image")
    conv = layers.Conv2D(3, 1, name="conv")(inputs)
    plan = planned(keras.Model(inputs, layers.Concatenate(name="joined")([conv, inputs])))
    assert described(plan) == [("image", 8, True, 2)]
    assert isinstance(plan.grids[0].quantizer("q"), keras_qat.STEActivationQuantizer)


def test_a_grid_passes_through_layers_that_keep_it():
    inputs = keras.Input((6, 6, 3), name="image")
    pooled = layers.MaxPooling2D(1, name="pool")(layers.Conv2D(3, 1, name="left")(inputs))
    other = layers.Conv2D(3, 1, name="right")(inputs)
    plan = planned(keras.Model(inputs, layers.Concatenate(name="joined")([pooled, other])))
    assert [site.layer for site in plan.grids[1].tensors] == ["left", "right"]


def test_a_softmax_and_another_tensor_do_not_join():
    inputs = keras.Input((4,), name="x")
    softmax = layers.Softmax(name="softmax")(layers.Dense(3, name="dense")(inputs))
    model = keras.Model(inputs, layers.Concatenate(name="joined")([softmax, inputs]))
    with pytest.raises(UnsupportedLayerError, match=r"'joined' .* Softmax"):
        planned(model)


def test_what_a_layer_in_float_yields_shares_the_grid_of_what_it_is_joined_with():
    plan = planned(two_branches(), {"left.*": None})
    assert described(plan) == [
        ("image", 8, True, 1),
        ("joined", 8, True, 2),
        ("last", 8, True, 1),
    ]


def test_consecutive_layers_in_float_have_no_grid_between_them():
    model = two_branches()
    plan = planned(model, {"left.*": None})
    assert plan.starts(model.get_layer("left").output) is None
    assert plan.starts(model.get_layer("left_relu").output) is not None


def test_the_sign_of_what_a_layer_in_float_yields_is_as_told():
    assert described(planned(two_branches(), {"left.*": None}, left_relu=False))[1][2] is False


@pytest.mark.parametrize("left", [True, False])
def test_the_shared_quantizer_starts_from_the_values_of_all(left):
    model = two_branches(left=left)
    model.get_layer("right").kernel.assign(20 * np.ones((1, 1, 3, 3)))
    config = keras_qat.STEConfig(activation_bits=8)
    qmodel = keras_qat.quantize(model, config, calibration_data=images(64, (6, 6, 3)))
    quantizer = qmodel.get_layer("joined_quantizer")
    values = keras.Model(model.input, model.get_layer("joined").output)(images(64, (6, 6, 3)))
    assert float(quantizer.scale) * quantizer.grid.qmax > 0.5 * float(np.max(values))
    assert quantizer.grid.qmin == (0 if left else -128)
