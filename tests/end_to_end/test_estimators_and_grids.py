"""Every estimator on every grid, progressively: trains, saves, loads, exports and verifies."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.callbacks import GDNSQSchedule, PEGESchedule
from tests.models import dense_network, points

pytestmark = pytest.mark.slow_beyond(1)

X, Y = points()
BITS = {"weight_bits": 2, "activation_bits": 3}
GRIDS = {
    "ste": keras_qat.STEConfig,
    "lsq": keras_qat.LSQConfig,
    "dorefa": keras_qat.DoReFaConfig,
    "gdnsq": lambda **options: keras_qat.GDNSQConfig(start_bits=8, **options),
}
ESTIMATORS = ["ste", "ewgs", "aewgs", "dsq", "pege"]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_it_trains_saves_exports_and_verifies(estimator, grid, tmp_path):
    keras.utils.set_random_seed(0)
    options = {"estimator": estimator, "activation_estimator": estimator, "replacement": "random"}
    config = GRIDS[grid](**BITS, **options)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    qmodel.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    callbacks, epochs = [PEGESchedule()], 3
    if grid == "gdnsq":
        callbacks, epochs = [*callbacks, GDNSQSchedule(verbose=0)], 29  # fewer would be refused
    history = qmodel.fit(X, Y, batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks).history
    assert np.isfinite(history["loss"]).all()
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), qmodel.predict(X, verbose=0))
    report = tflite_export.export(
        loaded,
        tmp_path / "model.tflite",
        samples=X,
        min_argmax_agreement=0.0,
        max_flip_rate=1.0,
        verbose=False,
    )
    assert report.mismatches == 0
