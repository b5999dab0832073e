"""What an HDF5 file of Keras 2 says of a model: its configuration, and its weights by name."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
import warnings
from typing import Any

import h5py
import keras
import numpy as np

_SAVE = "Save it in the environment of TFMOT with model.save('model.h5'), and give that path."


@dataclasses.dataclass(frozen=True, eq=False)
class StoredModel:
    """A model of Keras 2.

    Attributes:
        class_name: `"Functional"` or `"Sequential"`.
        config: its configuration, with one entry for each layer.
        weights: layer name -> the weights of the layer by the last part of their names, in order.
    """

    class_name: str
    config: dict[str, Any]
    weights: dict[str, dict[str, np.ndarray]]


def stored_model(model: Any) -> StoredModel:
    """What a file, or a model of tf_keras, holds.

    Args:
        model: the path of an HDF5 file with a whole model, or a model of tf_keras.

    Raises:
        ValueError: neither of the two.
    """
    if isinstance(model, str | os.PathLike):
        return _read(pathlib.Path(model))
    if isinstance(model, keras.Model):
        raise ValueError(
            f"TFMOT's models are models of tf_keras. Received: the Keras 3 model {model.name!r}. "
            "Call keras_qat.quantize with it."
        )
    if not callable(getattr(model, "save", None)) or not callable(getattr(model, "to_json", None)):
        raise ValueError(f"from_tfmot takes a model of tf_keras or a path. Received: {model!r}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 2 calls HDF5 a legacy format
        path = pathlib.Path(folder) / "model.h5"
        model.save(str(path), save_format="h5", include_optimizer=False)
        return _read(path)


def _read(path: pathlib.Path) -> StoredModel:
    if not path.is_file() or not h5py.is_hdf5(path):
        raise ValueError(f"{path}: this is no HDF5 file. {_SAVE}")
    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise ValueError(f"{path}: the file holds weights without a model. {_SAVE}")
        config = json.loads(file.attrs["model_config"])
        groups = file["model_weights"]
        weights = {name: _weights(groups[name]) for name in groups}
    if config["class_name"] not in ("Functional", "Model", "Sequential"):
        raise ValueError(
            f"{path}: only Functional and Sequential models can be read. Received: a model of the "
            f"class {config['class_name']!r}."
        )
    return StoredModel(config["class_name"], config["config"], weights)


def _weights(group: Any) -> dict[str, np.ndarray]:
    names = [_text(name) for name in group.attrs.get("weight_names", ())]
    return {name.rpartition("/")[2].partition(":")[0]: np.asarray(group[name]) for name in names}


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
