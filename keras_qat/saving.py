"""`load_model`: `keras.models.load_model` for files from anywhere, with every class registered."""

from __future__ import annotations

import io
import os
import pathlib
import zipfile
from typing import Any

import keras
import numpy as np

from keras_qat import config, metrics, model, optimizers, schedules
from keras_qat.integer.archive import MAX_BYTES, check_sizes
from keras_qat.integer.invalid_file import InvalidFileError

REGISTERED = (config, metrics, model, optimizers, schedules)
"""The modules whose classes a `.keras` file may name. Importing a module registers its classes."""

_WEIGHTS_SUFFIX = ".h5"
_MORE_THAN_THE_FILE = 4
"""Keras packs no weights, so a file that unpacks to much more is none of its own."""


class UnreadableModelError(InvalidFileError, TypeError):
    """A model with a class that is not known: Keras raises a `TypeError` for it."""


def load_model(
    path: str | os.PathLike[str], max_bytes: int | None = None, **kwargs: Any
) -> keras.Model:
    """Loads a model like `keras.models.load_model`, and knows every class of this package.

    The file may come from anywhere: its sizes are checked before anything is read, and no code in
    it runs.

    Args:
        path: a `.keras` file.
        max_bytes: the largest size of all that is in the file, unpacked. The default is half a
            gigabyte, or 4 times the file.
        **kwargs: as for `keras.models.load_model`.

    Returns:
        The model. A model that `quantize` returned is the same, bit for bit.

    Raises:
        InvalidFileError: the file is damaged, too large or of another kind, names a class that is
            not known, was saved by a newer keras_qat, or holds a grid that was never built or
            whose step is no number.
    """
    file = pathlib.Path(path)
    if not file.is_file() or file.suffix != ".keras":
        return keras.models.load_model(path, **kwargs)  # which says what is missing
    try:
        _check_archive(file, max_bytes or max(MAX_BYTES, _MORE_THAN_THE_FILE * file.stat().st_size))
        loaded = keras.models.load_model(path, **kwargs)
    except Warning:
        raise
    except Exception as error:  # Keras, json, zip and h5py raise different types
        kind = UnreadableModelError if isinstance(error, TypeError) else InvalidFileError
        reason = str(error) or type(error).__name__
        raise kind(f"{path} is not a readable Keras model: {reason}") from error
    _check_grids(loaded, path)
    return loaded


def _check_archive(path: pathlib.Path, max_bytes: int) -> None:
    """Checks the sizes that an archive states, and the ones of the arrays in its weights."""
    import h5py

    with zipfile.ZipFile(path) as archive:
        check_sizes(archive.infolist(), max_bytes)
        for info in archive.infolist():
            if not info.filename.endswith(_WEIGHTS_SUFFIX):
                continue
            sizes: list[int] = []

            def add(_: str, item: Any, sizes: list[int] = sizes) -> None:
                if isinstance(item, h5py.Dataset):
                    sizes.append(item.size * item.dtype.itemsize)

            with h5py.File(io.BytesIO(archive.read(info)), "r") as weights:
                weights.visititems(add)
            if sum(sizes) > max_bytes:
                raise InvalidFileError(
                    f"its weights state {sum(sizes):,} bytes, and at most {max_bytes:,} are read. "
                    "If you trust the file, raise the limit with max_bytes"
                )


def _check_grids(loaded: Any, path: str | os.PathLike[str]) -> None:
    try:
        quantizers = getattr(loaded, "named_quantizers", {})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InvalidFileError(
            f"{path} connects layers as quantize never does: {error}. The file is damaged. Load an "
            "earlier file."
        ) from error
    for name, quantizer in quantizers.items():
        step = _step_of(quantizer)
        if step is None:  # Keras builds no layer whose shapes the file does not state
            raise InvalidFileError(
                f"{path} does not state what {name!r} quantizes, so that it has no grid: the file "
                "is damaged. Load an earlier file."
            )
        if not np.all(np.isfinite(step) & (step > 0)):
            raise InvalidFileError(
                f"{path} holds a grid whose step is no positive number, in {name!r}: the file is "
                "damaged, or training had diverged when it was saved. Load an earlier file; "
                "keras.models.load_model loads this one as it is. "
                f"Received: {step.ravel()[:4]}"
            )


def _step_of(quantizer: Any) -> np.ndarray | None:
    """The step of a grid; `None` for a quantizer without the variables that it is made of."""
    try:
        return np.asarray(keras.ops.convert_to_numpy(quantizer.step))
    except (AttributeError, TypeError, ValueError):
        return None
