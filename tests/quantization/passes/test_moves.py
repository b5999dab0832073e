"""Operations that move values and change none become layers of the same function, and deploy."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
import tflite_export
from keras_qat.errors import UnsupportedLayerError
from tests.models import images
from tests.quantization.passes.rewritten import (
    after_a_layer,
    assert_deploys,
    assert_equal_in_layers,
)
from tests.seams import assert_no_flip_and_no_mismatch

pytestmark = [pytest.mark.slow_beyond(6), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers

MOVES = {
    "split": lambda x: ops.split(x, 2, axis=-1),
    "split_at_places": lambda x: ops.split(x, [1, 4], axis=1),
    "array_split": lambda x: ops.array_split(x, 4, axis=2),
    "unstack": lambda x: ops.unstack(x, axis=2)[-1],
    "stack": lambda x: ops.stack([x, x + 1.0], axis=-1),
    "stack_of_sequences": lambda x: ops.stack([x[:, 0], x[:, 1]], axis=1),
    "expand_dims": lambda x: ops.expand_dims(x, 1),
    "squeeze": lambda x: ops.squeeze(x[:, :1, 2:3], (1, 2)),
    "flip": lambda x: ops.flip(x, 2),
    "flip_axes": lambda x: ops.flip(x, (1, -1)),
    "roll": lambda x: ops.roll(x, 1, 2),
    "roll_axes": lambda x: ops.roll(x, (1, -2), (1, 3)),
    "repeat": lambda x: ops.repeat(x, 2, axis=1),
    "repeat_each": lambda x: ops.repeat(x, [1, 0, 2, 1], axis=-1),
    "swapaxes": lambda x: ops.swapaxes(x, 1, -1),
    "moveaxis": lambda x: ops.moveaxis(x, -1, 1),
    "moveaxis_two": lambda x: ops.moveaxis(x, (1, 2), (3, 1)),
    "take": lambda x: ops.take(x, [2, 0, -1, 2], axis=-1),
    "take_a_matrix": lambda x: ops.take(x, [[0, 1], [5, 2]], axis=1),
    "take_one": lambda x: ops.take(x, 3, axis=2),
    "tile": lambda x: ops.tile(x, (1, 2, 1, 3)),
    "broadcast_to": lambda x: x + ops.tile(x[:, :1], (6, 1, 1)),
    "rot90": lambda x: ops.rot90(x, 1, (1, 2)),
    "rot270": lambda x: ops.rot90(x, 3, (2, 1)),
    "copy": lambda x: ops.copy(x),
    "append": lambda x: ops.append(x, x + 1.0, axis=1),
    "hstack": lambda x: ops.hstack([x, x + 1.0]),
    "backward": lambda x: x[:, ::-2],
    "backward_channels": lambda x: x[..., 3:0:-1],
    "one_number": lambda x: x[:, -1, -1, -1],
    "of_five_axes": lambda x: ops.reshape(x, (-1, 2, 3, 6, 4))[:, 1, ::-1],
    "depth_to_space": lambda x: ops.depth_to_space(x, 2),
    "space_to_depth": lambda x: ops.space_to_depth(x, 3),
    "pixel_shuffle": lambda x: ops.reshape(
        ops.transpose(ops.reshape(x, (-1, 6, 6, 2, 2, 1)), (0, 1, 3, 2, 4, 5)), (-1, 12, 12, 1)
    ),
    "stop_gradient": lambda x: x + ops.stop_gradient(x),
    "cast": lambda x: ops.cast(ops.cast(x, "float32"), "float32"),
    "zeros_like": lambda x: ops.concatenate([x, ops.zeros_like(x)], axis=-1),
    "ones_like": lambda x: x + ops.ones_like(x),
}
REFUSED = {
    "split_of_examples": lambda x: ops.split(x, [1], axis=0)[0],
    "stack_of_examples": lambda x: ops.stack([x, x], axis=0),
    "flip_of_examples": lambda x: ops.flip(x, 0),
    "roll_of_everything": lambda x: ops.roll(x, 1),
    "cast_to_integers": lambda x: ops.cast(x, "int32"),
}


@pytest.mark.parametrize("name", MOVES)
def test_it_computes_the_same_and_deploys(name, tmp_path):
    model = after_a_layer(MOVES[name])
    assert_equal_in_layers(model)
    assert_deploys(model, tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_what_moves_examples_or_rounds_is_refused(name):
    model = after_a_layer(REFUSED[name])
    with pytest.raises(UnsupportedLayerError, match="this raw operation has no layer"):
        keras_qat.quantize(model, calibration_data=images(8, (6, 6, 4)))


def test_nothing_is_learned_through_a_stopped_gradient():
    inputs = keras.Input((4,), name="input")
    stopped = ops.stop_gradient(layers.Dense(3, name="before")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="behind")(stopped))
    x = images(32, (4,))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    before = qmodel.get_layer("before").get_weights()
    qmodel.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="Gradients do not exist for variables .*before/kernel"):
        qmodel.fit(x, np.ones((32, 2)), verbose=0)
    assert all(map(np.array_equal, qmodel.get_layer("before").get_weights(), before))
    assert any(map(np.any, [qmodel.get_layer("behind").get_weights()[0]]))


def test_integers_of_an_input_become_floats(tmp_path):
    """As with pixels that are loaded as bytes."""
    inputs = keras.Input((8, 8, 3), dtype="uint8", name="pixels")
    x = ops.cast(inputs, "float32") / 255.0
    model = keras.Model(inputs, layers.Flatten()(layers.Conv2D(4, 3, name="conv")(x)))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3)).astype("uint8")
    qmodel = keras_qat.quantize(model, calibration_data=pixels)
    expected = model.predict(pixels, verbose=0)
    error = np.abs(qmodel.predict(pixels, verbose=0) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()
    assert_no_flip_and_no_mismatch(qmodel, pixels, tmp_path / "net.tflite")
    assert [type(op).__name__ for op in qmodel.to_integer().ops] == ["Conv2D", "Reshape"]


def test_a_reshape_to_the_batch_and_the_rest_is_a_reshape():
    class Rest(layers.Layer):
        def call(self, x):
            return ops.reshape(x, (ops.shape(x)[0], -1))

    model = after_a_layer(Rest())
    qmodel = keras_qat.quantize(model, calibration_data=images(8, (6, 6, 4)))
    assert qmodel.output_shape == (None, 144)


def of_six_axes(*orders):
    inputs = keras.Input((2, 3, 2, 2, 2), name="input")
    x = layers.Dense(2, name="before")(inputs)
    for order in orders:
        x = layers.Permute(order)(x)
    return keras.Model(inputs, x)


def test_a_permutation_of_too_many_axes_has_a_way_out(tmp_path):
    """Axes that stay together count as one."""
    whole = of_six_axes((5, 3, 2, 4, 1))
    by_blocks = of_six_axes((5, 1, 2, 3, 4), (1, 4, 2, 3, 5), (1, 2, 4, 3, 5), (1, 2, 3, 5, 4))
    by_blocks.set_weights(whole.get_weights())
    x = images(16, (2, 3, 2, 2, 2))
    np.testing.assert_array_equal(by_blocks.predict(x, verbose=0), whole.predict(x, verbose=0))
    qmodel = keras_qat.quantize(whole, calibration_data=x)
    tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    with pytest.raises(tflite_export.ExportError, match="exchanges two blocks of neighboring axes"):
        tflite_export.export(qmodel, tmp_path / "net.tflite", target="tflm", samples=x)
    assert_deploys(by_blocks, tmp_path)
