"""`Backup`: a run that was killed goes on to the same end, to the last bit."""

import json

import keras
import numpy as np
import pytest

from keras_qat.callbacks import Backup, BitWidthMonitor
from tests.reliability.tiny import (
    X,
    Y,
    assert_same_variables,
    fit,
    network,
    new_model,
)

pytestmark = [pytest.mark.usefixtures("nothing_is_compiled"), pytest.mark.slow_beyond(1)]

EPOCHS = 3


class KilledError(Exception):
    """Stands for a kill: `fit` ends, and nothing after it happens."""


class Dies(keras.callbacks.Callback):
    """Ends a run after so many batches, of all epochs."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KilledError


class Sequence(keras.utils.PyDataset):
    """Batches in an order that each epoch changes."""

    def __init__(self):
        super().__init__()
        self.epochs = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        order = np.random.default_rng(self.epochs).permutation(64)
        places = order[16 * index : 16 * index + 16]
        return X[places], Y[places]

    def on_epoch_end(self):
        self.epochs += 1


def dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(64, seed=1).batch(16)


DATA = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 16, "shuffle": True},
    "sequence": lambda: {"x": Sequence(), "y": None, "batch_size": None},
    "shuffled_sequence": lambda: {
        "x": Sequence(),
        "y": None,
        "batch_size": None,
        "shuffle": True,
    },
    "tf.data": lambda: {"x": dataset(), "y": None, "batch_size": None},
    "endless": lambda: {
        "x": dataset().repeat(),
        "y": None,
        "batch_size": None,
        "steps_per_epoch": 4,
    },
}


def train(folder, kind="lsq", data="arrays", dies_after=0, more=(), **options):
    """One start of a run, in what could be a new process: 4 batches in an epoch."""
    qmodel = new_model(kind)
    backup = Backup(folder, **({"save_freq": 3, "verbose": 0} | options))
    callbacks = [*more, Dies(dies_after), backup]
    history = fit(
        qmodel, kind, *callbacks, epochs=10 if kind == "gdnsq" else EPOCHS, **DATA[data]()
    )
    return qmodel, backup, history


def killed(folder, *arguments, **options):
    with pytest.raises(KilledError):
        train(folder, *arguments, **options)


@pytest.mark.parametrize("data", DATA)
def test_a_run_goes_on_within_an_epoch(data, tmp_path):
    whole, backup, _ = train(tmp_path / "whole", data=data)
    killed(tmp_path / "killed", data=data, dies_after=12)
    (last, *_) = sorted(path.name for path in (tmp_path / "killed").glob("epoch_*"))[::-1]
    assert "_batch_" in last
    resumed, again, _ = train(tmp_path / "killed", data=data)
    assert_same_variables(resumed, whole)
    assert again.history == backup.history
    assert (again.starts, backup.starts) == (2, 1)


@pytest.mark.parametrize("data", DATA)
def test_a_run_goes_on_with_an_epoch(data, tmp_path):
    whole, backup, _ = train(tmp_path / "whole", data=data)
    killed(tmp_path / "killed", data=data, dies_after=10, save_freq="epoch")
    resumed, again, _ = train(tmp_path / "killed", data=data, save_freq="epoch")
    assert_same_variables(resumed, whole)
    assert again.history == backup.history


@pytest.mark.parametrize("kind", ["ste", "gdnsq", "pege"])
def test_every_kind_of_quantizer_goes_on(kind, tmp_path):
    whole, backup, _ = train(tmp_path / "whole", kind)
    killed(tmp_path / "killed", kind, dies_after=5)
    killed(tmp_path / "killed", kind, dies_after=4)
    killed(tmp_path / "killed", kind, dies_after=5)
    resumed, again, _ = train(tmp_path / "killed", kind)
    assert_same_variables(resumed, whole)
    assert_same_variables(resumed.optimizer, whole.optimizer)
    assert again.history == backup.history
    assert again.starts == 4


def test_other_callbacks_go_on(tmp_path):
    def more():
        return [
            keras.callbacks.EarlyStopping(
                "loss_feasible", mode="min", patience=9, restore_best_weights=True
            ),
            keras.callbacks.ReduceLROnPlateau(
                "loss_feasible", mode="min", patience=1, min_delta=10.0, verbose=0
            ),
            BitWidthMonitor(every=2),
        ]

    first = more()
    whole, _, _ = train(tmp_path / "whole", "gdnsq", more=first)
    killed(tmp_path / "killed", "gdnsq", more=more(), dies_after=30)
    again = more()
    resumed, _, _ = train(tmp_path / "killed", "gdnsq", more=again)
    assert_same_variables(resumed, whole)
    assert again[2].history == first[2].history
    for name in ("wait", "best", "best_epoch"):
        assert getattr(again[0], name) == getattr(first[0], name)
    assert again[1].wait == first[1].wait


def test_a_finished_training_is_not_done_again(tmp_path, capsys):
    whole, _, _ = train(tmp_path)
    again, backup, history = train(tmp_path, verbose=1)
    assert_same_variables(again, whole)
    assert history == {}
    assert backup.finished
    assert "This training is finished of 3." in capsys.readouterr().out.replace("  ", " ")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_backup_is_passed_over(tmp_path):
    whole, _, _ = train(tmp_path / "whole")
    killed(tmp_path / "killed", dies_after=8)
    newest = max((tmp_path / "killed").glob("epoch_*"))
    state = json.loads((newest / "state.json").read_text())
    state["seconds"] += 1.0
    (newest / "state.json").write_text(json.dumps(state))
    (tmp_path / "killed" / "epoch_00009.partial").mkdir()
    resumed, _, _ = train(tmp_path / "killed")
    assert_same_variables(resumed, whole)
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_no_whole_backup_is_an_error_that_says_what_to_do(tmp_path):
    killed(tmp_path, dies_after=8)
    for weights in tmp_path.rglob("*.h5"):
        weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"is whole.*Delete the folder to train anew"):
        train(tmp_path)


def test_a_full_disk_is_said_and_the_backups_before_stay(tmp_path, monkeypatch):
    def full(self, path, *_, **__):
        path.write_bytes(b"half")
        raise RuntimeError("file write failed: No space left on device")

    killed(tmp_path, dies_after=8)
    before = {path.name for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save_weights", full)
        with pytest.raises(OSError, match="Make room, and run again"):
            train(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert train(tmp_path)[1].finished


def test_another_training_does_not_go_on(tmp_path):
    killed(tmp_path, dies_after=8, about={"recipe": 1})
    with pytest.raises(ValueError, match=r"goes on only with the same.*Choose another folder"):
        train(tmp_path, about={"recipe": 2})
    with pytest.raises(ValueError, match="is of another model: its variables"):
        train(tmp_path, "gdnsq", about={"recipe": 1})


def test_data_that_cannot_be_skipped_is_said_and_goes_on_with_the_epoch(tmp_path, capsys):
    def generator():
        while True:
            yield X[:8], Y[:8]

    qmodel = new_model()
    data = {"x": generator(), "y": None, "batch_size": None, "steps_per_epoch": 4}
    with pytest.raises(KilledError):
        fit(qmodel, "lsq", Dies(6), Backup(tmp_path, 1), epochs=2, **data)
    assert "goes on with the epoch: a generator begins anew" in capsys.readouterr().out
    resumed = new_model()
    fit(resumed, "lsq", Dies(0), Backup(tmp_path, 1), epochs=2, **(data | {"x": generator()}))
    assert "Going on with epoch 2 of 2" in capsys.readouterr().out
    assert int(resumed.optimizer.iterations) == 8


def test_a_float_model_goes_on_with_the_epoch(tmp_path, capsys):
    def start(*callbacks):
        keras.utils.set_random_seed(0)
        model = network()
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        fit(model, "float", *callbacks, Backup(tmp_path / str(len(callbacks)), 2), epochs=EPOCHS)
        return model

    whole = start(keras.callbacks.Callback())
    (tmp_path / "1").rename(tmp_path / "whole")
    with pytest.raises(KilledError):
        start(Dies(10))
    assert "skipped only in fit of a quantized model" in capsys.readouterr().out
    assert_same_variables(start(keras.callbacks.Callback()), whole)


def test_a_next_fit_begins_at_its_own_epoch(tmp_path):
    killed(tmp_path, dies_after=8)
    qmodel, _, _ = train(tmp_path)
    assert len(fit(qmodel, epochs=2)["loss"]) == 2


@pytest.mark.parametrize("save_freq", [0, -1, 1.5, True, "batch", None])
def test_a_save_freq_that_is_none_is_refused(save_freq, tmp_path):
    with pytest.raises(ValueError, match='save_freq must be "epoch" or a whole number'):
        Backup(tmp_path, save_freq)


def test_one_backup_in_a_list(tmp_path):
    with pytest.raises(ValueError, match=r"makes one Backup. Received: 2"):
        fit(new_model(), "lsq", Backup(tmp_path / "a"), Backup(tmp_path / "b"))
    callbacks = keras.callbacks.CallbackList([Backup(tmp_path / "a")])
    with pytest.raises(ValueError, match="takes callbacks as a list"):
        new_model().fit(X, Y, callbacks=callbacks)
