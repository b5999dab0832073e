"""QUANTIZE and DEQUANTIZE: the operators between int8 and other dtypes."""

from __future__ import annotations

from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch

QUANTIZE_OPERATOR = OperatorType(
    "QUANTIZE",
    MicroKernel(resolver="AddQuantize", structure_bytes=24, channel_bytes=0, scratch=no_scratch),
)
DEQUANTIZE_OPERATOR = OperatorType(
    "DEQUANTIZE",
    MicroKernel(resolver="AddDequantize", structure_bytes=8, channel_bytes=0, scratch=no_scratch),
)
