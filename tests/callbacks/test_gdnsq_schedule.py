"""`GDNSQSchedule` inside `fit`: arrives, resumes, and leaves the user's things alone."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import GDNSQSchedule
from keras_qat.callbacks.gdnsq_schedule import feasible_metrics
from keras_qat.keras_graph import falls
from tests.models import dense_network, points

pytestmark = pytest.mark.slow_beyond(1)

X, Y = points()
EPOCHS = 29
BATCHES = EPOCHS * 8
CONFIG = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2, start_bits=8)


def new_model(optimizer=None, config=CONFIG, **compile_options):
    keras.utils.set_random_seed(0)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    qmodel.compile(
        optimizer or keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        **compile_options,
    )
    return qmodel


def fit(qmodel, *callbacks, epochs=EPOCHS, **options):
    options = {"validation_split": 0.0, "batch_size": 32, "verbose": 0, **options}
    return qmodel.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options).history


def levels(qmodel):
    """The most levels of each width, and its target's."""
    found = {}
    for width in qmodel.learned_widths:
        quantizer = width.quantizer
        if width.layer is None:
            grid = quantizer.grid
            count = (grid.qmax - grid.qmin) // grid.step + 1
        else:
            kernel = keras.ops.convert_to_numpy(width.layer.channels_last_kernel())
            codes = np.asarray(quantizer.codes(kernel))
            count = max(len(np.unique(codes[..., c])) for c in range(codes.shape[-1]))
        found[width.name] = (count, 2**width.target)
    return found


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "radam": lambda: keras_qat.optimizers.RAdam(1e-3),
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "slow_sgd": lambda: keras.optimizers.SGD(1e-4),
    "cosine": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, BATCHES)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_targets_are_met_in_time_with_any_optimizer(optimizer):
    qmodel = new_model(OPTIMIZERS[optimizer]())
    schedule = GDNSQSchedule(verbose=0)
    assert not qmodel.meets_targets()
    history = fit(qmodel, schedule)
    assert qmodel.meets_targets()
    assert 0.1 * BATCHES < schedule.targets_met_at <= 0.62 * BATCHES
    assert all(count <= target for count, target in levels(qmodel).values()), levels(qmodel)
    assert history["max_weight_bits"][0] > 7.0
    assert history["activation_violation"][-1] == 0.0


@pytest.mark.slow
def test_one_bit_arrives_too_and_every_layer_has_its_own_target():
    config = keras_qat.GDNSQConfig(weight_bits=1, activation_bits=1, start_bits=8)
    keras.utils.set_random_seed(0)
    qmodel = keras_qat.quantize(
        dense_network(),
        config,
        calibration_data=X,
        overrides={"first": keras_qat.GDNSQConfig(weight_bits=3, activation_bits=5, start_bits=8)},
    )
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    fit(qmodel, GDNSQSchedule(verbose=0), epochs=36)
    targets = {width.name: width.target for width in qmodel.learned_widths}
    assert (targets["hidden"], targets["last"], targets["first"]) == (1, 8, 3)
    assert all(count <= target for count, target in levels(qmodel).values())


def test_the_learning_rate_warms_up_stays_and_falls_to_zero():
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(float(qmodel.optimizer.learning_rate))
    )
    qmodel = new_model()
    schedule = GDNSQSchedule(verbose=0)
    fit(qmodel, schedule, record)
    warmup = BATCHES // 50
    assert seen[0] < 0.2e-3
    np.testing.assert_allclose(seen[warmup : schedule.targets_met_at - 5], 1e-3, rtol=1e-6)
    assert 0.0 < seen[-1] < 1e-6  # the last batch still learns


def test_a_learning_rate_schedule_of_the_users_own_stays():
    decay = keras.optimizers.schedules.CosineDecay(2e-3, BATCHES)
    qmodel = new_model(keras.optimizers.Adam(decay))
    fit(qmodel, GDNSQSchedule(verbose=0))
    assert qmodel.optimizer._learning_rate is decay


def test_a_rate_that_another_callback_sets_is_taken_up():
    def halve(epoch, rate):
        return rate / 2 if epoch == 5 else rate

    seen = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(float(qmodel.optimizer.learning_rate))
    )
    qmodel = new_model()
    fit(qmodel, GDNSQSchedule(verbose=0), keras.callbacks.LearningRateScheduler(halve), record)
    assert seen[4] == pytest.approx(1e-3)
    assert seen[5:7] == pytest.approx([0.5e-3, 0.5e-3])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"steps_per_execution": 4}, {"run_eagerly": True}], ids=str)
def test_other_ways_to_run_steps(options):
    bits = 6 if "run_eagerly" in options else 2  # eager steps are slow, and 6 bits are near
    config = keras_qat.GDNSQConfig(weight_bits=bits, activation_bits=bits, start_bits=8)
    qmodel = new_model(config=config, **options)
    fit(qmodel, GDNSQSchedule(verbose=0), epochs=10 if "run_eagerly" in options else EPOCHS)
    assert qmodel.meets_targets()


def test_a_run_that_is_too_short_says_so_before_its_first_step():
    qmodel = new_model()
    before = [np.array(weight) for weight in qmodel.get_weights()]
    with pytest.raises(ValueError, match=r"run of 8 batches .* needs at least (\d+) batches"):
        fit(qmodel, GDNSQSchedule(), epochs=1)
    for now, then in zip(qmodel.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    with pytest.raises(ValueError, match='recipe "planned"'):
        fit(qmodel, GDNSQSchedule("published"))


def test_unknown_lengths_models_and_options_are_refused():
    with pytest.raises(ValueError, match="needs a model that learns its bit widths"):
        fit(new_model(config="lsq"), GDNSQSchedule(), epochs=1)
    with pytest.raises(ValueError, match="recipe must be one of"):
        GDNSQSchedule("fast")
    with pytest.raises(ValueError, match="arrive_by must be between 0 and 1"):
        GDNSQSchedule(arrive_by=1.0)

    def forever():
        while True:
            yield X[:16], Y[:16]

    import tensorflow as tf

    signature = (tf.TensorSpec((16, 6), tf.float32), tf.TensorSpec((16,), tf.int64))
    endless = tf.data.Dataset.from_generator(forever, output_signature=signature).take(400)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        new_model().fit(endless, epochs=1, shuffle=False, verbose=0, callbacks=[GDNSQSchedule()])


def test_the_published_recipe_has_no_rate_of_its_own():
    qmodel = new_model(keras.optimizers.Adam(0.02))
    fit(qmodel, GDNSQSchedule("published", verbose=0), epochs=90)
    assert all(float(width.quantizer.rate) == 1.0 for width in qmodel.learned_widths)
    assert qmodel.meets_targets()


@pytest.mark.slow
def test_lossless_lets_the_task_decide():
    qmodel = new_model()
    history = fit(qmodel, GDNSQSchedule(lossless=True, verbose=0))
    assert history["mean_weight_bits"][-1] < 8.0


@pytest.mark.slow
def test_feasible_metrics_let_checkpoints_keep_only_models_that_deploy(tmp_path):
    path = tmp_path / "best.keras"
    qmodel = new_model()
    history = fit(
        qmodel,
        GDNSQSchedule(verbose=0),
        keras.callbacks.ModelCheckpoint(
            path, "val_accuracy_feasible", mode="max", save_best_only=True
        ),
        validation_split=0.25,
        epochs=38,  # of 6 batches
    )
    feasible = np.array(history["val_accuracy_feasible"])
    accuracy = np.array(history["val_accuracy"])
    met = feasible >= 0
    assert (met[0], met[-1]) == (False, True)
    np.testing.assert_array_equal(feasible[met], accuracy[met])
    losses = np.array(history["val_loss_feasible"])
    np.testing.assert_array_equal(losses[~met], 1e9 - feasible[~met])
    assert np.all(np.diff(losses[: np.argmax(met)]) <= 0.0)  # EarlyStopping sees it fall
    best = keras_qat.load_model(path)
    assert best.meets_targets()
    validation = slice(192, None)
    scores = best.evaluate(X[validation], Y[validation], verbose=0, return_dict=True)
    assert scores["accuracy"] == pytest.approx(feasible.max())


@dataclasses.dataclass
class Missing:
    """A width that misses its target by a bit."""

    target: int = 2

    def meets_target(self):
        return False

    def widths(self):
        return keras.ops.array([3.0])


def test_metrics_that_should_be_small_never_prefer_a_model_that_misses_its_targets():
    def my_cost(y, y_pred):
        return y_pred[:, 0]

    qmodel = new_model()
    qmodel.compile("sgd", "mse", metrics=["mae", "accuracy", my_cost])
    qmodel.evaluate(X, np.zeros((len(X), 3)), verbose=0)
    logs = {"val_loss": 0.5, "val_mae": 0.5, "val_accuracy": 0.5, "val_my_cost": 0.5}
    found = feasible_metrics(logs, [Missing()], lambda name: falls(qmodel, name))
    assert found == {
        "val_loss_feasible": 1e9 + 1.0,
        "val_mae_feasible": 1e9 + 1.0,
        "val_accuracy_feasible": -1.0,
    }
    found = feasible_metrics(logs, [], lambda name: falls(qmodel, name))
    assert found["val_my_cost_feasible"] == 0.5


def test_feasible_metrics_are_those_of_training_without_validation():
    assert feasible_metrics({"accuracy": 0.5}, []) == {"accuracy_feasible": 0.5}


@pytest.mark.slow
def test_it_says_when_targets_are_met(capsys):
    fit(new_model(), GDNSQSchedule())
    assert "targets are met" in capsys.readouterr().out


@pytest.mark.slow
def test_two_runs_with_one_seed_are_identical():
    runs = [new_model() for _ in range(2)]
    histories = []
    for qmodel in runs:
        keras.utils.set_random_seed(7)
        histories.append(fit(qmodel, GDNSQSchedule(verbose=0)))
    assert histories[0] == histories[1]
    for one, other in zip(*(qmodel.get_weights() for qmodel in runs), strict=True):
        np.testing.assert_array_equal(one, other)


KILLED_RUN = textwrap.dedent(
    """
    import os, signal, sys
    import keras
    import tensorflow as tf
    from tests.callbacks.test_gdnsq_schedule import GDNSQSchedule, fit, new_model

    tf.config.experimental.enable_op_determinism()
    folder, kill_at = sys.argv[1], int(sys.argv[2])
    done = 0
    def count(batch, logs):
        global done
        done += 1
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    qmodel = new_model()
    backup = keras.callbacks.BackupAndRestore(folder + "/backup", delete_checkpoint=False)
    killer = keras.callbacks.LambdaCallback(on_train_batch_end=count)
    fit(qmodel, GDNSQSchedule(verbose=0), backup, killer, shuffle=False)
    qmodel.save(folder + "/end.keras")
    """
)


def run_to_the_end_or(kill_at, folder):
    folder.mkdir(exist_ok=True)
    one_thread = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {**os.environ, **dict.fromkeys(one_thread, "1"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", KILLED_RUN, str(folder), str(kill_at)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    done = run_to_the_end_or(0, folder)
    assert done.returncode == 0, done.stderr
    return keras_qat.load_model(folder / "end.keras")


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [30, 180], ids=["before_arrival", "after_arrival"])
def test_a_run_killed_in_mid_epoch_resumes_to_the_same_end(uninterrupted, tmp_path, kill_at):
    assert run_to_the_end_or(kill_at, tmp_path).returncode == -signal.SIGKILL
    assert not (tmp_path / "end.keras").exists()
    done = run_to_the_end_or(0, tmp_path)
    assert done.returncode == 0, done.stderr
    resumed = keras_qat.load_model(tmp_path / "end.keras")
    for name in ("plan", "progress", "temperature", "mean_loss", "mean_loss_count"):
        states = (getattr(m.bit_width_penalty, name) for m in (resumed, uninterrupted))
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, states), err_msg=name)
    for one, other in zip(resumed.get_weights(), uninterrupted.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_widths_that_were_narrowed_by_hand_are_logged():
    """A learning rate this small moves nothing by itself: all widths are narrowed by hand."""
    qmodel = new_model(OPTIMIZERS["slow_sgd"]())
    history = fit(qmodel, GDNSQSchedule(verbose=0))
    assisted = history["assisted_widths"]
    assert len(assisted) == EPOCHS
    narrowed = [width for width in qmodel.learned_widths if width.target < CONFIG.start_bits]
    assert max(assisted) == len(narrowed) > 0
    arrived = int(0.6 * EPOCHS) + 1
    assert assisted[arrived:] == [0] * (EPOCHS - arrived)


@pytest.mark.slow
def test_nothing_is_narrowed_by_hand_where_the_task_decides():
    history = fit(new_model(), GDNSQSchedule(lossless=True, verbose=0))
    assert set(history["assisted_widths"]) == {0}


class Steps(keras.callbacks.Callback):
    """The steps of weights of 2 bits behind every batch, and whether their grid is held."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        width = next(
            width
            for width in self.model.learned_widths
            if width.layer is not None and width.target == 2
        )
        scale = np.asarray(keras.ops.convert_to_numpy(width.quantizer.scale)).ravel()
        self.found.append((bool(width.quantizer.holds), scale.copy()))


def test_the_steps_of_a_weight_grid_are_set_anew_as_it_arrives():
    """As the docstring says: not by the gradient, and so its codes change."""
    steps = Steps()
    fit(new_model(OPTIMIZERS["slow_sgd"]()), GDNSQSchedule(verbose=0), steps)
    held = [holds for holds, _ in steps.found]
    first = held.index(True)
    before, after, later = (steps.found[index][1] for index in (first - 1, first, first + 1))
    assert np.abs(after / before - 1).max() > 0.02
    assert np.abs(later / after - 1).max() < 0.01
