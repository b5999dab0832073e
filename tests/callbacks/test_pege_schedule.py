"""`PEGESchedule` inside `fit`: the curriculum arrives, resumes, and is logged."""

import itertools

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.callbacks import GDNSQSchedule, PEGESchedule
from keras_qat.quantizers import LoweringError
from keras_qat.schedules import Piecewise
from tests.models import dense_network, points

pytestmark = pytest.mark.slow_beyond(1)

X, Y = points()
EPOCHS = 4
BATCHES = EPOCHS * 8
CONFIG = keras_qat.PEGEConfig(weight_bits=2, activation_bits=2)


def new_model(config=CONFIG, optimizer="adam"):
    keras.utils.set_random_seed(0)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    qmodel.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return qmodel


def fit(qmodel, *callbacks, epochs=EPOCHS, **options):
    options = {"batch_size": 32, "verbose": 0, **options}
    return qmodel.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options).history


def shares(qmodel):
    return [float(each.replaced_share) for each in qmodel.replaced_quantizers.values()]


class Recorder(keras.callbacks.Callback):
    """The share in force during each batch; it stands behind the schedule."""

    def __init__(self):
        super().__init__()
        self.shares = []

    def on_train_batch_begin(self, batch, logs=None):
        found = set(shares(self.model))
        assert len(found) == 1
        self.shares.append(found.pop())


# A curriculum is a function of how far the run is to its end, wherever that lies.
@pytest.mark.parametrize(
    ("curriculum", "end"),
    [("logarithmic", 1.0), ("linear", 1.0), ("exponential", 1.0), ("cosine", 1.0), ("cosine", 0.5)],
)
def test_the_share_rises_from_0_to_exactly_1(curriculum, end):
    qmodel, recorder = new_model(), Recorder()
    fit(qmodel, PEGESchedule(curriculum, end), recorder)
    assert len(recorder.shares) == BATCHES
    assert recorder.shares[0] == 0.0
    assert all(now >= then for then, now in itertools.pairwise(recorder.shares))
    arrived = round(end * BATCHES)
    assert all(share < 1.0 for share in recorder.shares[:arrived])
    assert all(share == 1.0 for share in recorder.shares[arrived:])
    assert set(shares(qmodel)) == {1.0}


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_in_an_order_one_tensor_is_done_before_the_next_begins(order):
    """Weights of a layer come before its activations, and the mean share is the curriculum."""
    seen = []

    def record(batch, logs):
        seen.append({n: float(q.replaced_share) for n, q in qmodel.replaced_quantizers.items()})

    config = keras_qat.PEGEConfig(weight_bits=2, activation_bits=2, order=order)
    qmodel = new_model(config)
    callback = keras.callbacks.LambdaCallback(on_train_batch_begin=record)
    fit(qmodel, PEGESchedule("linear", 1.0), callback)
    names = list(seen[0])
    assert names[:3] == ["first/weights", "first_relu/activations", "hidden/weights"]
    if order == "reverse":
        names.reverse()
    for batch, found in enumerate(seen):
        found = [found[name] for name in names]
        np.testing.assert_allclose(np.mean(found), batch / BATCHES, atol=1e-6)  # float32
        begun = sum(share > 0.0 for share in found)
        assert all(share == 1.0 for share in found[: max(begun - 1, 0)])
        assert all(share == 0.0 for share in found[begun:])
    assert set(shares(qmodel)) == {1.0}


def test_the_order_is_saved_with_the_model(tmp_path):
    config = keras_qat.PEGEConfig(weight_bits=2, activation_bits=2, order="forward")
    new_model(config).save(tmp_path / "ordered.keras")
    loaded = keras.models.load_model(tmp_path / "ordered.keras", compile=False)
    orders = {each.replacement_order for each in loaded.replaced_quantizers.values()}
    assert orders == {"forward"}
    with pytest.raises(ValueError, match=r"order must be one of .*'forward'.* 'upward'"):
        keras_qat.PEGEConfig(order="upward")


@pytest.mark.slow
def test_a_schedule_of_ones_own():
    qmodel, recorder = new_model(), Recorder()
    fit(qmodel, PEGESchedule(Piecewise([10], [0.25, 1.0])), recorder)
    assert recorder.shares == [0.25] * 10 + [1.0] * (BATCHES - 10)


# An optimizer does not know which elements are replaced: each of one with one of the other.
@pytest.mark.parametrize(
    ("replacement", "optimizer"),
    [
        *(("random", each) for each in ("adam", "sgd", keras.optimizers.RMSprop)),
        *((each, "adam") for each in ("persistent", "error_first")),
    ],
)
def test_it_learns_with_any_optimizer_and_any_choice(optimizer, replacement):
    config = keras_qat.PEGEConfig(weight_bits=4, activation_bits=4, replacement=replacement)
    optimizer = {"adam": keras.optimizers.Adam(5e-3), "sgd": keras.optimizers.SGD(0.05)}.get(
        optimizer, keras.optimizers.RMSprop(2e-3)
    )
    history = fit(new_model(config, optimizer), PEGESchedule(), epochs=12)
    assert history["loss"][-1] < 0.8 * history["loss"][0]


@pytest.mark.slow
def test_a_resumed_run_goes_on_where_it_was():
    whole, recorder = new_model(), Recorder()
    fit(whole, PEGESchedule(), recorder)
    resumed = Recorder()
    fit(new_model(), PEGESchedule(), resumed, initial_epoch=1)
    assert resumed.shares == recorder.shares[8:]


def test_the_discretization_error_is_logged_by_layer():
    qmodel, schedule = new_model(), PEGESchedule(log_layers=True)
    history = fit(qmodel, schedule, validation_data=(X, Y))
    assert history["replaced_share"][-1] == 1.0
    assert set(schedule.errors) == set(qmodel.replaced_quantizers)
    for kind in ("weight", "activation"):
        logged = history[f"{kind}_discretization_error"]
        values = [found for name, found in schedule.errors.items() if name.endswith(f"{kind}s")]
        np.testing.assert_allclose(logged, np.mean(values, axis=0))
        # rounding alone: at most half a step, a sixth of a range of two bits
        assert 0.0 < logged[-1] < (1 / 6) ** 2
    for name, values in schedule.errors.items():
        assert history[f"discretization_error/{name}"] == values
    quiet = fit(new_model(), PEGESchedule())
    assert not [name for name in quiet if name.startswith("discretization_error/")]


def test_a_pull_lowers_the_discretization_error_of_weights():
    def error(strength):
        estimator = keras_qat.Estimator("pege", {"strength": strength})
        config = keras_qat.PEGEConfig(weight_bits=2, activation_bits=2, estimator=estimator)
        return fit(new_model(config), PEGESchedule(), epochs=20)["weight_discretization_error"][-1]

    assert error(2.0) < 0.9 * error(0.0)


def test_a_model_in_mid_curriculum_does_not_export_and_says_how_far_it_is(tmp_path):
    qmodel = new_model()
    fit(qmodel, PEGESchedule(Piecewise([10], [0.1, 0.37])))
    path = tmp_path / "model.tflite"
    with pytest.raises(LoweringError, match=r"replaced 37 % .*PEGESchedule to the end"):
        tflite_export.export(qmodel, path, samples=X, verbose=False)
    assert not path.exists()
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    assert shares(loaded) == pytest.approx(shares(qmodel))
    fit(qmodel, PEGESchedule())
    report = tflite_export.export(qmodel, path, samples=X, verbose=False, max_flip_rate=1.0)
    assert report.mismatches == 0


@pytest.mark.slow
def test_it_goes_with_learned_widths():
    config = keras_qat.GDNSQConfig(
        weight_bits=2, activation_bits=2, start_bits=8, estimator="pege", replacement="random"
    )
    qmodel = new_model(config, keras.optimizers.Adam(1e-3))
    fit(qmodel, GDNSQSchedule(verbose=0), PEGESchedule(), epochs=29)
    assert qmodel.meets_targets()
    assert set(shares(qmodel)) == {1.0}
    qmodel.to_integer()


# What it refuses.


def test_a_model_without_replacement_is_refused():
    with pytest.raises(ValueError, match=r"keras_qat.PEGEConfig\(\.\.\.\)\) returns. Received"):
        fit(new_model(keras_qat.LSQConfig()), PEGESchedule())
    plain = dense_network()
    plain.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="Received: Functional"):
        fit(plain, PEGESchedule())


def test_a_run_of_unknown_length_is_refused():
    def forever():
        while True:
            yield X[:8], Y[:8]

    import tensorflow as tf

    dataset = tf.data.Dataset.from_generator(
        forever, output_signature=(tf.TensorSpec((8, X.shape[1])), tf.TensorSpec((8,), tf.int64))
    )
    with pytest.raises(ValueError, match="pass steps_per_epoch"):
        new_model().fit(dataset, shuffle=False, verbose=0, callbacks=[PEGESchedule()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curriculum": "sudden"}, r"one of \['cosine', .*Received: 'sudden'"),
        ({"end": 0.0}, r"above 0 and at most 1\. Received: 0.0"),
        ({"end": 1.5}, r"above 0 and at most 1\. Received: 1.5"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PEGESchedule(**options)


class Strengths(keras.callbacks.Callback):
    """The strengths of the pull in force during each batch: of weights, of activations."""

    def __init__(self):
        super().__init__()
        self.weights, self.activations = [], []

    def on_train_batch_begin(self, batch, logs=None):
        for name, quantizer in self.model.replaced_quantizers.items():
            found = self.weights if name.endswith("/weights") else self.activations
            found.append(float(quantizer.estimator_options["strength"]))


def test_a_pull_that_rises_does_so_in_the_second_half_and_on_weights_alone():
    qmodel, recorder = new_model(), Strengths()
    fit(qmodel, PEGESchedule(final_strength=2.0), recorder)
    weights = np.reshape(recorder.weights, (BATCHES, -1))
    assert np.ptp(weights, axis=1).max() == 0.0
    rising = weights[:, 0]
    np.testing.assert_array_equal(rising[: BATCHES // 2 + 1], np.float32(0.02))
    assert np.all(np.diff(rising[BATCHES // 2 :]) > 0.0)
    assert 1.9 < rising[-1] < 2.0
    assert set(recorder.activations) == {float(np.float32(0.02))}


@pytest.mark.slow
def test_a_resumed_run_pulls_as_it_would_have_and_a_new_one_starts_over():
    whole, resumed, again = Strengths(), Strengths(), Strengths()
    qmodel = new_model()
    fit(qmodel, PEGESchedule(final_strength=1.0), whole)
    fit(new_model(), PEGESchedule(final_strength=1.0), resumed, initial_epoch=3)
    fit(qmodel, PEGESchedule(final_strength=1.0), again)
    assert resumed.weights == whole.weights[-len(resumed.weights) :]
    assert again.weights == whole.weights


@pytest.mark.slow
def test_a_pull_that_rises_lowers_the_discretization_error():
    def error(final_strength):
        schedule = PEGESchedule(final_strength=final_strength)
        return fit(new_model(), schedule, epochs=20)["weight_discretization_error"][-1]

    assert error(4.0) < 0.9 * error(None)


def test_a_pull_that_cannot_rise_is_refused():
    with pytest.raises(ValueError, match="must be 0 or above"):
        PEGESchedule(final_strength=-1.0)
    bits = {"weight_bits": 2, "activation_bits": 2}
    config = keras_qat.LSQConfig(**bits, replacement="random")
    with pytest.raises(ValueError, match='weights with estimator="pege"'):
        fit(new_model(config), PEGESchedule(final_strength=1.0))
