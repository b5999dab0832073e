"""The conditions under which a file computes exactly what its graph states."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN
from tflite_export.errors import FAR_SCALES, ExportError
from tflite_export.file.file_model import IoDtype
from tflite_export.ops.softmax import runs_softmax
from tflite_export.ops.table import export_of, runs_on
from tflite_export.targets import Target

_ARM64 = ("arm64", "aarch64")
_SMALLEST_SCALE, _SCALE_LIMIT = 2.0**-126, 2.0**107
"""Float32 is coarser below, which XNNPACK refuses. SUB of LiteRT's reference kernels multiplies a
scale by 2**20, in float32, and ends the process where that is infinite."""


def check_legal(graph: IntegerGraph, target: Target) -> None:
    """Raises an `ExportError` if the target cannot hold the graph, or would compute it differently.

    It names the first such tensor or op.
    """
    if not graph.ops:
        raise ExportError("The graph has no ops: there is nothing to export.")
    for tensor in graph.tensors.values():
        if tensor.shape[0] != 1:
            raise ExportError(
                f"Tensor {tensor.name!r} must have batch 1. Received: shape {tensor.shape}"
            )
        if tensor.qparams.axis is not None:
            raise ExportError(
                f"Activation {tensor.name!r} needs one scale, not one per channel. "
                f"Received: {tensor.qparams.scale.size} scales"
            )
        if tensor.on_grid and not _SMALLEST_SCALE <= tensor.qparams.scale < _SCALE_LIMIT:
            raise ExportError(
                f"Tensor {tensor.name!r} has a scale of {tensor.qparams.scale:.3g}, outside what "
                f"runtimes take ({_SMALLEST_SCALE:.3g} to {_SCALE_LIMIT:.3g}). {FAR_SCALES}"
            )
        if not INT8_MIN <= tensor.qparams.zero_point <= INT8_MAX:
            raise ExportError(
                f"Tensor {tensor.name!r} needs a zero point within int8. "
                f"Received: zero_point={tensor.qparams.zero_point}"
            )
    _check_float_parts(graph, target)
    for op in graph.ops:
        if not runs_on(type(op), target.family):
            raise ExportError(
                f"Target {target.name!r} does not run the op of {op.output!r}. "
                f"Received: {type(op).__name__}"
            )
        export_of(op).check(op, graph, target)


def _check_float_parts(graph: IntegerGraph, target: Target) -> None:
    parts = [op for op in graph.ops if isinstance(op, ops.FloatPart)]
    if parts and not runs_on(ops.FloatPart, target.family):
        layers = ", ".join(repr(layer) for op in parts for layer in op.layers)
        raise ExportError(
            f"The layers {layers} compute in float32, and target {target.name!r} runs integers "
            f"alone. Received: target={target.name!r}. Export for 'litert'; or quantize with "
            "activation_bits of 1 to 8 where it is None, replace layers that have no rule, or "
            "split the model there."
        )


def runnable_profiles(graph: IntegerGraph, target: Target) -> tuple[str, ...]:
    """The profiles of the target whose runtimes can run the graph, on the processor of this
    machine.
    """
    classes = [graph.tensors[op.output].shape[-1] for op in graph.ops if type(op) is ops.Softmax]
    most = max(classes, default=0)
    own = {target.default_profile: here(target)}
    profiles = (own.get(profile, profile) for profile in target.profiles)
    return tuple(profile for profile in profiles if runs_softmax(profile, most))


def here(target: Target) -> str:
    """The rounding profile of the target's default runtime on the processor of this machine."""
    arm = platform.machine().lower() in _ARM64
    found = [each for each in target.processors if each.endswith("arm64") == arm]
    return found[0] if found else target.default_profile


def check_float_inputs(graph: IntegerGraph, dtypes: Mapping[str, IoDtype]) -> None:
    """Requires integer inputs on grids narrower than int8: QUANTIZE clamps to int8 alone."""
    for name in graph.inputs:
        grid = graph.tensors[name].qparams
        float_input = dtypes.get(name) == "float32"
        if float_input and (grid.qmin, grid.qmax) != (INT8_MIN, INT8_MAX):
            raise ExportError(
                f"Input {name!r} has a grid of {grid.levels} levels, which a QUANTIZE op does not "
                "clamp to. Export with io_dtype='int8' or 'uint8', or quantize the input to 8 "
                f"bits. Received: qmin={grid.qmin}, qmax={grid.qmax}"
            )
