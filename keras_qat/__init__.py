"""Quantization-aware training for Keras 3, down to 1 bit, with exact deployment.

Names are loaded on first use, so `import keras_qat.integer` needs neither Keras nor TensorFlow.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_qat import callbacks, estimators, integer, metrics, optimizers
    from keras_qat.callbacks.step_sensitivity import step_sensitivity
    from keras_qat.config import (
        DoReFaConfig,
        GDNSQConfig,
        LSQConfig,
        PEGEConfig,
        QuantizationConfig,
        STEConfig,
        WaveQConfig,
    )
    from keras_qat.errors import LoweringError, UnsupportedLayerError
    from keras_qat.estimators import Estimator
    from keras_qat.integer.invalid_file import InvalidFileError
    from keras_qat.layer_rules.rule import Output, Rule, Stage
    from keras_qat.layer_rules.table import register_rule
    from keras_qat.model import QuantizedModel
    from keras_qat.plotting import (
        plot_bit_widths,
        plot_capacity,
        plot_capacity_dynamics,
        plot_grids,
        plot_replacement,
    )
    from keras_qat.quantization.pipeline import plan, quantize
    from keras_qat.quantization.plan import LayerPlan, QuantizationPlan
    from keras_qat.quantizers import (
        ActivationQuantizer,
        DoReFaQuantizer,
        GDNSQActivationQuantizer,
        GDNSQWeightQuantizer,
        LSQActivationQuantizer,
        LSQQuantizer,
        LSQWeightQuantizer,
        PACTQuantizer,
        Quantizer,
        STEActivationQuantizer,
        STEQuantizer,
        STEWeightQuantizer,
        WaveQWeightQuantizer,
        WeightQuantizer,
    )
    from keras_qat.saving import load_model
    from keras_qat.tfmot.from_tfmot import from_tfmot
    from keras_qat.training.batch_normalization import reestimate_batch_normalization

    __version__: str

_HOME = {
    "ActivationQuantizer": "keras_qat.quantizers",
    "DoReFaConfig": "keras_qat.config",
    "DoReFaQuantizer": "keras_qat.quantizers",
    "Estimator": "keras_qat.estimators",
    "GDNSQActivationQuantizer": "keras_qat.quantizers",
    "GDNSQConfig": "keras_qat.config",
    "GDNSQWeightQuantizer": "keras_qat.quantizers",
    "LSQActivationQuantizer": "keras_qat.quantizers",
    "LSQConfig": "keras_qat.config",
    "LSQQuantizer": "keras_qat.quantizers",
    "LSQWeightQuantizer": "keras_qat.quantizers",
    "LayerPlan": "keras_qat.quantization.plan",
    "LoweringError": "keras_qat.errors",
    "Output": "keras_qat.layer_rules.rule",
    "PACTQuantizer": "keras_qat.quantizers",
    "PEGEConfig": "keras_qat.config",
    "QuantizationConfig": "keras_qat.config",
    "QuantizationPlan": "keras_qat.quantization.plan",
    "QuantizedModel": "keras_qat.model",
    "Quantizer": "keras_qat.quantizers",
    "Rule": "keras_qat.layer_rules.rule",
    "STEActivationQuantizer": "keras_qat.quantizers",
    "STEConfig": "keras_qat.config",
    "STEQuantizer": "keras_qat.quantizers",
    "STEWeightQuantizer": "keras_qat.quantizers",
    "Stage": "keras_qat.layer_rules.rule",
    "UnsupportedLayerError": "keras_qat.errors",
    "WaveQConfig": "keras_qat.config",
    "WaveQWeightQuantizer": "keras_qat.quantizers",
    "WeightQuantizer": "keras_qat.quantizers",
    "from_tfmot": "keras_qat.tfmot.from_tfmot",
    "InvalidFileError": "keras_qat.integer.invalid_file",
    "load_model": "keras_qat.saving",
    "plan": "keras_qat.quantization.pipeline",
    "plot_bit_widths": "keras_qat.plotting",
    "plot_capacity": "keras_qat.plotting",
    "plot_capacity_dynamics": "keras_qat.plotting",
    "plot_grids": "keras_qat.plotting",
    "plot_replacement": "keras_qat.plotting",
    "quantize": "keras_qat.quantization.pipeline",
    "reestimate_batch_normalization": "keras_qat.training.batch_normalization",
    "register_rule": "keras_qat.layer_rules.table",
    "step_sensitivity": "keras_qat.callbacks.step_sensitivity",
}

_MODULES = ("callbacks", "estimators", "integer", "metrics", "optimizers")

__all__ = [
    "ActivationQuantizer",
    "DoReFaConfig",
    "DoReFaQuantizer",
    "Estimator",
    "GDNSQActivationQuantizer",
    "GDNSQConfig",
    "GDNSQWeightQuantizer",
    "InvalidFileError",
    "LSQActivationQuantizer",
    "LSQConfig",
    "LSQQuantizer",
    "LSQWeightQuantizer",
    "LayerPlan",
    "LoweringError",
    "Output",
    "PACTQuantizer",
    "PEGEConfig",
    "QuantizationConfig",
    "QuantizationPlan",
    "QuantizedModel",
    "Quantizer",
    "Rule",
    "STEActivationQuantizer",
    "STEConfig",
    "STEQuantizer",
    "STEWeightQuantizer",
    "Stage",
    "UnsupportedLayerError",
    "WaveQConfig",
    "WaveQWeightQuantizer",
    "WeightQuantizer",
    "callbacks",
    "estimators",
    "from_tfmot",
    "integer",
    "load_model",
    "metrics",
    "optimizers",
    "plan",
    "plot_bit_widths",
    "plot_capacity",
    "plot_capacity_dynamics",
    "plot_grids",
    "plot_replacement",
    "quantize",
    "reestimate_batch_normalization",
    "register_rule",
    "step_sensitivity",
]


_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
"""What Keras can compute with, by the package that it loads."""

_RENAMED = {"Plan": "QuantizationPlan"}


def _version() -> str:
    from importlib import metadata  # it takes longer to load than this file

    try:
        return metadata.version("keras_qat")
    except metadata.PackageNotFoundError:
        return "0+unknown"  # the package is on the path without being installed


def _load_keras() -> None:
    """Loads Keras. Without its backend, one sentence says what to install."""
    try:
        importlib.import_module("keras")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _BACKENDS:
            raise
        raise ImportError(
            f"Keras computes with {_BACKENDS[missing]} here, which is not installed: "
            'pip install "keras_qat[tensorflow]", or pip install "keras_qat[jax]" and set '
            "KERAS_BACKEND=jax."
        ) from error


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _RENAMED:
        from keras_qat.deprecation import warn_deprecated

        warn_deprecated(f"keras_qat.{name}", f"keras_qat.{_RENAMED[name]}")
        name = _RENAMED[name]
    if name == "integer":
        return importlib.import_module("keras_qat.integer")
    if name not in _HOME and name not in _MODULES:
        raise AttributeError(f"module 'keras_qat' has no attribute {name!r}")
    _load_keras()
    if name in _MODULES:
        return importlib.import_module(f"keras_qat.{name}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    dunder = {name for name in globals() if name.startswith("__")}
    return sorted({*dunder, *__all__, "__version__"})


if "keras" in sys.modules:
    # Keras is loaded already: register every class now, so that keras.models.load_model finds it.
    importlib.import_module("keras_qat.saving")
