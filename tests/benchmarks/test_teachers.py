"""The teachers of a study: one has other statistics alone, the other has learned from labels."""

import keras
import numpy as np
import teachers
from task import Recipe, Task

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (64, 4)).astype(np.float32)
Y = (X[:, 0] > 2.0).astype(np.int32)


def float_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.BatchNormalization()(inputs)))


def batches(seed, first_epoch):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16).repeat()


TASK = Task(
    name="points",
    float_model=float_model,
    images=lambda split: (X, Y),
    batches=batches,
    steps=lambda: 4,
    recipes={},
    from_logits=True,
    validates=False,
)


def test_one_has_the_statistics_of_its_images_and_the_same_weights(tmp_path):
    teacher, start = teachers.fresh(TASK, Recipe(2, 0.1), 0, tmp_path), float_model()
    for found, was in zip(teacher.trainable_weights, start.trainable_weights, strict=True):
        np.testing.assert_array_equal(found, was)
    # Ten passes over the four batches; float32 sums.
    np.testing.assert_allclose(teacher.layers[1].moving_mean, X.mean(axis=0), rtol=1e-5)


def test_the_other_has_learned_and_is_kept(tmp_path):
    recipe = Recipe(20, 0.1)
    teacher = teachers.fine_tuned(TASK, recipe, 0, tmp_path)
    assert np.mean(np.argmax(teacher.predict(X, verbose=0), axis=-1) == Y) > 0.9
    again = teachers.fine_tuned(TASK, recipe, 0, tmp_path)
    for found, was in zip(again.get_weights(), teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(found, was)
