"""Whose kernels run a network on a microcontroller, and the scratch that they take in the arena.

TensorFlow Lite Micro has reference kernels, and kernels of vendors in their place. Those unfold
images and copy weights into scratch of their own, so they need a larger arena.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tflite_export.arena.cmsis_nn import CORTEX_M4, CORTEX_M55
from tflite_export.arena.esp_nn import ESP32_S3
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.ops.operator_type import ScratchSizes
from tflite_export.ops.table import micro_kernel
from tflite_export.targets import REFERENCE

_SCRATCH: dict[str, Mapping[str, ScratchSizes]] = {
    REFERENCE: {},
    "cmsis-nn-m4": CORTEX_M4,
    "cmsis-nn-m55": CORTEX_M55,
    "esp-nn": ESP32_S3,
}
"""The scratch of operators by whose kernels run. The others run in reference kernels."""


def scratch_of(kernels: str, operator: FileOperator, file: FileModel) -> Sequence[int]:
    """Sizes of the buffers that an operator needs only while it runs.

    Args:
        kernels: a name of `tflite_export.targets.KERNELS`.
        operator, file: the operator and its file.
    """
    own = _SCRATCH[kernels].get(operator.code, micro_kernel(operator.code).scratch)
    return [size for size in own(operator, file) if size > 0]
