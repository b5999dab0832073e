"""What is LSQ's own: the ratio that is trained, its floor and its gradient scale."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_qat.quantizers import Grid, LSQActivationQuantizer, LSQWeightQuantizer
from keras_qat.quantizers.constraints import AtLeast


def built(shape, grid=None, **arguments):
    """Of activations, if the first size of the shape is that of a batch."""
    kind = LSQActivationQuantizer if shape[0] is None else LSQWeightQuantizer
    quantizer = kind(grid or Grid.for_weights(4), **arguments)
    quantizer.build(shape)
    return quantizer


def test_the_scale_is_the_calibrated_one_times_the_trained_ratio():
    quantizer = built((8, 3), per_channel=True)
    quantizer.set_scale([0.1, 0.2, 0.3])
    quantizer.scale_ratio.assign([2.0, 1.0, 0.5])
    expected = np.float32([0.1, 0.2, 0.3]) * np.float32([2.0, 1.0, 0.5])
    np.testing.assert_array_equal(quantizer.scale, expected)
    assert [v.name for v in quantizer.trainable_variables] == ["scale_ratio"]
    assert [v.name for v in quantizer.non_trainable_variables] == ["calibrated_scale"]


def test_a_new_scale_starts_over():
    quantizer = built((8, 3))
    quantizer.scale_ratio.assign(3.0)
    quantizer.set_scale(0.25)
    assert float(quantizer.scale_ratio) == 1.0
    assert float(quantizer.scale) == 0.25


@pytest.mark.parametrize(
    ("shape", "options", "elements"),
    [
        ((3, 3, 4, 5), {"per_channel": True}, 3 * 3 * 4),
        ((3, 3, 4, 5), {}, 3 * 3 * 4 * 5),
        ((None, 6, 6, 4), {}, 6 * 6 * 4),  # an activation: one example counts
        ((None, 7), {}, 7),
    ],
)
@pytest.mark.parametrize("grid", [Grid(-8, 7), Grid(0, 15), Grid(-1, 1, step=2), Grid(-1, 0)])
def test_the_gradient_scale_is_that_of_the_paper(shape, options, elements, grid):
    quantizer = built(shape, grid, **options)
    assert quantizer.gradient_scale == 1.0 / np.sqrt(elements * max(grid.qmax, 1))


def test_a_step_that_would_pass_zero_stops_at_the_floor():
    """Plain gradient descent with a huge rate; the constraint is applied by the optimizer."""
    quantizer = built((None, 4), Grid.for_activations(2, signed=False))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, quantizer(inputs))
    model.compile(keras.optimizers.SGD(1e6), "mse")
    # Saturated values that should be smaller: the scale must shrink.
    model.fit(np.full((8, 4), 9.0, np.float32), np.zeros((8, 4)), verbose=0)
    assert float(quantizer.scale_ratio) == 2.0**-10
    assert np.all(np.isfinite(model.predict(np.ones((2, 4)), verbose=0)))


def test_the_constraint_survives_its_config():
    constraint = AtLeast(0.25)
    config = keras.saving.serialize_keras_object(constraint)
    assert keras.saving.deserialize_keras_object(config).minimum == 0.25
    np.testing.assert_array_equal(constraint(np.float32([-1.0, 0.25, 2.0])), [0.25, 0.25, 2.0])


def test_the_scale_learns_what_saturates():
    """Fitting values beyond the grid, the scale grows until they are reached."""
    quantizer = built((None, 1), Grid.for_activations(4, signed=False))
    quantizer.set_scale(0.1)
    optimizer = keras.optimizers.Adam(0.05)
    x = tf.constant([[3.0]])
    for _ in range(60):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((quantizer(x) - x) ** 2)
        variables = quantizer.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
    # One step of the grid at the end: 60 steps of Adam come this near and no nearer.
    assert abs(float(quantizer(x)[0, 0]) - 3.0) <= float(quantizer.scale)
