"""Reports the content of a file: its operators, every layer's weights, and its float parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.headroom import headroom_bits, real_multiplier
from keras_qat.integer.op_numbers import WEIGHT_MAX
from keras_qat.integer.storage_sizes import STORED_MAX, most_values
from tflite_export.file.file_model import FileModel, stored_bytes
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.ops.float_part import inside, weight_tensor
from tflite_export.proof.comparison import ModelComparison
from tflite_export.targets import Target


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """The weights of one layer.

    Attributes:
        name: the layer's output tensor.
        shape: shape of the weights in the file.
        bits: bits of the learned grid.
        storage: how the file stores them: `"int8"`, `"int4"`, `"int2"` or `"lut"`.
        stored_bytes: bytes of their data in the file, lookup tables included.
        headroom: smallest and largest shift `k` over the channels.
        predicted_flip_rate: share of elements that the second rounding of a fixed-point kernel
            moves by one step. Flips in the layer's inputs come on top. It is 0 if nothing is
            rounded twice.
        predicted_in_int8: the same share for weights stored as int8. It is smaller if the storage
            has less room for headroom.
        zeros: share of the weights that are zero.
        values: the largest number of different weights in a channel.
        layer: the layer that has the weights, by its name in the model; empty if that is not known.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    storage: str
    stored_bytes: int
    headroom: tuple[int, int]
    predicted_flip_rate: float
    predicted_in_int8: float
    zeros: float = 0.0
    values: int = 0
    layer: str = ""

    @property
    def elements(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def faithful(self) -> bool:
        """Whether the storage rounds as well as int8 does."""
        return self.predicted_flip_rate <= self.predicted_in_int8


@dataclasses.dataclass(frozen=True)
class OpReport:
    """One operator of the file."""

    name: str
    code: str
    version: int
    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class FloatWeightReport:
    """A quantized kernel of a layer that the file computes in float32: int8, then DEQUANTIZE.

    Attributes:
        name: name of the layer, with the name of the kernel if the layer has several.
        shape: shape of the kernel in the file.
        bits: bits of the learned grid.
        stored_bytes: bytes of its integers.
        zeros, values: see `WeightReport`.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    stored_bytes: int
    zeros: float = 0.0
    values: int = 0

    @property
    def elements(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class FloatPartReport:
    """Layers that the file computes in float32: from a grid or an input, to a grid or an output.

    Attributes:
        name: the output tensor.
        layers: names of the layers.
        operators: number of operators, without QUANTIZE and DEQUANTIZE.
        stored_bytes: bytes of the constants, quantized kernels included.
        weights: the quantized kernels.
        dtype: dtype of the output tensor: `"int8"`, or `"float32"` if it is on no grid.
    """

    name: str
    layers: tuple[str, ...]
    operators: int
    stored_bytes: int
    weights: tuple[FloatWeightReport, ...] = ()
    dtype: str = "int8"


def report_operators(file: FileModel) -> tuple[OpReport, ...]:
    """Every operator of the file."""
    return tuple(
        OpReport(name, op.code, op.version, file.tensors[name].dtype, file.tensors[name].shape)
        for op in file.operators
        for name in op.outputs
    )


def report_float_parts(stored: StoredGraph, file: FileModel) -> tuple[FloatPartReport, ...]:
    """Every float part."""
    return tuple(
        _report_float_part(op, file) for op in stored.graph.ops if isinstance(op, ops.FloatPart)
    )


def _report_float_part(op: ops.FloatPart, file: FileModel) -> FloatPartReport:
    names = [name for name in file.tensors if name.startswith(inside(op))]
    if op.output_dtype == "float32":
        names.append(op.output)
    own = [each for each in file.operators if each.code != "DEQUANTIZE"]
    written = {name for each in own for name in each.outputs}
    constants = [name for name in names if file.tensors[name].data is not None]
    return FloatPartReport(
        name=op.output,
        layers=op.layers,
        operators=len(written.intersection(names)),
        stored_bytes=sum(stored_bytes(file, name) for name in constants),
        weights=tuple(_report_float_weights(op, file)),
        dtype=op.output_dtype,
    )


def _report_float_weights(op: ops.FloatPart, file: FileModel) -> Iterator[FloatWeightReport]:
    for weight in op.weights:
        stored = file.tensors.get(weight_tensor(op, weight))
        if stored is not None:
            size = stored_bytes(file, stored.name)
            codes = weight.array.values
            yield FloatWeightReport(
                name=weight.name,
                shape=stored.shape,
                bits=weight.bits,
                stored_bytes=size,
                zeros=_zeros(codes),
                values=most_values(codes, axis=0),
            )


def report_weights(
    learned: IntegerGraph,
    stored: StoredGraph,
    file: FileModel,
    profile: str,
    layers: Mapping[str, str],
) -> tuple[WeightReport, ...]:
    """Every layer with weights, for the runtime that rounds like `profile`.

    Args:
        learned, stored, file: the graph, what is stored of it, and the file.
        profile: the rounding profile.
        layers: the layer that has the weights, by the output tensor, where that is known.
    """
    return tuple(
        dataclasses.replace(
            _report_weight(op, learned, stored, file, profile), layer=layers.get(op.output, "")
        )
        for op in learned.ops
        if isinstance(op, ops.LinearOp)
    )


def _report_weight(
    op: ops.LinearOp, learned: IntegerGraph, stored: StoredGraph, file: FileModel, profile: str
) -> WeightReport:
    legal = stored.linear_op(op.output)
    storage = stored.storage[legal.output]
    shifts = headroom_bits(op, learned, STORED_MAX.get(storage, WEIGHT_MAX))
    predicted = predicted_in_int8 = 0.0
    if profile == "tflm":
        predicted = _predicted_flip_rate(op, learned, shifts)
        predicted_in_int8 = _predicted_flip_rate(op, learned, headroom_bits(op, learned))
    return WeightReport(
        name=op.output,
        shape=op.weight.values.shape,
        bits=op.weight_bits,
        storage=storage,
        stored_bytes=stored_bytes(file, f"{legal.output}/weight"),
        headroom=(int(shifts.min()), int(shifts.max())),
        predicted_flip_rate=predicted,
        predicted_in_int8=predicted_in_int8,
        zeros=_zeros(op.weight.values),
        values=most_values(op.weight.values, op.weight.qparams.axis),
    )


def _zeros(codes: npt.NDArray[np.int8]) -> float:
    return float(np.mean(codes == 0))


def _predicted_flip_rate(
    op: ops.LinearOp, learned: IntegerGraph, shifts: npt.NDArray[np.int64]
) -> float:
    """The mean over channels of `2**-(r + 1)`, which a second rounding by `r` bits flips."""
    _, exponent = np.frexp(np.ldexp(real_multiplier(op, learned), -shifts))
    rates = np.where(exponent < 0, np.ldexp(1.0, exponent - 1), 0.0)
    used = np.any(op.weight.values != 0, axis=_other_axes(op))
    return float(np.mean(rates * used))


def _other_axes(op: ops.LinearOp) -> tuple[int, ...]:
    return tuple(axis for axis in range(op.weight.values.ndim) if axis != op.channel_axis)


_MOST_NAMED = 3
_OLDEST_LITERT = {"int4": "1.3.0", "int2": "2.1.2"}
"""Of the versions that were tried. Older ones refuse the file, or round in another way."""


def needed_runtimes(stored: StoredGraph, target: Target) -> list[str]:
    """Which versions of LiteRT round packed weights as proven, as lines of the report."""
    found = set(stored.storage.values()) if target.family == "litert" else set()
    return [
        f"{storage.upper()} weights need LiteRT {oldest} or later, as measured."
        for storage, oldest in _OLDEST_LITERT.items()
        if storage in found
    ]


def stored_otherwise(
    weights: Sequence[WeightReport], parts: Sequence[FloatPartReport], weight_storage: str
) -> list[str]:
    """Which layers the storage that was asked for does not hold, as lines of the report."""
    every = [(weight.name, weight.bits, weight.storage) for weight in weights]
    every += [(weight.name, weight.bits, "int8") for part in parts for weight in part.weights]
    named = [
        f"{name!r} ({bits} bits, {storage})"
        for name, bits, storage in every
        if storage != weight_storage
    ]
    if weight_storage in ("auto", "int8") or not named:
        return []
    more = "" if len(named) <= _MOST_NAMED else f" and {len(named) - _MOST_NAMED} more"
    return [
        f"weight_storage={weight_storage!r} holds {len(every) - len(named)} of "
        f"{len(every)} layers. Others are stored as they can be: "
        f"{', '.join(named[:_MOST_NAMED])}{more}."
    ]


def describe_loss(lossy: Sequence[WeightReport], comparison: ModelComparison | None) -> str:
    """What INT4 costs, as a line of the report."""
    worst = max(lossy, key=lambda weight: weight.predicted_flip_rate)
    measured = ""
    tensors = () if comparison is None else comparison.tensors
    for tensor in tensors:  # the model need not state every tensor
        if tensor.name == worst.name:
            measured = f" ({tensor.rate:.2%} measured, including flips of the layers before it)"
    layers = "1 layer" if len(lossy) == 1 else f"{len(lossy)} layers"
    return (
        f"INT4 leaves {layers} less room for headroom than int8. The worst is "
        f"{worst.name!r}: {worst.predicted_flip_rate:.2%} of the elements are predicted to "
        f"flip{measured}, against {worst.predicted_in_int8:.2%} in int8. weight_storage='auto' or "
        "'lut' has no such cost."
    )
