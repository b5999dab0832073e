"""Trains the float model from which a study starts, as one more run of that study."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import pathlib
from collections.abc import Callable
from typing import Any

import cifar10
import keras
import study
import tensorflow as tf
from epoch_backup import EpochBackup
from task import Images

from keras_qat.integer.files import replace_file

_PACKAGES = ("keras", "tensorflow", "numpy")


@dataclasses.dataclass(frozen=True)
class FloatTraining:
    """SGD with Nesterov momentum, and a rate that falls to 0 along half a cosine.

    Attributes:
        network: returns the network with new weights.
        images: `images(split)` -> the model's inputs, and labels.
        batches: `batches(seed, first_epoch)` -> endless training batches, which depend on the seed
            and the epoch alone.
        steps: returns the number of batches in an epoch.
        epochs: epochs of the run. The last one counts.
        rate: options of `keras.optimizers.SGD`. `learning_rate` is the highest rate.
            `weight_decay` is decoupled: with a momentum of 0.9, 1e-3 is the usual L2 of 1e-4.
        splits: the splits whose accuracy is measured at the end. "validation" also validates.
    """

    network: Callable[[], keras.Model]
    images: Callable[[str], Images]
    batches: Callable[[int, int], Any]
    steps: Callable[[], int]
    epochs: int
    rate: dict[str, Any]
    splits: tuple[str, ...] = ("validation", "test")

    def model_path(self, run: study.Run) -> pathlib.Path:
        """Where the trained model goes: to the backups, as it may be large."""
        return run.state_folder / f"{run.name}.keras"

    def execute(self, run: study.Run, path: pathlib.Path | None = None) -> None:
        """Starts or resumes the training, and writes the model, by default to `model_path`."""
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        run.folder.mkdir(parents=True, exist_ok=True)
        epochs, rate = study.EPOCHS.value or self.epochs, dict(self.rate)
        if study.LEARNING_RATE.value is not None:
            rate["learning_rate"] = study.LEARNING_RATE.value
        keras.utils.set_random_seed(run.seed)
        model, steps = self.network(), self.steps()
        decay = keras.optimizers.schedules.CosineDecay(rate["learning_rate"], epochs * steps)
        optimizer = keras.optimizers.SGD(**{**rate, "learning_rate": decay})
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
        commit = study.commit()
        about = {"commit": commit, "recipe": rate, "epochs": epochs, "seed": run.seed}
        backup = EpochBackup(
            run.state_folder / f"{run.name}.backup",
            about,
            run.folder / f"{run.name}.csv",
            study.STOP_AT.value,
        )
        done = backup.restore(model)
        if not backup.finished:
            model.fit(
                self.batches(run.seed, done),
                epochs=epochs,
                initial_epoch=done,
                steps_per_epoch=steps,
                validation_data=self.images("validation") if "validation" in self.splits else None,
                validation_batch_size=500,
                shuffle=False,  # the batches are shuffled
                verbose=2,
                callbacks=[backup],
            )
        model.save(path or self.model_path(run))
        found = {}
        for split in self.splits:
            images, labels = self.images(split)
            outputs = study.in_parts(
                lambda some: model.predict(some, batch_size=500, verbose=0), images
            )
            found[f"{split}_accuracy"] = cifar10.accuracy(outputs, labels)
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        result = {**about, **found, "seconds": round(backup.seconds), "starts": backup.starts}
        text = json.dumps({**result, "versions": versions}, indent=2) + "\n"
        replace_file(run.result, text.encode())
