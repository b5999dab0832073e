"""What a study trains: a float model, its data, and how long and how fast."""

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
        epochs: of the run; its last one counts.
        learning_rate: the full one. GDNSQ's schedule lets it fall once its targets are met, other
            methods along half a cosine over the whole run.
        optimizer: its class.
    """

    epochs: int
    learning_rate: float
    optimizer: Callable[[Any], keras.optimizers.Optimizer] = keras.optimizers.Adam

    def stated(self) -> dict[str, Any]:
        """For the record of a run."""
        stated = dataclasses.asdict(self)
        return {**stated, "optimizer": getattr(self.optimizer, "__name__", "")}


@dataclasses.dataclass(frozen=True)
class Task:
    """A network and its data.

    Attributes:
        name: of the network and the data.
        float_model: loads the trained float model.
        images: `images(split)` -> inputs as the model takes them, and labels; "train", "test" and,
            if the task validates, "validation".
        batches: `batches(seed, first_epoch)` -> endless training batches, which follow from the
            seed and the epoch.
        steps: batches in an epoch.
        recipes: bits -> how to train.
        from_logits: whether the model ends in logits.
        validates: whether images are held back to choose by.
        reestimates: whether every run ends with statistics of BatchNormalization set anew.
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
        """Of the labels."""
        return keras.losses.SparseCategoricalCrossentropy(from_logits=self.from_logits)
