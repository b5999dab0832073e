"""What every model of a user goes through: two epochs in float, two on grids, both targets."""

import keras
import numpy as np

import keras_qat
import tflite_export

TARGETS = ("litert", "tflm")


def coloured_images(size, count=96):
    """Noise in one of three colours, and the colours."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    noise = rng.normal(0, 0.5, (count, size, size, 3))
    return (noise + np.eye(3)[y][:, None, None, :]).astype(np.float32), y


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
        # On its own inputs a layer differs at ties alone: single elements of the 1e5 compared.
        assert reports[target].comparison.exact_flip_rate < 1e-4
    return reports
