"""`EWGSSchedule`: the curvature it finds, and the factors it sets."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import EWGSSchedule
from keras_qat.callbacks.hessian_trace import hessian_traces
from tests.models import dense_network, points

X, Y = points(64)
CONFIG = keras_qat.LSQConfig(weight_bits=2, activation_bits=3, estimator="ewgs")


def new_model(config=CONFIG):
    keras.utils.set_random_seed(0)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    return qmodel


def deltas(qmodel):
    found = [each.estimator_options.get("delta") for each in qmodel.quantizers]
    return np.array([float(delta) for delta in found if delta is not None])


def test_the_trace_of_a_quadratic_loss_is_found():
    """With `loss = mean((x W)**2)`: for a weight `2 * mean(x_i**2) / outputs`, for an input
    `2 * sum_o W_io**2 / (batch * outputs)`."""
    inputs = keras.Input((6,), name="numbers")
    model = keras.Model(inputs, keras.layers.Dense(4, use_bias=False, name="dense")(inputs))
    config = keras_qat.STEConfig()  # 8 bits clip next to nothing
    qmodel = keras_qat.quantize(model, config, calibration_data=X)
    qmodel.compile("sgd", "mse")
    by_name = {quantizer.name: quantizer for quantizer in qmodel.quantizers}
    names = ["numbers_quantizer", "weight_quantizer"]
    targets = np.zeros((64, 4), np.float32)
    found, deviations = hessian_traces(
        qmodel, [by_name[name] for name in names], X, targets, probes=400, tolerance=0.0
    )
    weights = np.asarray(by_name["weight_quantizer"](qmodel.get_layer("dense").layer.kernel))
    rounded = np.asarray(by_name["numbers_quantizer"](X))
    expected = [2 * np.sum(weights**2) / 4 / 6 / 64, 2 * np.mean(rounded**2) / 4]
    # Off-diagonal products are the noise of 400 probes; of seed 0 it is below 3 %.
    np.testing.assert_allclose(found, expected, rtol=0.05)
    assert (deviations > 0).all()


def test_deltas_start_at_zero_and_come_when_due():
    qmodel, seen = new_model(), []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda e, logs: seen.append(deltas(qmodel))
    )
    schedule = EWGSSchedule(X, Y, batch_size=32, every=2, start=1, probes=4)
    qmodel.fit(X, Y, epochs=4, verbose=0, callbacks=[schedule, watch])
    assert len(seen[0]) == 6
    assert not seen[0].any()
    assert seen[1].any()
    np.testing.assert_array_equal(seen[2], seen[1])
    assert (seen[3] != seen[1]).any()
    assert (seen[3] >= 0).all()
    assert np.isfinite(seen).all()


GDNSQ = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2, estimator="ewgs")


@pytest.mark.parametrize("config", [CONFIG, GDNSQ], ids=["lsq", "gdnsq"])
def test_finding_the_curvature_changes_nothing_else(config):
    qmodel = new_model(config)
    schedule = EWGSSchedule(X, Y, batch_size=32, probes=2)
    schedule.set_model(qmodel)
    schedule.on_train_begin()
    kept = [*qmodel.variables, *qmodel.metrics_variables]  # seeds and what epochs log are in them
    before = [np.array(variable) for variable in kept]
    schedule._deltas()
    for now, then in zip(kept, before, strict=True):
        np.testing.assert_array_equal(now, then, err_msg=now.path)
    assert all(quantizer.tap is None for quantizer in qmodel.quantizers)


def test_deltas_are_saved_with_the_model(tmp_path):
    qmodel = new_model()
    for quantizer in qmodel.quantizers:
        for delta in quantizer.estimator_options.values():
            delta.assign(0.375)
    qmodel.fit(X, Y, verbose=0)
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    assert set(deltas(loaded)) == {0.375}


def test_what_it_cannot_schedule_is_refused():
    with pytest.raises(ValueError, match=r"estimator='ewgs'\. Received: QuantizedModel"):
        new_model(keras_qat.LSQConfig()).fit(X, Y, verbose=0, callbacks=[EWGSSchedule(X, Y)])
    with pytest.raises(ValueError, match=r"as many targets as inputs\. Received: 64 and 63"):
        EWGSSchedule(X, Y[1:])
    with pytest.raises(ValueError, match=r"must be 1 or more.* Received: 128, 0, 50, 10"):
        EWGSSchedule(X, Y, every=0)
