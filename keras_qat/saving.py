"""`load_model`: Keras' own, with every class of this package registered."""

from __future__ import annotations

import os
from typing import Any

import keras

from keras_qat import config, model, optimizers, schedules

REGISTERED = (config, model, optimizers, schedules)
"""The modules whose classes a `.keras` file may name; importing one registers them with Keras."""


def load_model(path: str | os.PathLike[str], **kwargs: Any) -> keras.Model:
    """`keras.models.load_model`, whatever of this package was imported before.

    Args:
        path: a `.keras` file.
        **kwargs: as for `keras.models.load_model`.

    Returns:
        The model; one that `quantize` returned comes back bit for bit.
    """
    return keras.models.load_model(path, **kwargs)
