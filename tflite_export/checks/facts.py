"""Where operators run on targets that are not here: what their sources and their makers say."""

from __future__ import annotations

from tflite_export.checks.rows import Fact
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.file.lookup_table import DECODE_OPERATOR

_READ = "2026-11-30"
_TFLM = "tflite-micro 90b983c"
_CMSIS = f"{_TFLM}, kernels/cmsis_nn"
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
    if operator.code == "CONV_2D" and _stores_int4(operator, file) and _groups(operator, file):
        return Fact(
            "refused", "the INT4 kernel ignores groups and yields garbage", "measured", "2026-11-22"
        )
    if operator.code == "DEPTHWISE_CONV_2D" and _stores_int4(operator, file):
        odd = file.tensors[operator.outputs[0]].shape[-1] % 2
        why = "INT4 kernel" + (", wrong on M55 when GCC 12 compiles it" if odd else "")
        return Fact("fast", why, _CMSIS if not odd else "measured", _READ)
    if operator.code in _CMSIS_KERNELS and _yields_int8(operator, file):
        return Fact("fast", "a kernel of CMSIS-NN", _CMSIS, _READ)
    return on_tflm(operator, file)


def on_esp32(operator: FileOperator, file: FileModel) -> Fact:
    """With ESP-NN, on the ESP32-S3."""
    if _stores_int4(operator, file):
        return Fact("slow", "INT4 is unpacked, and the reference kernel runs", _ESP, _READ)
    if operator.code in _ESP_KERNELS and _yields_int8(operator, file):
        return Fact("fast", "a kernel of ESP-NN", _ESP, _READ)
    return on_tflm(operator, file)


def on_gpu(operator: FileOperator, file: FileModel) -> Fact:
    """With LiteRT's delegate for GPUs."""
    return Fact(
        "last bit may differ",
        "the delegate computes in float16 or float32",
        "LiteRT, GPU delegate, read in source",
        "2026-11-22",
    )


def on_npu(operator: FileOperator, file: FileModel) -> Fact:
    """With a vendor's plugin for its NPU."""
    return Fact(
        "last bit may differ",
        "plugins take int8 operators; none was measured",
        "LiteRT 2.2, vendors, read in source",
        "2026-11-22",
    )


def _yields_int8(operator: FileOperator, file: FileModel) -> bool:
    return file.tensors[operator.outputs[0]].dtype == "int8"


def _stores_int4(operator: FileOperator, file: FileModel) -> bool:
    return any(name and file.tensors[name].dtype == "int4" for name in operator.inputs)


def _groups(operator: FileOperator, file: FileModel) -> bool:
    x, weight = (file.tensors[name] for name in operator.inputs[:2])
    return x.shape[-1] != weight.shape[-1]
