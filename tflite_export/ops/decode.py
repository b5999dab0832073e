"""TFLM_DECODE: the operator that reads weights out of a lookup table, before a linear op."""

from __future__ import annotations

from tflite_export.file.lookup_table import DECODE_OPERATOR
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch

DECODE = OperatorType(
    DECODE_OPERATOR,
    MicroKernel(
        resolver="AddDecode",
        structure_bytes=56,  # 80 minus the 24 bytes of allocations, which it does not have
        channel_bytes=0,
        scratch=no_scratch,
    ),
)
