"""SOFTMAX."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.fixed_point import get_profile
from keras_qat.integer.ops.softmax import MAX_SOFTMAX_CLASSES, SOFTMAX_OUTPUT
from tflite_export.errors import ExportError
from tflite_export.ops.emission import Emission, file_operator
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport, no_constants
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.targets import Target


def runs_softmax(profile: str, classes: int) -> bool:
    """Whether the runtime of a profile survives a softmax over this number of classes."""
    return get_profile(profile).float_softmax or classes <= MAX_SOFTMAX_CLASSES


def _emit(op: ops.Softmax, graph: IntegerGraph) -> Emission:
    fields = {"beta": 1.0}
    return Emission((), file_operator("SOFTMAX", 2, op.inputs, op.output, "SoftmaxOptions", fields))


def _check(op: ops.Softmax, graph: IntegerGraph, target: Target) -> None:
    y = graph.tensors[op.output]
    if y.qparams != SOFTMAX_OUTPUT:
        raise ExportError(
            f"Softmax {op.output!r} must have the grid SOFTMAX_OUTPUT (scale 1/256, zero point "
            f"-128). Received: {y.qparams}"
        )
    if not any(runs_softmax(profile, y.shape[-1]) for profile in target.profiles):
        raise ExportError(
            f"Softmax {op.output!r} has {y.shape[-1]} classes. The fixed-point kernel aborts the "
            f"process above {MAX_SOFTMAX_CLASSES}. Export the logits instead."
        )
    scale = float(graph.tensors[op.inputs[0]].qparams.scale)
    if scale <= 2.0**-26:
        raise ExportError(
            f"The input of softmax {op.output!r} needs a scale above 2**-26. Received: {scale:.3g}"
        )


SOFTMAX_OPERATOR = OperatorType(
    "SOFTMAX",
    MicroKernel(resolver="AddSoftmax", structure_bytes=80, channel_bytes=0, scratch=no_scratch),
)

SOFTMAX = OpExport(
    emit=_emit,
    check=_check,
    check_constants=no_constants,
    operators=(SOFTMAX_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
)
