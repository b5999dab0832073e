"""What a study trains: a float model, its data, and recipes for epochs and learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

CALIBRATION_IMAGES = 512

Images = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: epochs of the run. The last one counts.
        learning_rate: the highest rate. With GDNSQ's schedule it falls once the targets are met,
            with other methods along half a cosine over the whole run.
        optimizer: class of the optimizer.
    """

    epochs: int
    learning_rate: float
    optimizer: Callable[[Any], keras.optimizers.Optimizer] = keras.optimizers.Adam

    def stated(self) -> dict[str, Any]:
        """The recipe as data, for the record of a run."""
        stated = dataclasses.asdict(self)
        return {**stated, "optimizer": getattr(self.optimizer, "__name__", "")}


@dataclasses.dataclass(frozen=True)
class Task:
    """A network and its data.

    Attributes:
        name: names of the network and the data.
        float_model: loads the trained float model.
        images: `images(split)` -> the model's inputs, and labels. Splits are "train", "test" and,
            if the task validates, "validation".
        batches: `batches(seed, first_epoch)` -> endless training batches, which depend on the seed
            and the epoch alone.
        steps: returns the number of batches in an epoch.
        recipes: bits -> recipe.
        from_logits: whether the model ends in logits.
        validates: whether images are held back for validation.
        reestimates: whether every run ends with a re-estimation of BatchNormalization's statistics.
    """

    name: str
    float_model: Callable[[], keras.Model]
    images: Callable[[str], Images]
    batches: Callable[[int, int], Any]
    steps: Callable[[], int]
    recipes: Mapping[int, Recipe]
    from_logits: bool
    validates: bool
    reestimates: bool = False

    def loss(self) -> keras.losses.Loss:
        """The loss for integer labels."""
        return keras.losses.SparseCategoricalCrossentropy(from_logits=self.from_logits)
