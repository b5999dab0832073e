"""ADD, SUB and MUL."""

from __future__ import annotations

import numpy as np

from keras_qat.integer import IntegerGraph, ops
from tflite_export.errors import FAR_SCALES, ExportError
from tflite_export.ops.emission import Emission, file_operator
from tflite_export.ops.grids import require_activation
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport, no_constants
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.ops.option_fields import fused_activation
from tflite_export.targets import Target


def _emit_add(op: ops.Add, graph: IntegerGraph) -> Emission:
    return _emit("ADD", 2, "AddOptions", op, graph)


def _emit_sub(op: ops.Sub, graph: IntegerGraph) -> Emission:
    return _emit("SUB", 2, "SubOptions", op, graph)


def _emit_mul(op: ops.Mul, graph: IntegerGraph) -> Emission:
    """Emits version 3 if the product is rescaled by 1 or more."""
    x, w, y = (graph.tensors[name].qparams.scale for name in (*op.inputs, op.output))
    return _emit("MUL", 3 if x * w / y >= 1 else 2, "MulOptions", op, graph)


def _emit(
    code: str, version: int, options: str, op: ops.ArithmeticOp, graph: IntegerGraph
) -> Emission:
    fields = fused_activation(op, graph)
    return Emission((), file_operator(code, version, op.inputs, op.output, options, fields))


def _check_sum(op: ops.Add | ops.Sub, graph: IntegerGraph, target: Target) -> None:
    y = graph.tensors[op.output].qparams
    for name in op.inputs:
        ratio = float(graph.tensors[name].qparams.scale) / float(y.scale)
        if not target.smallest_add_ratio <= ratio < target.add_ratio_limit:
            raise ExportError(
                f"{type(op).__name__} {op.output!r} rescales {name!r} by {ratio:.3g}, outside what "
                f"{target.name!r} computes ({target.smallest_add_ratio:.3g} to "
                f"{target.add_ratio_limit:g}). Give input and output scales nearer to each other."
            )
    require_activation(op, graph)


def _check_mul(op: ops.Mul, graph: IntegerGraph, target: Target) -> None:
    x, w, y = (graph.tensors[name].qparams.scale for name in (*op.inputs, op.output))
    with np.errstate(over="ignore"):
        multiplier = float(x * w / y)
    if not target.smallest_mul_multiplier <= multiplier < target.multiplier_limit:
        raise ExportError(
            f"Mul {op.output!r} rescales its product by {multiplier:.3g}, outside what "
            f"{target.name!r} computes ({target.smallest_mul_multiplier:.3g} to "
            f"{target.multiplier_limit:g}). {FAR_SCALES}"
        )
    require_activation(op, graph)


ADD_OPERATOR = OperatorType(
    "ADD", MicroKernel(resolver="AddAdd", structure_bytes=60, channel_bytes=0, scratch=no_scratch)
)
SUB_OPERATOR = OperatorType(
    "SUB", MicroKernel(resolver="AddSub", structure_bytes=48, channel_bytes=0, scratch=no_scratch)
)
MUL_OPERATOR = OperatorType(
    "MUL", MicroKernel(resolver="AddMul", structure_bytes=28, channel_bytes=0, scratch=no_scratch)
)

ADD = OpExport(
    emit=_emit_add,
    check=_check_sum,
    check_constants=no_constants,
    operators=(ADD_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
)
SUB = OpExport(
    emit=_emit_sub,
    check=_check_sum,
    check_constants=no_constants,
    operators=(SUB_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
)
MUL = OpExport(
    emit=_emit_mul,
    check=_check_mul,
    check_constants=no_constants,
    operators=(MUL_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
)
