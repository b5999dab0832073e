"""Computes the arena of TensorFlow Lite Micro, as the runtime lays it out.

The arena has two parts:

* Buffers, planned once. An activation is in use from the operator that writes it to the last one
  that reads it. Scratch is in use while its operator runs. INT4 weights are unpacked into a buffer,
  and weights of a lookup table are decoded into one. The largest buffers are placed first, of equal
  ones the later tensor of the file. Each gets the lowest offset where it overlaps no other buffer
  that is in use at the same time.
* Structures of the interpreter: for every tensor, operator and output channel.

`MicroKernel` states what an operator takes beyond that, and `kernels.py` what kernels of vendors
take in its place. The sizes of the structures were read off
TensorFlow Lite Micro (November 2026) on a 64-bit machine. They are smaller on a microcontroller,
whose pointers have 32 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from tflite_export.arena.kernels import scratch_of
from tflite_export.file.file_model import FileModel, FileTensor
from tflite_export.file.lookup_table import DECODE_OPERATOR
from tflite_export.ops.table import micro_kernel
from tflite_export.targets import REFERENCE

_ALIGNMENT = 16
_TENSOR = 24
_OPERATOR = 88
"""64 bytes, and 24 for the operator's allocations."""
_INPUT_OR_OUTPUT = 96
_INTERPRETER = 506
_BYTES = {"int8": 1, "uint8": 1, "int32": 4, "float32": 4}

Kind = Literal["activation", "decoded weights", "scratch"]


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A part of the arena that is in use from one operator to another, both included."""

    name: str
    size: int
    first: int
    last: int
    kind: Kind = "activation"
    offset: int = 0

    def meets(self, other: Buffer) -> bool:
        """Whether both are in use at the same time."""
        return self.first <= other.last and other.first <= self.last


def buffers_of(file: FileModel, kernels: str = REFERENCE) -> list[Buffer]:
    """The buffers that the arena has to hold and their times, all at offset 0.

    Tensors come in the order of the file, and scratch in the order of its operators.

    Args:
        file: the file.
        kernels: whose kernels run it, a name of `tflite_export.targets.KERNELS`.

    Raises:
        ExportError: the scratch of an operator is not known.
    """
    first = dict.fromkeys(file.inputs.values(), 0)
    last = dict.fromkeys(file.outputs.values(), len(file.operators) - 1)
    scratch = []
    for time, op in enumerate(file.operators):
        first.update(dict.fromkeys(op.outputs, time))
        used = [name for name in (*op.inputs, *op.outputs) if file.tensors[name].data is None]
        last.update({name: max(time, last.get(name, 0)) for name in used})
        for size in scratch_of(kernels, op, file):
            name = f"scratch of {op.outputs[0]}"
            scratch.append(Buffer(name, _aligned(size), time, time, "scratch"))
    decoded = {name for op in file.operators if op.code == DECODE_OPERATOR for name in op.outputs}
    tensors = [
        Buffer(
            name,
            _aligned(_size(tensor)),
            first[name],
            last.get(name, first[name]),
            "decoded weights" if name in decoded else "activation",
        )
        for name, tensor in file.tensors.items()
        if name in first
    ]
    return tensors + scratch


def place(buffers: Sequence[Buffer]) -> tuple[Buffer, ...]:
    """Gives every buffer its offset in the arena.

    The largest buffer is placed first, of equal ones the last. Each takes the lowest offset where
    it overlaps no placed buffer that lives at the same time. The result is ordered by the time at
    which the buffers start to live, and then by the time at which they end.

    >>> a, b, c = Buffer("a", 32, 0, 1), Buffer("b", 16, 1, 2), Buffer("c", 32, 2, 3)
    >>> [(buffer.name, buffer.offset) for buffer in place([a, b, c])]
    [('a', 0), ('b', 32), ('c', 0)]
    >>> [(buffer.name, buffer.offset) for buffer in place([a, Buffer("d", 32, 1, 2)])]
    [('a', 32), ('d', 0)]
    """
    placed: list[Buffer] = []
    last_first = buffers[::-1]
    for buffer in sorted(last_first, key=lambda each: -each.size):
        offset = 0
        for other in sorted(placed, key=lambda each: each.offset):
            if other.meets(buffer) and other.offset < offset + buffer.size:
                offset = max(offset, other.offset + other.size)
        placed.append(dataclasses.replace(buffer, offset=offset))
    return tuple(sorted(placed, key=lambda each: (each.first, each.last)))


def buffer_bytes(buffers: Iterable[Buffer]) -> int:
    """The bytes of the arena that placed buffers take."""
    return max((buffer.offset + buffer.size for buffer in buffers), default=0)


def structure_bytes(file: FileModel) -> int:
    """The bytes that the interpreter keeps for tensors, operators and channels.

    Raises:
        ExportError: the structures of an operator are not known.
    """
    total = _INTERPRETER + _TENSOR * len(file.tensors)
    total += _INPUT_OR_OUTPUT * (len(file.inputs) + len(file.outputs))
    for op in file.operators:
        kernel = micro_kernel(op.code)
        total += _OPERATOR + kernel.structure_bytes
        if kernel.channel_bytes:
            scales = file.tensors[op.inputs[1]].scale.size
            kept = 0 if kernel.one_scale_is_free and scales == 1 else scales
            total += kernel.channel_bytes * kept
    return total


def _size(tensor: FileTensor) -> int:
    return tensor.elements * _BYTES[tensor.dtype]


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
