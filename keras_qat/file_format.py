"""The version of files of quantized models. Older versions load, newer ones are refused.

| version | since | what changed |
|---|---|---|
| 1 | 0.1.0.dev | files without a version |
| 2 | 0.1.0 | the version itself; quantizers of weights and of activations have types of their own |
| 3 | 0.1.0 | orders of replacement, kept levels, the exponent of the penalty, weights alone |
| 4 | 0.1.0 | preserved zeros and clusters, a user's steps, ranges that grow, unrounded outputs |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

import keras_qat

MODEL_FORMAT = 4
KEY, _SAVED_BY = "keras_qat_format", "keras_qat_version"


def stamped(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a model with the versions of its format and of this package.

    >>> sorted(stamped({"name": "net"}))
    ['keras_qat_format', 'keras_qat_version', 'name']
    """
    return {**config, KEY: MODEL_FORMAT, _SAVED_BY: keras_qat.__version__}


def unstamped(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a model without its version.

    Raises:
        ValueError: a version that this package does not know yet.

    >>> unstamped({"name": "net", "keras_qat_format": 1})
    {'name': 'net'}
    """
    version = config.get(KEY, 1)
    saved_by = f" (keras_qat {config[_SAVED_BY]})" if _SAVED_BY in config else ""
    if not isinstance(version, int) or not 1 <= version <= MODEL_FORMAT:
        raise ValueError(
            f"The model {config.get('name', '')!r} was saved by a newer keras_qat: its format is "
            f"{version!r}{saved_by}, and this one reads formats up to {MODEL_FORMAT}. "
            "Update keras_qat with pip install --upgrade keras_qat."
        )
    return {key: value for key, value in config.items() if key not in (KEY, _SAVED_BY)}


def with_later_variables(store: Any, own: Sequence[Any]) -> dict[str, Any]:
    """The stored variables of a layer, with the current value of the one that its file lacks.

    A release may add a variable to a layer as its last one. An older file then has one variable
    less, and the new one keeps the value that it starts with.

    Args:
        store: what `load_own_variables` of a layer gets.
        own: the variables of the layer, in the order in which Keras saves them.
    """
    values = {key: store[key] for key in list(store.keys())}
    if sum(key.isdigit() for key in values) == len(own) - 1:
        values[str(len(own) - 1)] = ops.convert_to_numpy(own[-1])
    return values
