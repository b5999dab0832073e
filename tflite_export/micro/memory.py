"""`plan_memory`: the flash and RAM that a network needs on a microcontroller.

Flash holds the file. RAM holds the arena of TensorFlow Lite Micro (`tflite_export/arena`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_qat.integer import IntegerGraph, ops
from tflite_export.arena.placement import buffers_of, place, structure_bytes
from tflite_export.arena.preference import TABLE_CODE_BYTES, cost_of, preferred_storage
from tflite_export.file.file_model import FileModel, stored_bytes
from tflite_export.file.runtimes import measure_arena
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.file.writer import write_model
from tflite_export.graph_of import graph_of
from tflite_export.legal.legalize import legalize, with_channel_scales
from tflite_export.legal.storage import check_weight_storage
from tflite_export.micro.memory_plan import MemoryPlan, WeightMemory
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import REFERENCE, Target, target_with


def plan_memory(
    model: Any,
    weight_storage: str = "auto",
    compact: bool = True,
    kernels: str = REFERENCE,
    prefer: str = "flash",
) -> MemoryPlan:
    """Flash and RAM of a network in TensorFlow Lite Micro, trained or not.

    A model that still learns its bit widths is planned with its target widths.

    Args:
        model: an `IntegerGraph`, or a model with `to_integer()`, such as `keras_qat.quantize`
            returns.
        weight_storage: see `tflite_export.export`.
        compact: plan the file that `write_micro` writes by default; `False` for the default of
            `tflite_export.export`.
        kernels: whose kernels run the network: `"reference"`, `"cmsis-nn-m4"` (also for M7 and
            M33), `"cmsis-nn-m55"` (also for M85) or `"esp-nn"` (ESP32-S3). Kernels of vendors take
            more scratch. Its sizes are read from their sources and were not measured.
        prefer: see `tflite_export.export`.

    Raises:
        ExportError: TensorFlow Lite Micro cannot hold the graph.
        ValueError: an argument is wrong; the message names it.
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
    target = target_with("tflm", kernels)
    storage = check_weight_storage(weight_storage, target)
    graph = graph_of(model, planned=True)
    named: Mapping[str, str] = getattr(model, "kernel_layers", dict)()
    storages, costs = preferred_storage(graph, target, storage, prefer, compact=compact)
    stored = legalize(graph, target, storages)
    file = emit_model(stored, compact=compact)
    data = write_model(file)
    tables = "lut" in stored.storage.values()
    return MemoryPlan(
        weights=_weights(with_channel_scales(graph, target), stored, file, named),
        flash_bytes=len(data),
        buffers=place(buffers_of(file, kernels)),
        structure_bytes=structure_bytes(file),
        operators=tuple(f"{op.code} {op.outputs[0]}" for op in file.operators),
        measured_arena_bytes=_measured(data, file) if kernels == REFERENCE else None,
        kernels=kernels,
        table_code_bytes=TABLE_CODE_BYTES if tables else 0,
        as_int8=_as_int8(graph, target, compact) if tables and not costs else None,
        storage_costs=costs,
    )


def _as_int8(graph: IntegerGraph, target: Target, compact: bool) -> tuple[int, int]:
    """The bytes of flash and of arena with every weight in a byte."""
    stored = legalize(graph, target, "int8")
    cost = cost_of(stored, emit_model(stored, compact=compact), target)
    return cost.flash_bytes, cost.arena_bytes


def _weights(
    learned: IntegerGraph, stored: StoredGraph, file: FileModel, named: Mapping[str, str]
) -> tuple[WeightMemory, ...]:
    layers = [op for op in learned.ops if isinstance(op, ops.LinearOp)]
    return tuple(_weight_memory(op, stored, file, named.get(op.output, "")) for op in layers)


def _weight_memory(
    op: ops.LinearOp, stored: StoredGraph, file: FileModel, layer: str
) -> WeightMemory:
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
        layer=layer,
    )


def _measured(data: bytes, file: FileModel) -> int | None:
    try:
        return measure_arena(data, file)
    except ImportError:
        return None
