"""Learning rates around `GDNSQSchedule`: after a run, after a kill, and set by others."""

import warnings

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import GDNSQSchedule
from tests.callbacks.test_gdnsq_schedule import fit, new_model

FULL = 1e-3
NEAR = keras_qat.GDNSQConfig(weight_bits=6, activation_bits=6, start_bits=7)
"""A run of 12 epochs is long enough for this one bit."""

pytestmark = pytest.mark.slow_beyond(1)


def near_model():
    return new_model(config=NEAR)


def rate_of(qmodel):
    return float(qmodel.optimizer.learning_rate)


class Save(keras.callbacks.Callback):
    """Saves at the end of an epoch, and stops there as a kill would: without `on_train_end`."""

    def __init__(self, path, epoch, change=1.0):
        super().__init__()
        self.path, self.epoch, self.change = path, epoch, change

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            if self.change != 1.0:
                self.model.optimizer.learning_rate = self.change * rate_of(self.model)
            self.model.save(self.path)
            raise KeyboardInterrupt


def interrupted(qmodel, path, epoch, *callbacks, change=1.0, **options):
    with pytest.raises(KeyboardInterrupt):
        fit(qmodel, GDNSQSchedule(verbose=0), *callbacks, Save(path, epoch, change), **options)
    return keras_qat.load_model(path)


def rates_of_epochs(qmodel, **options):
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(rate_of(qmodel))
    )
    fit(qmodel, GDNSQSchedule(verbose=0), record, **options)
    return seen


def test_a_second_fit_trains_at_the_full_rate():
    qmodel = near_model()
    assert rates_of_epochs(qmodel, epochs=12)[-1] < 1e-5
    assert rate_of(qmodel) == pytest.approx(FULL)
    before = qmodel.get_layer("hidden").get_weights()[0]
    fit(qmodel, epochs=1)
    assert np.abs(qmodel.get_layer("hidden").get_weights()[0] - before).max() > FULL


def test_a_rate_that_changes_in_every_batch_is_taken_up():
    seen = []

    def halve(batch, logs):
        seen.append(rate_of(qmodel))
        if len(seen) in (20, 21):
            qmodel.optimizer.learning_rate = rate_of(qmodel) / 2

    qmodel = near_model()
    halves = keras.callbacks.LambdaCallback(on_train_batch_end=halve)
    fit(qmodel, GDNSQSchedule(verbose=0), halves, epochs=12)
    assert seen[19:23] == pytest.approx([FULL, FULL / 2, FULL / 4, FULL / 4])
    assert rate_of(qmodel) == pytest.approx(FULL / 4)


def test_without_callbacks_on_batches_nothing_waits_for_the_rate():
    schedule = GDNSQSchedule(verbose=0)
    fit(near_model(), schedule, keras.callbacks.EarlyStopping("loss", patience=99), epochs=12)
    assert not schedule.watches_rate


@pytest.mark.parametrize("when", ["before", "with"])
def test_a_reduced_rate_outlives_a_kill(tmp_path, when):
    def halve(epoch, rate):
        return rate / 2 if epoch == 2 and when == "before" else rate

    scheduler = keras.callbacks.LearningRateScheduler(halve)
    change = 0.5 if when == "with" else 1.0
    path = tmp_path / "killed.keras"
    loaded = interrupted(near_model(), path, 4, scheduler, change=change, epochs=12)
    rate = rates_of_epochs(loaded, epochs=12, initial_epoch=5)[0]
    assert 0.4 * FULL < rate <= 0.5 * FULL  # it falls a little once targets are met
    assert rate_of(loaded) == pytest.approx(0.5 * FULL)


def test_a_run_with_a_later_first_epoch_is_resumed(tmp_path):
    path = tmp_path / "killed.keras"
    loaded = interrupted(near_model(), path, 7, epochs=17, initial_epoch=5)
    plan = loaded.bit_width_penalty.kept_plan()
    schedule = GDNSQSchedule(verbose=0)
    fit(loaded, schedule, epochs=17, initial_epoch=8)
    assert loaded.bit_width_penalty.kept_plan().batches == plan.batches == 12 * 8
    assert loaded.bit_width_penalty.kept_progress().batches == 12 * 8
    assert schedule.targets_met_at <= 0.62 * 12 * 8


def test_a_new_run_after_an_interrupted_one_has_its_full_rate(tmp_path):
    qmodel = near_model()
    late = interrupted(qmodel, tmp_path / "late.keras", 11, epochs=12)
    assert rate_of(late) < 1e-4
    assert rates_of_epochs(late, epochs=14)[2] > 0.5 * FULL
    assert rate_of(late) == pytest.approx(FULL)
    late = keras_qat.load_model(tmp_path / "late.keras")
    with pytest.warns(UserWarning, match=r"qmodel.optimizer.learning_rate = 0.001"):
        fit(late, epochs=1)
    late = keras_qat.load_model(tmp_path / "late.keras")
    late.optimizer.learning_rate = 0.001
    with warnings.catch_warnings(record=True) as said:
        fit(late, epochs=1)
    assert not [each for each in said if "learning_rate" in str(each.message)]


def test_nothing_of_a_lossless_run_is_left_after_it():
    during = []
    qmodel = near_model()
    penalty = qmodel.bit_width_penalty
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: during.append(
            (float(penalty.lossless), float(penalty.temperature))
        )
    )
    fit(qmodel, GDNSQSchedule(lossless=True, verbose=0), record, epochs=12)
    assert during[-1][0] == 1.0
    assert during[-1][1] > 0.0
    assert float(penalty.lossless) == float(penalty.temperature) == 0.0
