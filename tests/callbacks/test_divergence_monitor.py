"""`DivergenceMonitor`: what diverged is named, at the end of an epoch or before."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import DivergenceMonitor, TrainingDivergedError
from tests.reliability.tiny import X, Y, fit, network, new_model


class Spoils(keras.callbacks.Callback):
    """Puts a value into a variable in the middle of an epoch."""

    def __init__(self, variable, value, after=3):
        super().__init__()
        self.variable, self.value, self.after = variable, value, after
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.batches == self.after:
            self.variable.assign(np.full(self.variable.shape, self.value))


def spoiled(kind, find, value, monitor, **options):
    qmodel = new_model(kind, keras.optimizers.SGD(1e-6))
    spoils = Spoils(find(qmodel), value)
    history = fit(qmodel, kind, spoils, monitor, epochs=8 if kind == "gdnsq" else 2, **options)
    return history, spoils


def weight_variable(name):
    return lambda qmodel: getattr(qmodel.get_layer("last").weight_quantizer, name)


CASES = {
    "nan": ("lsq", weight_variable("scale_ratio"), np.nan, r"of last/weights \(LSQ.*scale_ratio"),
    "collapsed": (
        "lsq",
        weight_variable("scale_ratio"),
        2.0**-10,
        r"step of last/weights \(LSQWeightQuantizer\) collapsed in 3 of 3 channels, to 0.00098 of",
    ),
    "exploded": ("lsq", weight_variable("scale_ratio"), 1e9, "last/weights .* exploded in 3 of 3"),
    "logarithm": (
        "gdnsq",
        lambda qmodel: qmodel.get_layer("first_relu_quantizer")._logarithms,
        -30.0,
        r"step of first_relu/activations \(GDNSQActivationQuantizer\) collapsed, to",
    ),
    "calibrated": (
        "ste",
        weight_variable("calibrated_scale"),
        np.inf,
        "of last/weights .*calibrated_scale",
    ),
    "kernel": (
        "ste",
        lambda qmodel: qmodel.get_layer("first").layer.kernel,
        np.nan,
        "of layer 'first' are not finite: kernel",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_names_the_layer_and_the_quantizer_and_what_to_do(case):
    kind, find, value, message = CASES[case]
    with pytest.raises(TrainingDivergedError, match=message) as error:
        spoiled(kind, find, value, DivergenceMonitor("raise", every=3))
    assert "in epoch 1, after batch 3" in str(error.value)
    assert "Lower the learning rate (it is 1e-06)" in str(error.value)


def test_a_loss_that_is_not_finite_is_named():
    monitor = DivergenceMonitor("raise")
    with pytest.raises(TrainingDivergedError, match="after epoch 1: the loss is nan"):
        fit(new_model(), "lsq", monitor, sample_weight=np.full(len(Y), np.nan))


def test_it_stops_after_the_epoch_and_leaves_the_model_as_it_is():
    monitor = DivergenceMonitor()
    with pytest.warns(UserWarning, match="diverged, after epoch 1: .*last/weights"):
        history, spoils = spoiled("lsq", weight_variable("scale_ratio"), np.nan, monitor)
    assert len(history["loss"]) == 1
    assert spoils.batches == 8
    assert np.isnan(spoils.variable.numpy()).all()
    assert any("last/weights" in problem for problem in monitor.problems)


def test_it_stops_in_mid_epoch_where_it_is_asked_to():
    with pytest.warns(UserWarning, match="after batch 4"):
        _, spoils = spoiled("lsq", weight_variable("scale_ratio"), 1e9, DivergenceMonitor(every=2))
    assert spoils.batches == 4


def test_it_warns_once_and_goes_on():
    monitor = DivergenceMonitor("warn", every=1)
    with pytest.warns(UserWarning, match="exploded") as warned:
        history, _ = spoiled("lsq", weight_variable("scale_ratio"), 1e9, monitor)
    assert sum("diverged" in str(warning.message) for warning in warned) == 1
    assert len(history["loss"]) == 2


def test_a_sound_training_is_not_disturbed():
    """Of learned widths, whose steps grow the most."""
    monitor = DivergenceMonitor("raise", every=3)
    fit(new_model("gdnsq"), "gdnsq", monitor, epochs=8)
    assert monitor.problems == []


def test_a_rate_that_is_far_too_high_is_noticed_though_the_loss_is_finite():
    qmodel = new_model(optimizer=keras.optimizers.Adam(1.0))
    with pytest.warns(UserWarning, match="collapsed"):
        history = fit(qmodel, "lsq", DivergenceMonitor(), epochs=4)
    assert np.isfinite(history["loss"]).all()
    assert len(history["loss"]) < 4


def test_weights_that_leave_their_fixed_grid_are_noticed_as_they_leave_a_float_model():
    """The steps of STE do not move, and neither do the finite loss and the variables show it."""
    qmodel = new_model("ste", keras.optimizers.Adam(1.0))
    told = r"\d\d\d?% of the weights of \w+/weights \(STEWeightQuantizer\) are beyond their grid"
    with pytest.warns(UserWarning, match=told):
        history = fit(qmodel, "ste", DivergenceMonitor(), epochs=4)
    assert np.isfinite(history["loss"]).all()
    assert len(history["loss"]) < 4
    float_model = network()
    float_model.compile(keras.optimizers.Adam(1.0), qmodel.loss)
    before = np.abs(float_model.get_layer("last").kernel.numpy()).mean()
    fit(float_model, "ste", epochs=len(history["loss"]))
    assert np.abs(float_model.get_layer("last").kernel.numpy()).mean() > 2.0 * before


def test_few_bits_that_clip_on_purpose_are_no_divergence():
    config = keras_qat.STEConfig(weight_bits=1, activation_bits=1, first_and_last_bits=1)
    monitor = DivergenceMonitor("raise", every=3)
    fit(new_model(config), "ste", monitor, epochs=4)
    assert monitor.problems == []


@pytest.mark.parametrize("kind", ["gdnsq", "lsq", "ste"])
def test_the_share_beyond_a_grid_is_that_of_its_weights(kind):
    qmodel = new_model(kind)
    layer = qmodel.get_layer("first")
    kernel, quantizer = layer.channels_last_kernel(), layer.weight_quantizer
    for width in qmodel.learned_widths:
        width.narrow()
    assert quantizer.share_beyond(kernel) < 0.2
    if kind == "gdnsq":
        assert quantizer.share_beyond(100.0 * kernel) == 0.0  # the grid follows
        quantizer.hold(kernel)
    values = np.array(100.0 * kernel)
    values[:3] = 0.0
    assert quantizer.share_beyond(values) == pytest.approx(0.5, abs=0.09)


def test_without_looks_in_mid_epoch_keras_need_not_read_the_logs_of_batches():
    assert DivergenceMonitor().on_train_batch_end._is_default
    assert not hasattr(DivergenceMonitor(every=2).on_train_batch_end, "_is_default")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": "pray"}, r"one of \('raise', 'stop', 'warn'\). Received: 'pray'"),
        ({"every": 0}, "from 1 on, or None. Received: 0"),
        ({"every": True}, "from 1 on, or None. Received: True"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DivergenceMonitor(**options)


def test_a_float_model_is_refused():
    model = network()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"keras_qat.quantize returned. Received: Functional"):
        model.fit(X, np.zeros((len(X), 3)), verbose=0, callbacks=[DivergenceMonitor()])
    assert keras_qat.callbacks.DivergenceMonitor is DivergenceMonitor
