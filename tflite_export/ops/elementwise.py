"""MAXIMUM and MINIMUM: of a tensor and a constant, or of two tensors."""

from __future__ import annotations

import numpy as np

from keras_qat.integer import IntegerGraph, ops
from tflite_export.file.file_model import FileTensor
from tflite_export.ops.emission import Emission, file_operator
from tflite_export.ops.grids import require_range, require_same_scale
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport, no_constants
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.targets import Target

_OPTIONS = "MaximumMinimumOptions"


def _emit_maximum(op: ops.Maximum, graph: IntegerGraph) -> Emission:
    return _emit_clamp("MAXIMUM", op, graph)


def _emit_minimum(op: ops.Minimum, graph: IntegerGraph) -> Emission:
    return _emit_clamp("MINIMUM", op, graph)


def _emit_clamp(code: str, op: ops.Maximum | ops.Minimum, graph: IntegerGraph) -> Emission:
    """The bound is a constant on the grid of the input, as the kernels demand."""
    grid = graph.tensors[op.inputs[0]].qparams
    bound = FileTensor(
        name=f"{op.output}/bound",
        shape=(1,),
        dtype="int8",
        scale=grid.scale.reshape(1),
        zero_point=grid.zero_point,
        data=np.full(1, op.bound, dtype=np.int8),
    )
    operands = (*op.inputs, bound.name)
    return Emission((bound,), file_operator(code, 2, operands, op.output, _OPTIONS))


def _emit_maximum_of_two(op: ops.MaximumOfTwo, graph: IntegerGraph) -> Emission:
    return Emission((), file_operator("MAXIMUM", 2, op.inputs, op.output, _OPTIONS))


def _emit_minimum_of_two(op: ops.MinimumOfTwo, graph: IntegerGraph) -> Emission:
    return Emission((), file_operator("MINIMUM", 2, op.inputs, op.output, _OPTIONS))


def _check_maximum(op: ops.Maximum, graph: IntegerGraph, target: Target) -> None:
    x = require_same_scale(op, graph)
    require_range(op, graph, (max(x.qmin, op.bound), max(x.qmax, op.bound)))


def _check_minimum(op: ops.Minimum, graph: IntegerGraph, target: Target) -> None:
    x = require_same_scale(op, graph)
    require_range(op, graph, (min(x.qmin, op.bound), min(x.qmax, op.bound)))


def _check_maximum_of_two(op: ops.MaximumOfTwo, graph: IntegerGraph, target: Target) -> None:
    x, w = (require_same_scale(op, graph, name) for name in op.inputs)
    require_range(op, graph, (max(x.qmin, w.qmin), max(x.qmax, w.qmax)))


def _check_minimum_of_two(op: ops.MinimumOfTwo, graph: IntegerGraph, target: Target) -> None:
    x, w = (require_same_scale(op, graph, name) for name in op.inputs)
    require_range(op, graph, (min(x.qmin, w.qmin), min(x.qmax, w.qmax)))


MAXIMUM_OPERATOR = OperatorType(
    "MAXIMUM",
    MicroKernel(resolver="AddMaximum", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)
MINIMUM_OPERATOR = OperatorType(
    "MINIMUM",
    MicroKernel(resolver="AddMinimum", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)

MAXIMUM = OpExport(
    emit=_emit_maximum,
    check=_check_maximum,
    check_constants=no_constants,
    operators=(MAXIMUM_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
MINIMUM = OpExport(
    emit=_emit_minimum,
    check=_check_minimum,
    check_constants=no_constants,
    operators=(MINIMUM_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
MAXIMUM_OF_TWO = OpExport(
    emit=_emit_maximum_of_two,
    check=_check_maximum_of_two,
    check_constants=no_constants,
    operators=(MAXIMUM_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
MINIMUM_OF_TWO = OpExport(
    emit=_emit_minimum_of_two,
    check=_check_minimum_of_two,
    check_constants=no_constants,
    operators=(MINIMUM_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)
