"""What is said before the first epoch, and whether the advice works."""

import keras
import numpy as np
import pytest

import keras_qat
import keras_qat.training.fit_warnings
import tflite_export
from keras_qat.callbacks import GDNSQSchedule, PEGESchedule
from tests.reliability.tiny import X, Y, fit, new_model

pytestmark = pytest.mark.slow_beyond(1)

layers = keras.layers


def gdnsq():
    return new_model(keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2))


def pege(**options):
    return new_model(keras_qat.PEGEConfig(weight_bits=2, activation_bits=2), **options)


class Begins(keras.callbacks.Callback):
    """Notes whether an epoch has begun."""

    def __init__(self):
        super().__init__()
        self.begun = False

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = True


LONG = {"epochs": 120, "validation_split": 0.25}
KEEPERS = {
    "early stopping": lambda path, **how: keras.callbacks.EarlyStopping(
        patience=1000, restore_best_weights=True, **how
    ),
    "checkpoint": lambda path, **how: keras.callbacks.ModelCheckpoint(
        path, save_best_only=True, **how
    ),
}


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("monitor", ["val_loss", "loss", "val_accuracy"])
def test_keeping_the_best_epoch_of_any_width_is_warned_about(keeper, monitor, tmp_path):
    callback = KEEPERS[keeper](tmp_path / "best.keras", monitor=monitor, mode="min")
    stop = Begins()
    named = monitor if monitor.startswith("val_") else f"val_{monitor}"
    mode = "min" if monitor.endswith("loss") else "max"
    with pytest.warns(UserWarning, match=f"{monitor}.*monitor='{named}_feasible', mode='{mode}'"):
        keras_qat.training.fit_warnings.warn_before_fit(
            gdnsq(), {"callbacks": [GDNSQSchedule(), callback, stop], "validation_split": 0.25}
        )
    assert not stop.begun


@pytest.mark.parametrize("keeper", KEEPERS)
def test_the_metric_that_the_warning_names_keeps_a_model_that_deploys(keeper, tmp_path):
    qmodel = gdnsq()
    path = tmp_path / "best.keras"
    best = KEEPERS[keeper](path, monitor="val_loss_feasible", mode="min")
    fit(qmodel, "none", GDNSQSchedule(verbose=0), best, **LONG)
    kept = keras_qat.load_model(path) if keeper == "checkpoint" else qmodel
    assert kept.meets_targets()
    tflite_export.export(kept, tmp_path / "net.tflite", samples=X, verbose=False)


def test_a_checkpoint_of_every_epoch_needs_no_warning(tmp_path):
    every = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    keras_qat.training.fit_warnings.warn_before_fit(
        gdnsq(), {"callbacks": [GDNSQSchedule(), every]}
    )


def test_progressive_replacement_without_its_schedule_is_warned_about():
    qmodel = pege()
    with pytest.warns(UserWarning, match=r"quantized from the first batch on.*PEGESchedule"):
        fit(qmodel, "none")
    fit(pege(), "none", PEGESchedule())


def test_training_on_behind_the_curriculum_needs_no_warning():
    qmodel = pege()
    fit(qmodel, "none", PEGESchedule())
    fit(qmodel, "none")


def test_an_unfinished_curriculum_is_warned_about_and_the_advice_helps(tmp_path):
    qmodel = pege()
    fit(qmodel, "none", PEGESchedule(keras_qat.schedules.Constant(0.5)))
    with pytest.warns(UserWarning, match=r"has replaced 50 %.*PEGESchedule"):
        fit(qmodel, "none")
    fit(qmodel, "none", PEGESchedule())
    tflite_export.export(qmodel, tmp_path / "net.tflite", samples=X, verbose=False)


def inside(qmodel):
    inputs = keras.Input((6,))
    outer = keras.Model(inputs, qmodel(inputs), name="outer")
    outer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return outer


def distilled():
    qmodel = new_model()
    qmodel.distill_from()
    return qmodel


LOST = {
    "penalty on bit widths": gdnsq,
    "loss against a teacher": distilled,
    "code regularization": lambda: new_model(
        keras_qat.LSQConfig(weight_bits=3, code_regularization=0.1)
    ),
}


@pytest.mark.parametrize("what", LOST)
def test_a_quantized_model_that_trains_inside_another_is_warned_about(what):
    outer = inside(LOST[what]())
    outer.predict(X, verbose=0)
    with pytest.warns(UserWarning, match=f"inside 'outer', whose loss does not have.*{what}"):
        outer.fit(X, Y, verbose=0)


def test_a_model_that_adds_nothing_to_the_loss_trains_inside_another():
    inside(new_model()).fit(X, Y, verbose=0)


def test_training_itself_after_having_been_inside_another_is_no_fault():
    qmodel = distilled()
    inside(qmodel).predict(X, verbose=0)
    fit(qmodel, "none")


def test_keras_own_quantization_is_refused_and_changes_nothing():
    qmodel = new_model()
    before = qmodel.get_weights()
    with pytest.raises(ValueError, match=r"quantized by keras_qat already.*quantize\('int8'\)"):
        qmodel.quantize("int8")
    for now, then in zip(qmodel.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_keras_own_export_says_that_it_writes_floats(tmp_path):
    with pytest.warns(UserWarning, match=r"computes in float.*tflite_export.export"):
        new_model().export(tmp_path / "saved", verbose=False)
    assert (tmp_path / "saved").is_dir()


def test_an_error_metric_is_better_when_it_is_less(tmp_path):
    """Infinity before the targets are met, so that `mode="min"` keeps a model that deploys."""
    qmodel = gdnsq()
    qmodel.compile(keras.optimizers.Adam(1e-3), "mse", metrics=["mae"], jit_compile=False)
    plain = keras.callbacks.EarlyStopping("val_mae", restore_best_weights=True)
    with pytest.warns(UserWarning, match="monitor='val_mae_feasible', mode='min'"):
        keras_qat.training.fit_warnings.warn_before_fit(
            qmodel, {"callbacks": [GDNSQSchedule(), plain], "validation_split": 0.25}
        )
    best = keras.callbacks.EarlyStopping(
        "val_mae_feasible", mode="min", patience=1000, restore_best_weights=True
    )
    one_hot = np.eye(3, dtype=np.float32)[Y]
    history = fit(qmodel, "none", GDNSQSchedule(verbose=0), best, y=one_hot, **LONG)
    assert history["val_mae_feasible"][0] > 1e9
    assert qmodel.meets_targets()


def test_a_frozen_model_inside_another_has_no_penalty_to_lose():
    qmodel = gdnsq()
    qmodel.trainable = False
    inputs = keras.Input((6,))
    outer = keras.Model(inputs, layers.Dense(3)(qmodel(inputs)), name="outer")
    outer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    outer.fit(X, Y, verbose=0)
