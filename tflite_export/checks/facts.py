"""Where operators run on targets that are not here: what their sources and their makers say."""

from __future__ import annotations

from collections.abc import Container

from tflite_export.checks.rows import Fact
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.file.lookup_table import DECODE_OPERATOR

_READ = "2026-11-30"
_TFLM = "tflite-micro 90b983c"
_CMSIS = f"{_TFLM}, kernels/cmsis_nn"
_QUALCOMM = "docs.qualcomm.com 80-80022-15B, LiteRT"
_UNDER_QEMU, _MEASURED = "measured under QEMU", "2026-11-22"
_ESP = "esp-tflite-micro 99f49e1, kernels/esp_nn"

_CMSIS_KERNELS = {
    *("ADD", "AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MAXIMUM"),
    *("MAX_POOL_2D", "MINIMUM", "MUL", "PAD", "SOFTMAX", "TRANSPOSE", "TRANSPOSE_CONV"),
}
_ESP_KERNELS = {
    *("ADD", "AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D"),
    *("MUL", "SOFTMAX"),
}


def on_tflm(operator: FileOperator, file: FileModel) -> Fact:
    """With the reference kernels."""
    if operator.code == DECODE_OPERATOR:
        return Fact("runs", "needs AddDecode, of October 2025 or later", _TFLM, _READ)
    return Fact("runs", "in a reference kernel", _TFLM, _READ)


def on_cmsis_nn(operator: FileOperator, file: FileModel) -> Fact:
    """With CMSIS-NN, on Cortex-M."""
    if stores_int4(operator, file):
        if operator.code == "CONV_2D" and _groups(operator, file):
            why = "the INT4 kernel ignores groups and yields garbage"
            return Fact("refused", why, _UNDER_QEMU, _MEASURED)
        if operator.code == "DEPTHWISE_CONV_2D" and file.tensors[operator.outputs[0]].shape[-1] % 2:
            why = "an INT4 kernel, wrong on M55 when GCC 12 compiles it"
            return Fact("fast", why, _UNDER_QEMU, _MEASURED)
    return _with_kernels(operator, file, "CMSIS-NN", _CMSIS_KERNELS, _CMSIS)


def on_esp32(operator: FileOperator, file: FileModel) -> Fact:
    """With ESP-NN, on the ESP32-S3."""
    if stores_int4(operator, file):
        return Fact("slow", "INT4 is unpacked, and the reference kernel runs", _ESP, _READ)
    return _with_kernels(operator, file, "ESP-NN", _ESP_KERNELS, _ESP)


def _with_kernels(
    operator: FileOperator, file: FileModel, vendor: str, codes: Container[str], source: str
) -> Fact:
    """With the kernels of a vendor, which compute int8, and the reference kernels elsewhere."""
    if operator.code in codes and file.tensors[operator.outputs[0]].dtype == "int8":
        return Fact("fast", f"a kernel of {vendor}", source, _READ)
    return on_tflm(operator, file)


def on_gpu(operator: FileOperator, file: FileModel) -> Fact:
    """With LiteRT's delegate for GPUs."""
    why = "the delegate computes in float16 or float32"
    return Fact("last bit may differ", why, f"{_QUALCOMM}, on GPU", _READ)


def on_npu(operator: FileOperator, file: FileModel) -> Fact:
    """With a vendor's plugin for its NPU."""
    why = "the NPU computes int8; its rounding was not measured"
    return Fact("last bit may differ", why, f"{_QUALCOMM}, on NPU", _READ)


def stores_int4(operator: FileOperator, file: FileModel) -> bool:
    """Whether an operator has INT4 weights."""
    return any(name and file.tensors[name].dtype == "int4" for name in operator.inputs)


def _groups(operator: FileOperator, file: FileModel) -> bool:
    x, weight = (file.tensors[name] for name in operator.inputs[:2])
    return x.shape[-1] != weight.shape[-1]
