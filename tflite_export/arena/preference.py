"""What `weight_storage="auto"` takes: the least flash, the least RAM, or the least of both.

Tables and INT4 save flash, but weights are unpacked into the arena while their layer runs. Tables
also need the code that reads them, once. A layer in int8 needs neither.

The search has two steps. Each layer's storage is kept where the arena, with its weights unpacked,
stays below a limit; every limit at which something changes is tried, with and without tables, and
flash and arena are estimated. Then the best of these are written, and the bytes decide.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from keras_qat.integer import IntegerGraph, ops
from tflite_export.arena.placement import buffer_bytes, buffers_of, place, structure_bytes
from tflite_export.file.file_model import FileModel, IoDtype
from tflite_export.file.stored_graph import Storages, StoredGraph, WeightStorage
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.legal.storage import file_bytes
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import Target

TABLE_CODE_BYTES = 22_000
"""Bytes of code of the operator TFLM_DECODE, measured on a Cortex-M3 with GCC 12.2."""


@dataclasses.dataclass(frozen=True)
class StorageCost:
    """What a file costs a microcontroller.

    Attributes:
        flash_bytes: bytes of the file, without metadata.
        code_bytes: bytes of the code that reads lookup tables of weights; 0 without one.
        arena_bytes: estimated bytes of the arena.
    """

    flash_bytes: int
    code_bytes: int
    arena_bytes: int

    @property
    def flash_with_code(self) -> int:
        """The bytes of flash, the code that reads tables included."""
        return self.flash_bytes + self.code_bytes

    def __str__(self) -> str:
        code = f" and {self.code_bytes:,} of code that reads tables" if self.code_bytes else ""
        return f"{self.flash_bytes:,} bytes of flash{code}, {self.arena_bytes:,} of arena"


_ORDERS: dict[str, Callable[[StorageCost], tuple[int, int]]] = {
    "flash": lambda cost: (cost.flash_with_code, cost.arena_bytes),
    "ram": lambda cost: (cost.arena_bytes, cost.flash_with_code),
    "balanced": lambda cost: (cost.flash_with_code + cost.arena_bytes, cost.flash_with_code),
}
PREFERENCES = tuple(_ORDERS)
"""What a user may prefer; the first is the default."""


def costs_in_words(costs: Mapping[str, StorageCost]) -> list[str]:
    """A line for each preference, if they differ."""
    if len(set(costs.values())) < 2:
        return []
    return [f"prefer={name!r}: {cost}." for name, cost in costs.items()]


_ByLayer = Mapping[str, WeightStorage]
_Choice = tuple[_ByLayer, StorageCost]
"""The storage of every layer by its output, and what it costs."""


def check_prefer(prefer: str, weight_storage: str, target: Target) -> None:
    """Raises a `ValueError` if the name is unknown, or if nothing is there to choose."""
    if prefer not in PREFERENCES:
        raise ValueError(f"prefer must be one of {PREFERENCES}. Received: {prefer!r}")
    if prefer == PREFERENCES[0]:
        return
    if weight_storage != "auto":
        raise ValueError(
            "prefer chooses what weight_storage='auto' takes. Leave out one of the two. Received: "
            f"prefer={prefer!r}, weight_storage={weight_storage!r}"
        )
    if len(target.auto_storages) == 1:
        raise ValueError(
            f"For target {target.name!r}, weight_storage='auto' is {target.auto_storages[0]!r}. "
            f"There is nothing to prefer; leave prefer out. Received: prefer={prefer!r}"
        )


def preferred_storage(
    graph: IntegerGraph,
    target: Target,
    weight_storage: str,
    prefer: str,
    dtypes: Mapping[str, IoDtype] = MappingProxyType({}),
    compact: bool = False,
) -> tuple[Storages, Mapping[str, StorageCost]]:
    """The storage of every layer's weights, and what each preference would cost.

    Args:
        graph: the learned graph.
        target, weight_storage, prefer, compact: see `tflite_export.export`.
        dtypes: the dtypes of inputs and outputs by name.

    Returns:
        What `legalize` takes, and the costs by preference. Costs are empty where a storage is
        given or none but int8 fits.

    Raises:
        ExportError: the target cannot hold the graph; the message names the tensor.
        ValueError: see `check_prefer`.
    """
    check_prefer(prefer, weight_storage, target)
    if weight_storage != "auto" or len(target.auto_storages) == 1:
        return weight_storage, {}

    def emitted(storage: Storages, target: Target = target) -> tuple[StoredGraph, FileModel]:
        stored = legalize(graph, target, storage)
        return stored, emit_model(stored, dtypes, compact)

    smallest = emitted("auto")
    if set(smallest[0].storage.values()) <= {"int8"}:
        return _by_layer(graph, smallest[0]), {}
    plain = emitted("int8")
    estimated = _estimated(graph, target, plain, (smallest, emitted("auto", _tableless(target))))
    found: list[_ByLayer] = [_by_layer(graph, plain[0])]
    found += [_least(order, estimated)[0] for order in _ORDERS.values()]
    written = [(storage, cost_of(*emitted(storage), target)) for storage in _once(found)]
    chosen = {name: _least(order, written) for name, order in _ORDERS.items()}
    return chosen[prefer][0], {name: cost for name, (_, cost) in chosen.items()}


def _least(order: Callable[[StorageCost], tuple[int, int]], choices: Iterable[_Choice]) -> _Choice:
    return min(choices, key=lambda choice: order(choice[1]))


def _tableless(target: Target) -> Target:
    stored = tuple(each for each in target.auto_storages if each != "lut")
    return dataclasses.replace(target, auto_storages=stored)


def _by_layer(graph: IntegerGraph, stored: StoredGraph) -> dict[str, WeightStorage]:
    """The storages by the outputs of the learned ops."""
    linear = [op.output for op in graph.ops if isinstance(op, ops.LinearOp)]
    return {name: stored.storage[stored.linear_op(name).output] for name in linear}


def _once(storages: Iterable[_ByLayer]) -> list[_ByLayer]:
    return list({tuple(each.values()): each for each in storages}.values())


def cost_of(stored: StoredGraph, file: FileModel, target: Target) -> StorageCost:
    """What a file costs with the kernels of a target."""
    arena = buffer_bytes(place(buffers_of(file, target.kernels))) + structure_bytes(file)
    code = TABLE_CODE_BYTES if "lut" in stored.storage.values() else 0
    return StorageCost(len(write_model(file)), code, arena)


def _estimated(
    graph: IntegerGraph,
    target: Target,
    plain: tuple[StoredGraph, FileModel],
    smaller: Iterable[tuple[StoredGraph, FileModel]],
) -> list[_Choice]:
    """Choices with estimated costs: the flash beyond int8, and the largest sum of buffers."""
    in_int8 = _by_layer(graph, plain[0])
    lowest = max(_in_use(plain[1], target))
    found: list[_Choice] = []
    for stored, file in smaller:
        wanted, in_use = _by_layer(graph, stored), _in_use(file, target)
        times = {op.outputs[0]: time for time, op in enumerate(file.operators)}
        need = {
            name: in_use[times[stored.linear_op(name).output]]
            for name, storage in wanted.items()
            if storage != "int8"
        }
        saved = {name: _saved(stored, name, wanted[name]) for name in need}
        for limit in sorted({lowest, *(each for each in need.values() if each > lowest)}):
            kept = {name: wanted[name] for name in need if need[name] <= limit}
            code = TABLE_CODE_BYTES if "lut" in kept.values() else 0
            cost = StorageCost(-sum(saved[name] for name in kept), code, limit)
            found.append(({**in_int8, **kept}, cost))
    return found


def _saved(stored: StoredGraph, name: str, storage: WeightStorage) -> int:
    op = stored.linear_op(name)
    return file_bytes(op, "int8") - file_bytes(op, storage)


def _in_use(file: FileModel, target: Target) -> list[int]:
    """The bytes of buffers in use during each operator."""
    change = [0] * (len(file.operators) + 1)
    for buffer in buffers_of(file, target.kernels):
        change[buffer.first] += buffer.size
        change[buffer.last + 1] -= buffer.size
    return list(itertools.accumulate(change[:-1]))
