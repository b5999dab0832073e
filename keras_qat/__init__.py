"""Quantization-aware training for Keras 3, down to 1 bit, that deploys exactly.

Names are loaded on first use, so that `import keras_qat.integer` needs neither Keras nor
TensorFlow.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_qat import callbacks
    from keras_qat.config import GDNSQConfig, LSQConfig, QuantizationConfig, STEConfig
    from keras_qat.model import QuantizedModel
    from keras_qat.pipeline import quantize
    from keras_qat.plotting import plot_capacity, plot_grids
    from keras_qat.quantizers import (
        GDNSQActivationQuantizer,
        GDNSQWeightQuantizer,
        LSQQuantizer,
        Quantizer,
        STEQuantizer,
    )
    from keras_qat.saving import load_model

_HOME = {
    "GDNSQActivationQuantizer": "keras_qat.quantizers",
    "GDNSQConfig": "keras_qat.config",
    "GDNSQWeightQuantizer": "keras_qat.quantizers",
    "LSQConfig": "keras_qat.config",
    "LSQQuantizer": "keras_qat.quantizers",
    "QuantizationConfig": "keras_qat.config",
    "QuantizedModel": "keras_qat.model",
    "Quantizer": "keras_qat.quantizers",
    "STEConfig": "keras_qat.config",
    "STEQuantizer": "keras_qat.quantizers",
    "load_model": "keras_qat.saving",
    "plot_capacity": "keras_qat.plotting",
    "plot_grids": "keras_qat.plotting",
    "quantize": "keras_qat.pipeline",
}

__all__ = [
    "GDNSQActivationQuantizer",
    "GDNSQConfig",
    "GDNSQWeightQuantizer",
    "LSQConfig",
    "LSQQuantizer",
    "QuantizationConfig",
    "QuantizedModel",
    "Quantizer",
    "STEConfig",
    "STEQuantizer",
    "callbacks",
    "load_model",
    "plot_capacity",
    "plot_grids",
    "quantize",
]


def __getattr__(name: str) -> Any:
    if name == "callbacks":
        return importlib.import_module("keras_qat.callbacks")
    if name not in _HOME:
        raise AttributeError(f"module 'keras_qat' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "keras" in sys.modules:
    # With Keras at hand, register every class now: keras.models.load_model then finds them.
    importlib.import_module("keras_qat.saving")
