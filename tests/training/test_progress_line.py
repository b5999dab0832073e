"""The progress line of `fit`: what the user compiled, the mean bits, and the targets met."""

import re

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import GDNSQSchedule, PEGESchedule
from keras_qat.training.progress_line import ProgressLine
from tests.models import dense_network, points

X, Y = points(64)
LOSS = "sparse_categorical_crossentropy"
pytestmark = pytest.mark.filterwarnings("ignore:.*GDNSQSchedule")


def lines_of(config, capsys, own="entropy", **options):
    """What the last line of a `fit` shows, by name, and the logs of its history."""
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    metrics = ["accuracy", keras.metrics.SparseCategoricalCrossentropy(name=own)]
    qmodel.compile("sgd", LOSS, metrics=metrics)
    options = {"verbose": 2, "validation_split": 0.5} | options
    history = qmodel.fit(X, Y, batch_size=16, epochs=2, **options).history
    *_, line = capsys.readouterr().out.strip().splitlines() or [""]
    return {name: float(value) for name, value in re.findall(r"([\w/]+): ([-\d.]+)", line)}, history


def compiled(own="entropy"):
    names = ("loss", "accuracy", own)
    return {*names, *(f"val_{name}" for name in names)}


@pytest.mark.parametrize("verbose", [1, 2])
def test_it_shows_the_compiled_mean_bits_and_targets_met(capsys, verbose):
    config = keras_qat.GDNSQConfig(weight_bits=8, activation_bits=8, start_bits=8)
    shown, history = lines_of(config, capsys, verbose=verbose)
    assert set(shown) == {*compiled(), "mean_bits", "targets_met"}
    means = [history[f"mean_{kind}_bits"][-1] for kind in ("weight", "activation")]
    assert shown["mean_bits"] == pytest.approx(np.mean(means), abs=1e-3)
    assert 0 <= shown["targets_met"] <= 1
    assert {"weight_violation", "max_activation_bits"} <= set(history)
    assert not {"mean_bits", "targets_met"} & set(history)


def test_logs_of_schedules_stay_in_the_history(capsys):
    config = keras_qat.GDNSQConfig(weight_bits=8, activation_bits=8, start_bits=8)
    options = {"callbacks": [GDNSQSchedule(verbose=0)]}
    shown, history = lines_of(config, capsys, **options)
    assert set(shown) == {*compiled(), "mean_bits", "targets_met"}
    assert {"val_accuracy_feasible", "val_loss_feasible", "assisted_widths"} <= set(history)
    options = {"callbacks": [PEGESchedule(log_layers=True)]}
    shown, history = lines_of(keras_qat.PEGEConfig(weight_bits=3), capsys, **options)
    assert set(shown) == compiled()
    assert {"replaced_share", "weight_discretization_error"} <= set(history)
    assert any(name.startswith("discretization_error/") for name in history)


def test_what_callbacks_of_the_user_log_is_shown(capsys):
    config = keras_qat.GDNSQConfig(weight_bits=8, activation_bits=8, start_bits=8)
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01)
    shown, _ = lines_of(config, capsys, callbacks=[rate])
    assert set(shown) == {*compiled(), "mean_bits", "targets_met", "learning_rate"}


def test_the_share_counts_the_widths_that_have_met(capsys):
    config = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    first, *others = qmodel.learned_widths
    first.narrow()
    qmodel.compile(keras.optimizers.SGD(0.0), LOSS)
    with pytest.warns(UserWarning, match="GDNSQSchedule"):
        qmodel.fit(X, Y, epochs=1, verbose=2)
    text = capsys.readouterr().out
    share = 1 / (1 + len(others))
    assert f"targets_met: {share:.4f}" in text


def test_the_discretization_loss_stays_in_the_history(capsys):
    name = "mean_weight_bits"  # as a term of another loss is called
    shown, history = lines_of(keras_qat.LSQConfig(discretization_loss=0.1), capsys, own=name)
    assert set(shown) == compiled(name)
    assert "discretization_loss" in history


def test_other_models_and_own_progress_bars_are_left_alone(capsys):
    shown, _ = lines_of(keras_qat.LSQConfig(), capsys)
    assert set(shown) == compiled()
    config = keras_qat.LSQConfig(discretization_loss=0.1)
    own = keras.callbacks.ProgbarLogger()
    assert "discretization_loss" in lines_of(config, capsys, callbacks=[own])[0]
    assert lines_of(config, capsys, verbose=0)[0] == {}


def test_no_step_waits_for_the_line(monkeypatch):
    """Where Keras reads logs in a thread of its own, as on JAX, it goes on doing so."""
    dispatch = keras.callbacks.CallbackList.__init__.__globals__["backend"]
    monkeypatch.setattr(dispatch, "IS_THREAD_SAFE", True)
    waits = type("Waits", (ProgressLine,), {"async_safe": False})
    lists = [keras.callbacks.CallbackList([each()]) for each in (ProgressLine, waits)]
    assert [each._async_train for each in lists] == [True, False]
