"""The bit-width penalty inside `compute_loss`: what it adds, logs, and leaves alone."""

import warnings

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import GDNSQSchedule
from keras_qat.training.learned_bit_widths import joint_widths
from keras_qat.training.losses import RunningMean, exterior_point_potential
from tests.models import dense_network, points

X, Y = points(64)
TERMS = {
    "task_loss",
    "weight_violation",
    "activation_violation",
    "mean_weight_bits",
    "max_weight_bits",
    "mean_activation_bits",
    "max_activation_bits",
}


def new_model(overrides=None):
    keras.utils.set_random_seed(0)
    config = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=3)
    qmodel = keras_qat.quantize(
        dense_network(), config, calibration_data=X, overrides=overrides or {}
    )
    qmodel.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return qmodel


@pytest.fixture
def qmodel():
    return new_model()


def batch_loss(qmodel):
    return float(qmodel.compute_loss(X, Y, qmodel(X), training=True))


def task_loss(qmodel):
    return float(qmodel.compute_loss(X, Y, qmodel(X), training=False))


def test_without_a_schedule_nothing_is_added(qmodel):
    assert batch_loss(qmodel) == pytest.approx(task_loss(qmodel))


def test_the_potential_is_that_of_all_channels_and_activations_together(qmodel):
    penalty = qmodel.bit_width_penalty
    penalty.temperature.assign(3.0)
    penalty.mean_loss.assign(0.7)
    penalty.mean_loss_count.assign(5.0)
    widths = qmodel.learned_widths
    weights = [w for w in widths if w.layer is not None]
    activations = [w for w in widths if w.layer is None]
    assert [len(weights), len(activations)] == [3, 3]

    def stacked(some):
        bits = np.concatenate([np.asarray(w.widths()) for w in some])
        targets = np.concatenate([np.full(w.widths().shape, float(w.target)) for w in some])
        return bits, targets

    (weight_bits, weight_targets), (bits, targets) = stacked(weights), stacked(activations)
    assert weight_bits.shape == (8 + 8 + 3,)
    expected = exterior_point_potential(
        task_loss(qmodel), weight_bits, bits, weight_targets, targets, 3.0, RunningMean(0.7, 5.0)
    )
    assert batch_loss(qmodel) == pytest.approx(float(expected.loss), rel=1e-6)
    assert float(penalty.mean_loss) == pytest.approx(float(expected.mean_loss.value))
    assert float(penalty.mean_loss_count) == 6.0


def test_joint_widths_are_those_of_each_alone():
    """Of every kind of grid side by side, and in their own order."""
    config = keras_qat.GDNSQConfig
    qmodel = new_model(
        {
            "hidden": config(weight_bits=2, activation_bits=3, offset="free"),
            "last": config(weight_bits=8, activation_bits=3, per_channel=False),
        }
    )
    found = qmodel.learned_widths
    widths, counts, bits = joint_widths(found)
    assert {id(width) for width in widths} == {id(width) for width in found}
    assert len({width.kind for width in widths}) == 4
    alone = [np.asarray(width.widths()) for width in widths]
    assert counts == [each.size for each in alone]
    assert {1, 8} <= set(counts)
    np.testing.assert_array_equal(bits, np.concatenate(alone))


def test_held_widths_leave_the_whole_push_to_the_others(qmodel):
    """The shares of weights and activations count the widths above their targets."""
    penalty = qmodel.bit_width_penalty
    penalty.temperature.assign(1.0)
    penalty.mean_loss.assign(1.0)
    *others, last = sorted(qmodel.learned_widths, key=lambda width: width.layer is None)
    for width in others:
        width.hold()
    excess = float(last.widths()[0]) - last.target
    expected = task_loss(qmodel) + (excess + 1e-3) / 3  # of 3 activations
    assert batch_loss(qmodel) == pytest.approx(expected, rel=1e-4)
    last.hold()
    assert batch_loss(qmodel) == pytest.approx(task_loss(qmodel))


def test_overrides_set_the_target_of_a_layer():
    wide = new_model({"hidden": keras_qat.GDNSQConfig(weight_bits=5, activation_bits=6)})
    targets = {(w.name, w.layer is None): w.target for w in wide.learned_widths}
    assert targets[("hidden", False)] == 5
    assert 6 in targets.values()


def test_the_terms_are_logged_by_name_in_training_only(qmodel):
    history = qmodel.fit(
        X,
        Y,
        validation_split=0.25,
        batch_size=4,
        epochs=26,
        verbose=0,
        callbacks=[GDNSQSchedule(verbose=0)],
    ).history
    assert set(history) >= TERMS | {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert not any(name.removeprefix("val_") in TERMS for name in history if "val_" in name)
    scores = qmodel.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(scores) == {"loss", "accuracy"}
    assert len(qmodel.evaluate(X, Y, verbose=0)) == 2
    assert set(qmodel.test_on_batch(X, Y, return_dict=True)) == {"loss", "accuracy"}


def test_the_logged_task_loss_is_the_compiled_loss_and_the_bits_are_the_last(qmodel):
    plain = new_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = qmodel.fit(X, Y, batch_size=16, shuffle=False, verbose=0).history
        again = plain.fit(X, Y, batch_size=16, shuffle=False, verbose=0).history
    # No temperature, no penalty: the whole loss is the task's. Means of 4 batches of one size.
    assert history["task_loss"][0] == pytest.approx(history["loss"][0], rel=1e-5)
    assert history == again
    assert 9.0 < history["max_weight_bits"][0] < 11.0
    assert history["mean_activation_bits"][0] == pytest.approx(10.0, abs=0.5)


def test_a_fit_that_would_not_arrive_is_warned_of(qmodel):
    with pytest.warns(UserWarning, match=r"GDNSQSchedule\(\)"):
        qmodel.fit(X, Y, verbose=0)
    for width in qmodel.learned_widths:
        width.narrow()
        width.hold()
    qmodel.fit(X, Y, verbose=0)  # warnings are errors here: none comes


def test_models_with_fixed_widths_have_no_penalty():
    fixed = keras_qat.quantize(dense_network(), "lsq", calibration_data=X)
    assert fixed.bit_width_penalty is None
    assert fixed.learned_widths == []
    assert fixed.meets_targets()


def test_the_state_is_saved_with_the_model(qmodel, tmp_path):
    qmodel.bit_width_penalty.temperature.assign(1.25)
    qmodel.bit_width_penalty.mean_loss.assign(0.4)
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras", compile=False)
    loaded.compile("adam", "sparse_categorical_crossentropy")
    assert float(loaded.bit_width_penalty.temperature) == 1.25
    assert batch_loss(loaded) == batch_loss(qmodel)


def test_the_penalty_has_no_trainable_variables(qmodel):
    assert qmodel.bit_width_penalty.trainable_variables == []
    names = [variable.path for variable in qmodel.trainable_variables]
    assert not any("penalty" in name for name in names)


def test_frozen_widths_stay_and_are_not_asked_to_meet_a_target(qmodel):
    before = len(qmodel.learned_widths)
    qmodel.learned_widths[0].quantizer.trainable = False
    assert len(qmodel.learned_widths) == before - 1
