"""Accumulators whose product with the multiplier leaves int32: kernels wrap, so it is refused."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers

SHAPE = (32, 32, 3)
SIGNS = np.where(np.indices(SHAPE).sum(axis=0) % 2, 1.0, -1.0).astype(np.float32)
CHECKERBOARD = np.where(SIGNS > 0, 255, 0).astype(np.float32)[None]


def contrast_detector():
    image = keras.Input(SHAPE, name="image")
    detector = layers.Dense(1, use_bias=False, name="contrast")
    model = keras.Model(image, detector(layers.Flatten()(image)))
    detector.kernel.assign(SIGNS.reshape(-1, 1))
    return model


def nearly_one_colour(noise=1e-4):
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 255, (64, 1, 1, 1))
    return (colours + rng.uniform(-noise, noise, (64, *SHAPE))).astype(np.float32)


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_a_detector_calibrated_on_images_without_contrast_is_refused(target, tmp_path):
    x = nearly_one_colour()
    qmodel = keras_qat.quantize(contrast_detector(), calibration_data=x)
    path = tmp_path / "net.tflite"
    with pytest.raises(ValueError, match=r"Channel 0 of 'contrast' .*out of int32.*larger values"):
        tflite_export.export(qmodel, path, target=target, samples=x, verbose=False)
    assert not path.exists()


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_data_with_larger_values_is_the_way_out(target, tmp_path):
    x = np.concatenate([nearly_one_colour(), CHECKERBOARD])
    qmodel = keras_qat.quantize(contrast_detector(), calibration_data=x)
    path = tmp_path / "net.tflite"
    tflite_export.export(qmodel, path, target=target, samples=x, verbose=False)
    found = tflite_export.predict(path, CHECKERBOARD, runtime=target)
    np.testing.assert_array_equal(found, qmodel.predict(CHECKERBOARD, verbose=0))
    assert found > 0
