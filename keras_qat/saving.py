"""`load_model`: `keras.models.load_model` with every class of this package registered."""

from __future__ import annotations

import os
from typing import Any

import keras

from keras_qat import config, metrics, model, optimizers, schedules

REGISTERED = (config, metrics, model, optimizers, schedules)
"""The modules whose classes a `.keras` file may name. Importing a module registers its classes."""


def load_model(path: str | os.PathLike[str], **kwargs: Any) -> keras.Model:
    """Loads a model like `keras.models.load_model`, and knows every class of this package.

    Args:
        path: a `.keras` file.
        **kwargs: as for `keras.models.load_model`.

    Returns:
        The model. A model that `quantize` returned is the same, bit for bit.
    """
    return keras.models.load_model(path, **kwargs)
