"""Options of optimizers that reach into all variables: grids meet their targets and deploy."""

import keras
import pytest

import keras_qat
import tflite_export
from keras_qat.callbacks import GDNSQSchedule
from tests.models import dense_network, points

pytestmark = pytest.mark.slow_beyond(1)

X, Y = points(256)
OPTIONS = {
    "average": {"use_ema": True},
    "average now and then": {"use_ema": True, "ema_overwrite_frequency": 10},
    "global norm": {"global_clipnorm": 1.0},
}
CONFIGS = {
    "gdnsq": keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2, start_bits=4),
    "lsq": keras_qat.LSQConfig(weight_bits=2, activation_bits=2),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_trained_with_it_deploys(kind, options, tmp_path):
    keras.utils.set_random_seed(0)
    qmodel = keras_qat.quantize(dense_network(), CONFIGS[kind], calibration_data=X)
    optimizer = keras.optimizers.Adam(1e-2, **OPTIONS[options])
    qmodel.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [GDNSQSchedule()] if kind == "gdnsq" else []
    qmodel.fit(X, Y, epochs=30, verbose=0, callbacks=callbacks)
    assert qmodel.meets_targets()
    assert qmodel.evaluate(X, Y, verbose=0)[1] > 0.6  # chance is a third
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=X, verbose=False)
    assert report.mismatches == 0
