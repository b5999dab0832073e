"""Trains a float ResNet-20 that has not seen the validation images.

    python benchmarks/resnet20_float.py --only=float,32,0

The float model of GDNSQ's authors has seen all 50,000 training images, so nothing can be chosen
from it by validation. This model has the same layers and new weights, and trains on 45,000 images.
The other 5,000 can choose recipes. The trained model is kept next to its result.

The recipe was written down before the run: SGD with Nesterov momentum 0.9, and a rate that falls
from 0.1 along half a cosine over 200 epochs. Batches have 128 images. Decoupled weight decay is
1e-3, which with this momentum is the usual L2 of 1e-4. The last epoch counts.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys

import cifar10
import keras
import resnet20
import study
import tensorflow as tf
from absl import app
from backup_files import replace_text
from epoch_backup import EpochBackup, OutOfTimeError

EPOCHS = 200
_RATE = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
_PACKAGES = ("keras", "tensorflow", "numpy")


def network(seed: int) -> keras.Model:
    """The authors' layers with new weights."""
    keras.utils.set_random_seed(seed)
    return keras.models.clone_model(resnet20.float_model())


def batches(seed: int, first_epoch: int) -> tf.data.Dataset:
    """Endless batches of the 45,000 images."""
    images = cifar10.training_batches("train", seed, first_epoch, resnet20.REACH, "reflect")
    return images.map(lambda pixels, labels: (resnet20.normalized(pixels), labels))


def execute(run: study.Run) -> None:
    """Starts or resumes the training, and writes the model and the result."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    run.folder.mkdir(parents=True, exist_ok=True)
    model, steps = network(run.seed), cifar10.batches_per_epoch("train")
    decay = keras.optimizers.schedules.CosineDecay(_RATE["learning_rate"], EPOCHS * steps)
    optimizer = keras.optimizers.SGD(**{**_RATE, "learning_rate": decay})
    model.compile(optimizer, resnet20.TASK.loss(), metrics=["accuracy"])
    about = {"commit": study.commit(), "recipe": _RATE, "epochs": EPOCHS, "seed": run.seed}
    backup = EpochBackup(
        run.state_folder / f"{run.name}.backup",
        about,
        run.folder / f"{run.name}.csv",
        study.STOP_AT.value,
    )
    done = backup.restore(model)
    validation = _images("validation")
    if not backup.finished:
        model.fit(
            batches(run.seed, done),
            epochs=EPOCHS,
            initial_epoch=done,
            steps_per_epoch=steps,
            validation_data=validation,
            validation_batch_size=500,
            shuffle=False,  # the batches are shuffled
            verbose=2,
            callbacks=[backup],
        )
    model.save(run.folder / f"{run.name}.keras")
    found = {}
    for split in ("validation", "test"):
        images, labels = _images(split)
        outputs = model.predict(images, batch_size=500, verbose=0)
        found[f"{split}_accuracy"] = cifar10.accuracy(outputs, labels)
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    result = {**about, **found, "seconds": round(backup.seconds), "starts": backup.starts}
    text = json.dumps({**result, "versions": versions}, indent=2) + "\n"
    replace_text(run.result, text)


def _images(split: str) -> cifar10.Images:
    pixels, labels = cifar10.pixels(split)
    return resnet20.normalized(pixels.astype("float32")), labels


def main(argv: list[str]) -> None:
    name, bits, seed = study.ONLY.value.split(",")
    try:
        execute(study.Run(name, int(bits), int(seed)))
    except OutOfTimeError as stopped:
        print(stopped)
        sys.exit(study.OUT_OF_TIME)


if __name__ == "__main__":
    app.run(main)
