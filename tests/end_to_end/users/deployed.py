"""What every model of a user goes through: two epochs in float, two on grids, both targets."""

import keras
import numpy as np

import keras_qat
import tflite_export

TARGETS = ("litert", "tflm")


def trained(model, x, y, config=None, rate=1e-3, **compiled):
    """The quantized model after two epochs in float and two on grids, compiled in the same way."""
    model.compile(keras.optimizers.Adam(rate), **compiled)
    model.fit(x, y, epochs=2, batch_size=16, verbose=0)
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    qmodel.compile(keras.optimizers.Adam(rate), **compiled)
    history = qmodel.fit(x, y, epochs=2, batch_size=16, verbose=0).history
    assert all(np.all(np.isfinite(values)) for values in history.values())
    return qmodel


def exported(qmodel, x, tmp_path, targets=TARGETS, **options):
    """The report of each target: proven with 0 mismatches, within the default limits."""
    reports = {}
    for target in targets:
        path = tmp_path / f"{target}.tflite"
        reports[target] = tflite_export.export(
            qmodel, path, target=target, samples=x, verbose=False, **options
        )
        assert reports[target].mismatches == 0
        assert reports[target].comparison.exact_flip_rate < 1e-4
    return reports
