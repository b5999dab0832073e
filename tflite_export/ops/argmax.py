"""ARG_MAX over one axis."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph, ops
from tflite_export.errors import ExportError
from tflite_export.ops.emission import Emission, file_operator, int32_constant
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport, no_constants
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.targets import Target


def _emit(op: ops.ArgMax, graph: IntegerGraph) -> Emission:
    axis = int32_constant(f"{op.output}/axis", [op.axis])
    operands = (*op.inputs, axis.name)
    fields = {"outputType": "INT32"}
    operator = file_operator("ARG_MAX", 2, operands, op.output, "ArgMaxOptions", fields)
    return Emission((axis,), operator)


def _check(op: ops.ArgMax, graph: IntegerGraph, target: Target) -> None:
    if op.output not in graph.outputs:
        raise ExportError(f"Op {op.output!r} yields indices, which only an output of the graph is.")


ARG_MAX_OPERATOR = OperatorType(
    "ARG_MAX",
    MicroKernel(resolver="AddArgMax", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)

ARG_MAX = OpExport(
    emit=_emit,
    check=_check,
    check_constants=no_constants,
    operators=(ARG_MAX_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
)
