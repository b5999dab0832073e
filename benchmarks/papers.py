"""What the studies of the papers' tables share: variants, recipes, and the float model.

Such a study trains its own float model first, as its run `float 32 0`. All its other runs start
from that model. Float training and quantized training see the same images. Every run ends with
re-estimated statistics of BatchNormalization, and its last epoch counts.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping

import keras
import resnet8
import study
from study import Variant
from task import Recipe

import keras_qat
from keras_qat.optimizers import RAdam

FLOAT_RUN = study.Run(study.FLOAT, 32, 0)
LEARNING_RATE = 7e-4


def recipes(epochs: Mapping[int, int], learning_rate: float = LEARNING_RATE) -> dict[int, Recipe]:
    """Bits -> RAdam for that number of epochs, as in `resnet20.py`."""
    return {bits: Recipe(some, learning_rate, RAdam) for bits, some in epochs.items()}


def float_model() -> keras.Model:
    """The float model of --model, or the one that the study's float run has trained.

    Raises:
        FileNotFoundError: no such model exists yet.
    """
    path = pathlib.Path(resnet8.MODEL.value or FLOAT_RUN.state_folder / f"{FLOAT_RUN.name}.keras")
    if not path.exists():
        raise FileNotFoundError(
            f"No float model at {path}. Train it with --only=float,32,0, or name a trained one by "
            "--model."
        )
    return keras.models.load_model(path, compile=False)


def _bits(
    config: type[keras_qat.QuantizationConfig], **options: object
) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: config(weight_bits=bits, activation_bits=bits, **options)


VARIANTS = {
    "ste": Variant(_bits(keras_qat.STEConfig)),
    "ewgs": Variant(_bits(keras_qat.LSQConfig, estimator="ewgs")),
    "lsq": Variant(_bits(keras_qat.LSQConfig)),
    "pege": Variant(_bits(keras_qat.PEGEConfig)),
    "gdnsq": Variant(_bits(keras_qat.GDNSQConfig)),
}
