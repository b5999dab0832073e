"""Writes an integer graph as a `.tflite` file and proves the file against the runtimes.

Importing this package needs NumPy alone. Writing a file needs `keras_qat[export]`. Proving a file
for microcontrollers needs `keras_qat[tflm]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tflite_export.checks.check import Check, check
from tflite_export.errors import ExportError, VerificationError
from tflite_export.export import export
from tflite_export.file.other_runtime import OtherRuntime
from tflite_export.metadata import Metadata
from tflite_export.micro.firmware import Firmware, write_micro
from tflite_export.micro.memory import plan_memory
from tflite_export.micro.memory_plan import MemoryPlan
from tflite_export.micro.memory_plot import plot_memory
from tflite_export.predict import predict
from tflite_export.proof.verification import verify
from tflite_export.report import Report

if TYPE_CHECKING:
    __version__: str

__all__ = [
    "Check",
    "ExportError",
    "Firmware",
    "MemoryPlan",
    "Metadata",
    "OtherRuntime",
    "Report",
    "VerificationError",
    "check",
    "export",
    "plan_memory",
    "plot_memory",
    "predict",
    "verify",
    "write_micro",
]


def __getattr__(name: str) -> Any:
    if name != "__version__":
        raise AttributeError(f"module 'tflite_export' has no attribute {name!r}")
    import keras_qat

    return keras_qat.__version__  # the two are installed together


def __dir__() -> list[str]:
    dunder = {name for name in globals() if name.startswith("__")}
    return sorted({*dunder, *__all__, "__version__"})
