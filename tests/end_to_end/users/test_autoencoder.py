"""A convolutional autoencoder with skip-free upsampling and a sigmoid image."""

import keras
import numpy as np

from tests.end_to_end.users.deployed import exported, trained

layers = keras.layers


def autoencoder():
    return keras.Sequential(
        [
            keras.Input((16, 16, 1), name="image"),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="code"),
            layers.UpSampling2D(interpolation="nearest"),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.UpSampling2D(interpolation="bilinear"),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="picture"),
        ]
    )


def test_it_is_judged_by_its_pixels(tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).uniform(size=(64, 4, 4, 1)).repeat(4, 1).repeat(4, 2)
    x = x.astype(np.float32)
    qmodel = trained(autoencoder(), x, x, loss="mse")
    for report in exported(qmodel, x, tmp_path).values():
        (picture,) = report.comparison.outputs
        assert (picture.name, picture.kind, picture.agreement) == ("picture", "values", None)
        assert report.worth.file_sqnr["picture"] > 15
