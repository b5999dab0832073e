"""PRELU."""

from __future__ import annotations

import numpy as np

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN
from tflite_export.errors import FAR_SCALES, ExportError, VerificationError
from tflite_export.file.file_model import FileTensor
from tflite_export.ops.emission import Emission, file_operator
from tflite_export.ops.grids import require_range
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.ops.reading import FileReading
from tflite_export.targets import Target


def _emit(op: ops.PReLU, graph: IntegerGraph) -> Emission:
    slopes = FileTensor(
        name=f"{op.output}/slopes",
        shape=op.slopes.values.shape,
        dtype="int8",
        scale=op.slopes.qparams.scale.reshape(1),
        data=op.slopes.values.astype(np.int8),
    )
    return Emission((slopes,), file_operator("PRELU", 1, (*op.inputs, slopes.name), op.output))


def _check(op: ops.PReLU, graph: IntegerGraph, target: Target) -> None:
    slopes = op.slopes.qparams
    if slopes.zero_point != 0 or slopes.axis is not None:
        raise ExportError(
            f"The slopes of PReLU {op.output!r} need zero point 0 and one scale. Received: {slopes}"
        )
    x, y = (graph.tensors[name].qparams.scale for name in (op.inputs[0], op.output))
    with np.errstate(over="ignore"):
        multipliers = (float(x / y), float(x * slopes.scale / y))
    for multiplier in multipliers:
        if not target.smallest_multiplier <= multiplier < target.multiplier_limit:
            raise ExportError(
                f"PReLU {op.output!r} rescales by {multiplier:.3g}, outside what {target.name!r} "
                f"computes ({target.smallest_multiplier:.3g} to {target.multiplier_limit:g}). "
                f"{FAR_SCALES}"
            )
    require_range(op, graph, (INT8_MIN, INT8_MAX))


def _check_slopes(op: ops.PReLU, legal: ops.PReLU, reading: FileReading) -> None:
    learned, stored = op.slopes, reading.tensor(reading.writer(op.output).inputs[1])
    same = stored.data is not None and np.array_equal(stored.data, learned.values)
    if not same or stored.scale != learned.qparams.scale or stored.zero_point != 0:
        raise VerificationError(f"The file's slopes of {op.output!r} are not the learned ones.")


PRELU_OPERATOR = OperatorType(
    "PRELU",
    MicroKernel(resolver="AddPrelu", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)

PRELU = OpExport(
    emit=_emit,
    check=_check,
    check_constants=_check_slopes,
    operators=(PRELU_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
)
