"""`plan` says what `quantize` does, without doing it."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat import keras_graph
from keras_qat.quantization import insert_quantizers, layer_checks
from keras_qat.quantization.passes import rewriting, to_layers
from keras_qat.quantized_layers import QuantizeWrapper
from tests.models import images, residual_network
from tests.untouched import untouched

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers
CONFIG = keras_qat.LSQConfig(weight_bits=2, activation_bits=4)


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")


def by_name(planned):
    return {layer.name: layer for layer in planned.layers}


@pytest.mark.parametrize("columns", [60, 80, 119, 200])
def test_the_table_is_no_wider_than_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = str(keras_qat.plan(residual_network(), CONFIG))
    assert max(map(len, text.splitlines())) <= columns
    assert ("float bytes" in text) == (columns >= 120)
    assert "separable_relu6" in text or columns == 60


def test_it_says_what_quantize_does():
    model, x = residual_network(), images(16)
    with untouched(model, x):
        planned = keras_qat.plan(model, CONFIG, overrides={"conv": keras_qat.LSQConfig()})
    qmodel = keras_qat.quantize(
        model, CONFIG, overrides={"conv": keras_qat.LSQConfig()}, calibration_data=x
    )
    assert planned.deploys
    assert planned.input_bits == {"image": qmodel.get_layer("image_quantizer").bits}
    wrappers = {
        layer.name: layer.weight_quantizer.bits
        for layer in qmodel.layers
        if isinstance(layer, QuantizeWrapper)
    }
    found = by_name(planned)
    assert wrappers == {n: each.weight_bits for n, each in found.items() if each.weight_bits}
    for name, layer in found.items():
        if layer.output_bits is not None:
            assert qmodel.get_layer(f"{name}_quantizer").bits == layer.output_bits
    assert sum(layer.output_bits is not None for layer in planned.layers) == sum(
        isinstance(layer, keras_qat.Quantizer) for layer in qmodel.layers[2:]
    )


def test_it_counts_multiplications_and_bytes():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(16, 3, name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", name="depthwise")(x)
    x = layers.Conv2DTranspose(8, 2, strides=2, name="up")(x)
    model = keras.Model(inputs, layers.Dense(5, name="dense")(layers.Flatten()(x)))
    found = by_name(keras_qat.plan(model, keras_qat.LSQConfig(weight_bits=3)))
    assert found["conv"].macs == 36 * 3 * 3 * 4 * 16
    assert found["depthwise"].macs == 9 * 3 * 3 * 16
    assert found["up"].macs == 9 * 2 * 2 * 16 * 8
    assert found["dense"].macs == 6 * 6 * 8 * 5
    assert found["conv"].float_bytes == 4 * (3 * 3 * 4 * 16 + 16)
    assert found["conv"].litert_bytes == 3 * 3 * 4 * 16 + 4 * 16  # the first layer has 8 bits
    weights = 2 * 2 * 16 * 8
    assert found["up"].tflm_bytes == weights * 3 // 8 + 16 + 8 * 7 + 4 * 8


def test_a_shared_layer_is_stored_once_and_computed_twice():
    inputs, dense = keras.Input((4,)), layers.Dense(4, name="dense")
    planned = keras_qat.plan(keras.Model(inputs, dense(dense(inputs))))
    first, second = planned.layers
    assert first.macs == second.macs == 16
    assert (first.litert_bytes, second.litert_bytes) == (32, 0)


def test_what_cannot_be_quantized_is_listed_with_its_reason():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Resizing(6, 6, name="resized")(layers.Conv2D(4, 3, name="conv")(inputs))
    x = keras.ops.sort(layers.Conv2D(4, 1, name="second")(x))
    planned = keras_qat.plan(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x)))
    assert not planned.deploys
    resized, order = planned.unsupported
    assert resized.why_not == "'resized' (Resizing): no rule for this layer"
    assert "this raw operation has no layer" in order.why_not
    assert by_name(planned)["second"].weight_bits == 8
    assert "float: 'resized'" in str(planned)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_an_embedding_is_listed_whatever_it_reads(dtype):
    inputs = keras.Input((6,), dtype=dtype, name="words")
    x = layers.Embedding(1000, 8, name="embedding")(inputs)
    planned = keras_qat.plan(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    embedding, _ = planned.layers
    assert embedding.in_float
    assert (embedding.weight_bits, embedding.litert_bytes, embedding.macs) == (8, 8000, 0)
    assert planned.input_bits == {"words": None}
    assert not planned.deploys


def test_layers_in_float_with_quantized_weights_say_so():
    inputs = keras.Input((6, 8), name="steps")
    x = layers.LayerNormalization(name="norm")(layers.Dense(8, name="first")(inputs))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.EinsumDense("abc,cd->abd", (6, 16), bias_axes="d", name="einsum")(x)
    planned = keras_qat.plan(keras.Model(inputs, layers.Dense(2, name="head")(x)), CONFIG)
    found = by_name(planned)
    assert [name for name, layer in found.items() if layer.in_float] == [
        "norm",
        "attention",
        "einsum",
    ]
    assert (found["norm"].weight_bits, found["norm"].output) == (None, "float32")
    assert (found["attention"].weight_bits, found["attention"].output) == (2, "float32")
    assert found["attention"].macs == 6 * 4 * 64
    assert found["attention"].litert_bytes == 4 * 64 + 4 * (3 * 8 + 8)
    assert (found["einsum"].macs, found["einsum"].output) == (6 * 8 * 16, "8 bits")
    assert not planned.unsupported
    assert not planned.deploys
    assert "float32, LiteRT alone" in str(planned)


def test_a_layer_left_in_float_says_so():
    planned = keras_qat.plan(residual_network(), CONFIG, overrides={"conv": None})
    (conv,) = planned.unsupported
    assert (conv.name, conv.why_not) == ("conv", "left in float by an override")


def test_the_table_shows_every_layer_and_the_totals():
    planned = keras_qat.plan(residual_network(), CONFIG)
    text = str(planned)
    assert all(layer.name in text for layer in planned.layers)
    assert f"{planned.total('macs'):,}" in text
    assert "fused" in text
    assert max(map(len, text.splitlines())) <= 140


def test_the_table_says_which_grids_are_signed():
    model = residual_network()
    assert "unknown" in str(keras_qat.plan(model, CONFIG))
    text = str(keras_qat.plan(model, CONFIG, calibration_data=np.abs(images(16))))
    assert "unknown" not in text
    assert "8 bits, unsigned" in text
    assert "bits, signed" in text


def test_joined_tensors_share_a_grid():
    inputs = keras.Input((8, 8, 3))
    parts = [layers.Conv2D(2, 1, name=name)(inputs) for name in "ab"]
    model = keras.Model(inputs, layers.Conv2D(2, 1)(layers.Concatenate(name="joined")(parts)))
    found = by_name(keras_qat.plan(model, CONFIG))
    assert found["a"].output == found["b"].output == "4 bits, shared by 2"
    assert found["joined"].output == "as its input"


@pytest.mark.parametrize("model", [None, layers.Dense(2)])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ValueError, match=r"takes a keras\.Model"):
        keras_qat.plan(model)


def test_sizes_that_are_unknown_have_no_count():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="conv")(inputs))
    planned = keras_qat.plan(model)
    assert planned.layers[0].macs is None
    assert "?x?x2" in str(planned)
    assert np.isclose(planned.total("macs"), 0)


def _gated():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 255)(layers.RandomFlip()(inputs))
    x = layers.SeparableConv2D(4, 3, activation="relu", name="separable")(x)
    parts = [layers.Conv2D(4, 1, name=name)(x) for name in "abc"]
    x = layers.Concatenate(name="joined")([layers.Average(name="mean")(parts), x])
    gate = layers.Dense(8, activation="sigmoid", name="gate")(layers.GlobalMaxPooling2D()(x))
    x = layers.MaxPooling2D(2)(layers.Multiply(name="product")([x, gate]))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))


def _with_float_parts():
    inputs = keras.Input((6, 8), name="steps")
    x = layers.LayerNormalization(name="norm")(layers.Dense(8, name="first")(inputs))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x + 1.0))


MODELS = {"residual": residual_network, "gated": _gated, "float": _with_float_parts}


METHODS = ["lsq", "gdnsq", "pege", "dorefa"]
# Every model with every method, and each of both with data of both signs.
CASES = [
    (name, method, (place + other) % 2 == 0)
    for place, name in enumerate(MODELS)
    for other, method in enumerate(METHODS)
]


@pytest.mark.parametrize(("name", "config", "signed"), CASES)
def test_the_plan_is_the_one_that_quantize_carries_out(name, config, signed):
    """The very same value: nothing is worked out twice."""
    model = MODELS[name]()
    x = images(16, model.inputs[0].shape[1:])
    x = x if signed else np.abs(x)
    planned = keras_qat.plan(model, config, calibration_data=x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the plan says, too
        qmodel = keras_qat.quantize(model, config, calibration_data=x)
    assert qmodel.plan == planned
    assert qmodel.grid_warnings == planned.warnings
    assert None not in [grid.signed for grid in planned.grids]
    assert planned.grids[0].signed is signed


@pytest.mark.parametrize("name", MODELS)
def test_without_data_the_signs_are_unknown_and_nothing_else_differs(name):
    model = MODELS[name]()
    told = keras_qat.plan(model, calibration_data=images(16, model.inputs[0].shape[1:]))
    guessed = keras_qat.plan(model)
    assert guessed.grids[0].signed is None
    assert {grid.signed for grid in guessed.grids} <= {None, True, False}
    for untold, grid in zip(guessed.grids, told.grids, strict=True):
        assert untold.signed in (None, grid.signed)
    grids = tuple(dataclasses.replace(grid, signed=None) for grid in told.grids)
    untold = tuple(dataclasses.replace(grid, signed=None) for grid in guessed.grids)
    same = dataclasses.replace(told, grids=grids, warnings=())
    assert dataclasses.replace(guessed, grids=untold, warnings=()) == same


def test_a_plan_differs_where_quantize_would_do_something_else():
    """That two plans are equal must say something."""
    model, x = residual_network(), images(16)
    planned = keras_qat.plan(model, CONFIG, calibration_data=x)
    assert planned == keras_qat.plan(model, CONFIG, calibration_data=x[::-1])
    assert planned != keras_qat.plan(model, "lsq", calibration_data=x)
    assert planned != keras_qat.plan(model, CONFIG, calibration_data=np.abs(x))
    assert planned != keras_qat.plan(model, CONFIG, overrides={"head": "lsq"}, calibration_data=x)


def test_it_says_who_is_one_op_and_who_shares_a_grid():
    planned = keras_qat.plan(_gated(), CONFIG)
    members = {tensor.layer: tensor.members for grid in planned.grids for tensor in grid.tensors}
    assert members["separable_relu"] == ("separable", "separable_relu")
    assert members["gate_sigmoid"] == ("gate_sigmoid",)
    joined = next(grid for grid in planned.grids if grid.joined_by)
    assert joined.joined_by == "joined"
    assert [tensor.layer for tensor in joined.tensors] == ["mean", "separable_relu"]
    assert by_name(planned)["separable_depthwise"].input_gain == 1 / 255


def test_a_model_is_rebuilt_at_most_three_times(monkeypatch):
    built = []
    original = keras_graph.rebuild

    def counted(*args, **kwargs):
        built.append(args)
        return original(*args, **kwargs)

    for module in (to_layers, rewriting, insert_quantizers):
        monkeypatch.setattr(module, "rebuild", counted)
    model = _gated()
    doubled = keras.Model(model.inputs, model.outputs[0] * 2.0)
    keras_qat.quantize(doubled, calibration_data=images(8, (8, 8, 3)))
    assert len(built) == 3


def test_each_layer_is_checked_once(monkeypatch):
    asked = []
    original = layer_checks.rule_of
    monkeypatch.setattr(
        layer_checks, "rule_of", lambda node: asked.append(node.operation.name) or original(node)
    )
    model = _gated()
    doubled = keras.Model(model.inputs, model.outputs[0] * 2.0)
    keras_qat.quantize(doubled, calibration_data=images(8, (8, 8, 3)))
    assert len(asked) == len(set(asked))
    assert set(asked) >= {layer.name for layer in model.layers[1:]}


def test_the_former_name_of_a_plan_warns():
    with pytest.warns(DeprecationWarning, match=r"keras_qat\.QuantizationPlan"):
        assert keras_qat.Plan is keras_qat.QuantizationPlan
