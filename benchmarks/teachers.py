"""Teachers of a study: the float model with other statistics, or trained on."""

from __future__ import annotations

import pathlib

import keras
from task import Recipe, Task

import keras_qat

BATCHES = 40


def fresh(task: Task, recipe: Recipe, seed: int, folder: pathlib.Path) -> keras.Model:
    """The float model with statistics of BatchNormalization from augmented training images."""
    model = task.float_model()
    keras_qat.reestimate_batch_normalization(model, task.batches(seed, 0).take(BATCHES))
    return model


def fine_tuned(task: Task, recipe: Recipe, seed: int, folder: pathlib.Path) -> keras.Model:
    """The float model, trained on the labels by the recipe of the student.

    It is kept in the folder, so a run that goes on has the same teacher.
    """
    path = folder / f"teacher_{recipe.epochs}_seed{seed}.keras"
    if not path.exists():
        model, steps = task.float_model(), task.steps()
        rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.epochs * steps)
        model.compile(recipe.optimizer(rate), task.loss(), metrics=["accuracy"])
        model.fit(
            task.batches(seed, 0),
            epochs=recipe.epochs,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=2,
        )
        keras_qat.reestimate_batch_normalization(model, task.batches(seed, 0).take(BATCHES))
        model.save(path)
    return keras.models.load_model(path, compile=False)
