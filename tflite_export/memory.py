"""`plan_memory`: what a network needs of a microcontroller's flash and RAM.

Flash holds the file. RAM holds the arena of TensorFlow Lite Micro, which has two parts:

* buffers, planned once: every activation from the operator that writes it to the last one that
  reads it, and what an operator needs while it runs. INT4 weights are unpacked into such a buffer,
  those of a lookup table decoded into one. The largest buffers are placed first, each at the lowest
  offset where it meets no other that lives at the same time.
* structures of the interpreter: for every tensor, operator and output channel.

The sizes of the structures were read off TensorFlow Lite Micro (November 2026) on a 64-bit machine;
with the pointers of 32 bits of a microcontroller they are smaller.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from keras_qat.integer import IntegerGraph, ops
from tflite_export.emit_model import emit_model
from tflite_export.file_model import FileModel, FileTensor, stored_bytes
from tflite_export.graph_of import graph_of
from tflite_export.legalize import legalize, with_channel_scales
from tflite_export.lookup_table import DECODE_OPERATOR
from tflite_export.ops.table import micro_kernel
from tflite_export.runtimes import measure_arena
from tflite_export.storage import check_weight_storage
from tflite_export.stored_graph import StoredGraph
from tflite_export.targets import get_target
from tflite_export.text_table import text_table
from tflite_export.writer import write_model

_ALIGNMENT = 16
_TENSOR = 24
_OPERATOR = 88
"""64, and 24 for its allocations."""
_INPUT_OR_OUTPUT = 96
_INTERPRETER = 506
Kind = Literal["activation", "decoded weights", "scratch"]

_BYTES = {"int8": 1, "uint8": 1, "int32": 4, "float32": 4}


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A part of the arena that lives from one operator to another, both included."""

    name: str
    size: int
    first: int
    last: int
    kind: Kind = "activation"
    offset: int = 0

    def meets(self, other: Buffer) -> bool:
        """Whether both live at the same time."""
        return self.first <= other.last and other.first <= self.last


@dataclasses.dataclass(frozen=True)
class WeightMemory:
    """The flash that one layer takes.

    Attributes:
        name: the layer's output tensor.
        bits: bits of the learned grid.
        elements: how many weights there are.
        storage: how they lie in the file: `"int8"`, `"int4"` or `"lut"`.
        weight_bytes: weights, or the indices of a lookup table.
        table_bytes: the lookup table.
        bias_bytes: the bias.
    """

    name: str
    bits: int
    elements: int
    storage: str
    weight_bytes: int
    table_bytes: int
    bias_bytes: int


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """What a network needs.

    Attributes:
        weights: flash by layer.
        flash_bytes: size of the file.
        buffers: activations and what operators need, where the arena has them.
        structure_bytes: what the interpreter keeps for itself.
        operators: what runs, in order; the times of buffers count them.
        measured_arena_bytes: what TensorFlow Lite Micro took here; `None` if it is not installed.
    """

    weights: tuple[WeightMemory, ...]
    flash_bytes: int
    buffers: tuple[Buffer, ...]
    structure_bytes: int
    operators: tuple[str, ...]
    measured_arena_bytes: int | None

    @property
    def overhead_bytes(self) -> int:
        """Flash that holds no weight, table or bias: tensors, operators, scales, names."""
        data = sum(w.weight_bytes + w.table_bytes + w.bias_bytes for w in self.weights)
        return self.flash_bytes - data

    @property
    def floor_bytes(self) -> int:
        """`sum(weights * bits) / 8`: what no storage of whole codes goes below."""
        return -(-sum(weight.elements * weight.bits for weight in self.weights) // 8)

    @property
    def buffer_bytes(self) -> int:
        """The part of the arena for buffers."""
        return max((buffer.offset + buffer.size for buffer in self.buffers), default=0)

    @property
    def arena_bytes(self) -> int:
        """The whole arena, estimated."""
        return self.buffer_bytes + self.structure_bytes

    @property
    def peak(self) -> int:
        """The operator during which most bytes are alive."""
        times = range(len(self.operators))
        return max(times, key=lambda time: sum(buffer.size for buffer in self.alive(time)))

    def alive(self, time: int) -> list[Buffer]:
        """The buffers in use while an operator runs, the largest first."""
        found = [buffer for buffer in self.buffers if buffer.first <= time <= buffer.last]
        return sorted(found, key=lambda buffer: -buffer.size)

    def to_json(self) -> str:
        """The plan as JSON, with the totals that the properties compute."""
        totals = ("overhead_bytes", "floor_bytes", "buffer_bytes", "arena_bytes")
        content = dataclasses.asdict(self)
        return json.dumps({**content, **{name: getattr(self, name) for name in totals}}, indent=2)

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_json()` to `path`."""
        pathlib.Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    def render(self) -> str:
        """The plan as plain text for people."""
        head = ("weights of", "bits", "weights", "storage", "bytes", "table", "bias")
        rows = [
            (w.name, w.bits, w.elements, w.storage, w.weight_bytes, w.table_bytes, w.bias_bytes)
            for w in self.weights
        ]
        alive = [(buffer.name, f"{buffer.size:,}") for buffer in self.alive(self.peak)]
        measured = self.measured_arena_bytes
        return "\n".join(
            [
                *text_table(head, rows),
                f"Flash: {self.flash_bytes:,} bytes, {self.overhead_bytes:,} of them around the "
                f"data. Weights times bits would be {self.floor_bytes:,}.",
                "",
                *text_table((f"in use during {self.operators[self.peak]}", "bytes"), alive),
                f"RAM: {self.arena_bytes:,} bytes of arena, {self.buffer_bytes:,} for buffers and "
                f"{self.structure_bytes:,} for the interpreter's structures.",
                "Not measured: TensorFlow Lite Micro is not installed (keras_qat[tflm])."
                if measured is None
                else f"TensorFlow Lite Micro took {measured:,} bytes here.",
            ]
        )


def plan_memory(model: Any, weight_storage: str = "auto") -> MemoryPlan:
    """Flash and RAM of a network in TensorFlow Lite Micro, trained or not.

    Of a model whose bit widths are still to be learned, it is the plan of the target widths.

    Args:
        model: an `IntegerGraph`, or a model with `to_integer()`, such as `keras_qat.quantize`
            returns.
        weight_storage: as in `tflite_export.export`.

    Raises:
        ExportError: a graph that TensorFlow Lite Micro cannot hold.
        ValueError: a bad argument; the message says which.
        ImportError: ai-edge-litert is not installed.

    >>> import numpy as np
    >>> from keras_qat.integer import GraphBuilder, QuantParams
    >>> builder = GraphBuilder()
    >>> x = builder.add_input("x", (1, 8, 8, 16), QuantParams(np.float32(0.1)))
    >>> y = builder.add(ops.MaxPool2D((x,), "y", (2, 2), (2, 2)), QuantParams(np.float32(0.1)))
    >>> plan = plan_memory(builder.build((y,)))
    >>> plan.buffer_bytes  # 8 * 8 * 16 + 4 * 4 * 16
    1280
    """
    target = get_target("tflm")
    storage = check_weight_storage(weight_storage, target)
    graph = graph_of(model, planned=True)
    stored = legalize(graph, target, storage)
    file = emit_model(stored, compact=target.compact)
    data = write_model(file)
    return MemoryPlan(
        weights=_weights(with_channel_scales(graph), stored, file),
        flash_bytes=len(data),
        buffers=place(buffers_of(file)),
        structure_bytes=structure_bytes(file),
        operators=tuple(f"{op.code} {op.outputs[0]}" for op in file.operators),
        measured_arena_bytes=_measured(data, file),
    )


def buffers_of(file: FileModel) -> list[Buffer]:
    """What the arena has to hold, and when; all at offset 0.

    Raises:
        ExportError: an operator whose scratch is not known.
    """
    first = dict.fromkeys(file.inputs.values(), 0)
    last = dict.fromkeys(file.outputs.values(), len(file.operators) - 1)
    scratch = []
    for time, op in enumerate(file.operators):
        first.update(dict.fromkeys(op.outputs, time))
        used = [name for name in (*op.inputs, *op.outputs) if file.tensors[name].data is None]
        last.update({name: max(time, last.get(name, 0)) for name in used})
        for size in micro_kernel(op.code).scratch(op, file):
            name = f"scratch of {op.outputs[0]}"
            scratch.append(Buffer(name, _aligned(size), time, time, "scratch"))
    decoded = {name for op in file.operators if op.code == DECODE_OPERATOR for name in op.outputs}
    tensors = [
        Buffer(
            name,
            _aligned(_size(file.tensors[name])),
            time,
            last.get(name, time),
            "decoded weights" if name in decoded else "activation",
        )
        for name, time in first.items()
    ]
    return tensors + scratch


def place(buffers: Sequence[Buffer]) -> tuple[Buffer, ...]:
    """Gives every buffer its offset, the largest first, in the order of time.

    >>> a, b, c = Buffer("a", 32, 0, 1), Buffer("b", 16, 1, 2), Buffer("c", 32, 2, 3)
    >>> [(buffer.name, buffer.offset) for buffer in place([a, b, c])]
    [('a', 0), ('b', 32), ('c', 0)]
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda each: -each.size):
        offset = 0
        for other in sorted(placed, key=lambda each: each.offset):
            if other.meets(buffer) and other.offset < offset + buffer.size:
                offset = max(offset, other.offset + other.size)
        placed.append(dataclasses.replace(buffer, offset=offset))
    return tuple(sorted(placed, key=lambda each: (each.first, each.last)))


def structure_bytes(file: FileModel) -> int:
    """What the interpreter keeps for tensors, operators and channels.

    Raises:
        ExportError: an operator of which that is not known.
    """
    total = _INTERPRETER + _TENSOR * len(file.tensors)
    total += _INPUT_OR_OUTPUT * (len(file.inputs) + len(file.outputs))
    for op in file.operators:
        kernel = micro_kernel(op.code)
        total += _OPERATOR + kernel.structure_bytes
        if kernel.channel_bytes:
            total += kernel.channel_bytes * file.tensors[op.inputs[1]].scale.size
    return total


def _weights(
    learned: IntegerGraph, stored: StoredGraph, file: FileModel
) -> tuple[WeightMemory, ...]:
    layers = [op for op in learned.ops if isinstance(op, ops.LinearOp)]
    return tuple(_weight_memory(op, stored, file) for op in layers)


def _weight_memory(op: ops.LinearOp, stored: StoredGraph, file: FileModel) -> WeightMemory:
    legal = stored.linear_op(op.output)
    weight = f"{legal.output}/weight"
    storage = stored.storage[legal.output]
    whole = stored_bytes(file, weight)
    table = stored_bytes(file, f"{weight}/tables") if storage == "lut" else 0
    return WeightMemory(
        name=op.output,
        bits=op.weight_bits,
        elements=op.weight.values.size,
        storage=storage,
        weight_bytes=whole - table,
        table_bytes=table,
        bias_bytes=stored_bytes(file, f"{legal.output}/bias"),
    )


def _size(tensor: FileTensor) -> int:
    return tensor.elements * _BYTES[tensor.dtype]


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _measured(data: bytes, file: FileModel) -> int | None:
    try:
        return measure_arena(data, file)
    except ImportError:
        return None
