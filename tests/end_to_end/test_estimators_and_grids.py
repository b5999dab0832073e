"""Every estimator on every grid, progressively: trains, saves, loads, exports and verifies."""

import itertools

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


SHIPPED = [("ste", "ste"), ("ewgs", "lsq"), ("aewgs", "dorefa"), ("dsq", "gdnsq"), ("pege", "lsq")]
"""Each grid and each estimator once: a file knows the grid and not what the gradient was."""


def trained(estimator, grid):
    options = {"estimator": estimator, "activation_estimator": estimator, "replacement": "random"}
    config = GRIDS[grid](**BITS, **options)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    qmodel.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    callbacks, batch_size, epochs = [PEGESchedule()], 32, 3
    if grid == "gdnsq":  # fewer batches would be refused
        callbacks, batch_size, epochs = [*callbacks, GDNSQSchedule(verbose=0)], 8, 8
    options = {"batch_size": batch_size, "epochs": epochs, "callbacks": callbacks, "verbose": 0}
    history = qmodel.fit(X, Y, **options).history
    assert np.isfinite(history["loss"]).all()
    return qmodel


@pytest.mark.parametrize(
    ("estimator", "grid"), sorted({*itertools.product(ESTIMATORS, GRIDS)} - {*SHIPPED})
)
def test_it_trains(estimator, grid):
    trained(estimator, grid)


@pytest.mark.parametrize(("estimator", "grid"), SHIPPED)
def test_it_trains_saves_exports_and_verifies(estimator, grid, tmp_path):
    qmodel = trained(estimator, grid)
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
