"""A training that was interrupted goes on as if it had not been: to the last bit."""

import signal
import textwrap

import keras
import numpy as np
import pytest

import keras_qat
from tests.reliability.tiny import (
    CONFIGS,
    X,
    assert_same_variables,
    compiled,
    fit,
    new_model,
    start,
)

pytestmark = pytest.mark.slow_beyond(1)

EPOCHS = 8  # 64 batches: as few as GDNSQSchedule takes for one bit


class Saves(keras.callbacks.Callback):
    """Half-way through, in every form that Keras has."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.outputs = None

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == EPOCHS // 2:
            self.model.save(self.folder / "model.keras")
            self.model.save_weights(self.folder / "model.weights.h5")
            self.outputs = np.asarray(self.model(X))


@pytest.fixture(scope="module", params=CONFIGS)
def run(request, tmp_path_factory):
    """The kind, a model trained without interruption, and what it saved on the way."""
    saves = Saves(tmp_path_factory.mktemp(request.param))
    qmodel = new_model(request.param)
    fit(qmodel, request.param, saves, epochs=EPOCHS)
    return request.param, qmodel, saves


def with_weights(copy, folder):
    """The optimizer's variables are in the file too; Keras loads them once they exist."""
    compiled(copy)
    copy.optimizer.build(copy.trainable_variables)
    copy.load_weights(folder / "model.weights.h5")
    return copy


WAYS = {
    "keras_file": lambda qmodel, folder: keras.models.load_model(folder / "model.keras"),
    "clone_model": lambda qmodel, folder: with_weights(keras.models.clone_model(qmodel), folder),
    "from_config": lambda qmodel, folder: with_weights(
        type(qmodel).from_config(qmodel.get_config()), folder
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_continues_to_the_same_end(run, way):
    kind, uninterrupted, saves = run
    qmodel = WAYS[way](uninterrupted, saves.folder)
    np.testing.assert_array_equal(np.asarray(qmodel(X)), saves.outputs)
    if way == "from_config" or (kind, way) == ("lsq", "keras_file"):
        return  # a clone is made so, too; tests/test_model.py has the other
    assert int(qmodel.optimizer.iterations) == 8 * EPOCHS // 2
    fit(qmodel, kind, epochs=EPOCHS, initial_epoch=EPOCHS // 2)
    assert_same_variables(qmodel, uninterrupted)


KILLED_RUN = textwrap.dedent(
    """
    import os, signal, sys
    import keras
    import tensorflow as tf
    from tests.reliability.tiny import assert_same_variables, fit, new_model

    tf.config.experimental.enable_op_determinism()
    folder, dies = sys.argv[1], sys.argv[2] == "dies"
    seen = []

    def count(batch, logs):
        seen.append(batch)
        if dies and len(seen) == 12:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGKILL)

    qmodel = new_model("pege")
    backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
    fit(qmodel, "pege", backup, keras.callbacks.LambdaCallback(on_train_batch_end=count), epochs=4)
    assert len(seen) == 24, len(seen)  # the first epoch was not run again
    uninterrupted = new_model("pege")
    fit(uninterrupted, "pege", epochs=4)
    assert_same_variables(qmodel, uninterrupted)
    print("the same")
    """
)


@pytest.mark.slow
def test_progressive_replacement_killed_in_mid_epoch_resumes_to_the_same_end(tmp_path):
    killed = start(KILLED_RUN, tmp_path, "dies")
    output, _ = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, output
    output, _ = start(KILLED_RUN, tmp_path, "lives").communicate(timeout=120)
    assert output.splitlines()[-1] == "the same", output


def test_the_draws_of_a_file_go_on_and_do_not_repeat(run, tmp_path):
    _, qmodel, _ = run
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    for one, other in zip(loaded.quantizers, qmodel.quantizers, strict=True):
        if other.seed_generator is not None:
            np.testing.assert_array_equal(one.seed_generator.state, other.seed_generator.state)
            assert int(np.asarray(other.seed_generator.state)[1]) > 0
