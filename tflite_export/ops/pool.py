"""MAX_POOL_2D, AVERAGE_POOL_2D and MEAN."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.accumulators import leaves_int32
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN
from tflite_export.errors import FAR_SCALES, ExportError
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.ops.emission import Emission, file_operator, int32_constant
from tflite_export.ops.grids import check_same_grid, require_range
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport, no_constants
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.ops.option_fields import window_fields
from tflite_export.targets import Target


def _emit_max_pool_2d(op: ops.MaxPool2D, graph: IntegerGraph) -> Emission:
    return _emit_pool("MAX_POOL_2D", op)


def _emit_average_pool_2d(op: ops.AveragePool2D, graph: IntegerGraph) -> Emission:
    return _emit_pool("AVERAGE_POOL_2D", op)


def _emit_pool(code: str, op: ops.MaxPool2D | ops.AveragePool2D) -> Emission:
    height, width = op.pool_size
    fields = {
        **window_fields(op),
        "filterHeight": height,
        "filterWidth": width,
        "fusedActivationFunction": "NONE",
    }
    return Emission((), file_operator(code, 2, op.inputs, op.output, "Pool2DOptions", fields))


def _emit_mean(op: ops.Mean, graph: IntegerGraph) -> Emission:
    axes = int32_constant(f"{op.output}/axes", [1, 2])
    fields = {"keepDims": False}
    operands = (*op.inputs, axes.name)
    return Emission(
        (axes,), file_operator("MEAN", 2, operands, op.output, "ReducerOptions", fields)
    )


def _check_mean(op: ops.Mean, graph: IntegerGraph, target: Target) -> None:
    """Requires the range of a mean without a clamp: from 0.0 up if no input is negative."""
    x, y = graph.tensors[op.inputs[0]].qparams, graph.tensors[op.output].qparams
    count = math.prod(graph.tensors[op.inputs[0]].shape[1:3])
    ratio = float(x.scale) / float(y.scale)
    spare = count.bit_length() - 1  # the kernel divides, and shifts less by these bits
    if leaves_int32(np.int64(count * (INT8_MAX - INT8_MIN)), ratio, spare):
        raise ExportError(
            f"Mean {op.output!r} of {count} values is rescaled by {ratio:.3g}, which takes the sum "
            f"out of int32: kernels would wrap. {FAR_SCALES}"
        )
    if x.qmin >= x.zero_point and y.qmin == y.zero_point:
        require_range(op, graph, (y.zero_point, INT8_MAX))
    else:
        require_range(op, graph, (INT8_MIN, INT8_MAX))


def _sums(operator: FileOperator, file: FileModel) -> Sequence[int]:
    """Bytes of two short lists of axes, and of a 32-bit sum for every channel."""
    return 16, 16, 4 * file.tensors[operator.outputs[0]].elements


MAX_POOL_2D_OPERATOR = OperatorType(
    "MAX_POOL_2D",
    MicroKernel(resolver="AddMaxPool2D", structure_bytes=32, channel_bytes=0, scratch=no_scratch),
)
AVERAGE_POOL_2D_OPERATOR = OperatorType(
    "AVERAGE_POOL_2D",
    MicroKernel(
        resolver="AddAveragePool2D", structure_bytes=32, channel_bytes=0, scratch=no_scratch
    ),
)
MEAN_OPERATOR = OperatorType(
    "MEAN", MicroKernel(resolver="AddMean", structure_bytes=44, channel_bytes=0, scratch=_sums)
)

MAX_POOL_2D = OpExport(
    emit=_emit_max_pool_2d,
    check=check_same_grid,
    check_constants=no_constants,
    operators=(MAX_POOL_2D_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
AVERAGE_POOL_2D = OpExport(
    emit=_emit_average_pool_2d,
    check=check_same_grid,
    check_constants=no_constants,
    operators=(AVERAGE_POOL_2D_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
)
MEAN = OpExport(
    emit=_emit_mean,
    check=_check_mean,
    check_constants=no_constants,
    operators=(MEAN_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
)
