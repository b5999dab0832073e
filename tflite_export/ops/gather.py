"""GATHER over one axis, with constant places."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph, ops
from tflite_export.ops.emission import Emission, file_operator, int32_constant
from tflite_export.ops.grids import check_same_grid
from tflite_export.ops.lookup import GATHER_OPERATOR
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport, no_constants


def _emit(op: ops.Gather, graph: IntegerGraph) -> Emission:
    places = int32_constant(f"{op.output}/places", op.indices)
    operands = (*op.inputs, places.name)
    fields = {"axis": op.axis}
    operator = file_operator("GATHER", 2, operands, op.output, "GatherOptions", fields)
    return Emission((places,), operator)


GATHER = OpExport(
    emit=_emit,
    check=check_same_grid,
    check_constants=no_constants,
    operators=(GATHER_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
