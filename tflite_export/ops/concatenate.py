"""CONCATENATION."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph, ops
from tflite_export.errors import ExportError
from tflite_export.ops.emission import Emission, file_operator
from tflite_export.ops.grids import require_range, require_same_scale
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport, no_constants
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.targets import Target


def _emit(op: ops.Concatenate, graph: IntegerGraph) -> Emission:
    fields = {"axis": op.axis, "fusedActivationFunction": "NONE"}
    options = "ConcatenationOptions"
    return Emission((), file_operator("CONCATENATION", 2, op.inputs, op.output, options, fields))


def _check(op: ops.Concatenate, graph: IntegerGraph, target: Target) -> None:
    count, most = len(op.inputs), target.most_concatenated
    if most is not None and count > most:
        raise ExportError(
            f"Concatenate {op.output!r} joins {count} tensors, and {target.name!r} joins at most "
            f"{most} at once. Join {most} of them first, and the result with the others."
        )
    for name in op.inputs:
        require_same_scale(op, graph, name)
    grids = [graph.tensors[name].qparams for name in op.inputs]
    low, high = min(grid.qmin for grid in grids), max(grid.qmax for grid in grids)
    require_range(op, graph, (low, high))


CONCATENATION_OPERATOR = OperatorType(
    "CONCATENATION",
    MicroKernel(
        resolver="AddConcatenation", structure_bytes=0, channel_bytes=0, scratch=no_scratch
    ),
)

CONCATENATE = OpExport(
    emit=_emit,
    check=_check,
    check_constants=no_constants,
    operators=(CONCATENATION_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
