"""`MemoryPlan`: the flash and the RAM that a network needs, as data, text and JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_qat.integer.tables import Table, html_lines
from tflite_export.arena.placement import Buffer
from tflite_export.arena.preference import StorageCost, costs_in_words
from tflite_export.text_table import fitted_lines, text_table


@dataclasses.dataclass(frozen=True)
class WeightMemory:
    """The flash that one layer takes.

    Attributes:
        name: the layer's output tensor.
        bits: bits of the learned grid.
        elements: number of weights.
        storage: how the file stores the weights: `"int8"`, `"int4"` or `"lut"`.
        weight_bytes: bytes of the weights, or of the indices into a lookup table.
        table_bytes: bytes of the lookup table.
        bias_bytes: bytes of the bias.
        layer: the layer that has the weights, by its name in the model; empty if that is not known.
    """

    name: str
    bits: int
    elements: int
    storage: str
    weight_bytes: int
    table_bytes: int
    bias_bytes: int
    layer: str = ""

    @property
    def title(self) -> str:
        """What people call it: its layer, else its tensor."""
        return self.layer or self.name


@dataclasses.dataclass(frozen=True)
class MemoryPlan(Table):
    """The flash and the RAM that a network needs.

    A notebook shows the totals and a row for each layer with weights. `to_dataframe()`,
    `to_csv(path)` and `to_latex(path)` give these rows.

    Attributes:
        weights: flash of each layer with weights.
        flash_bytes: size of the file.
        buffers: activations, decoded weights and scratch, at their places in the arena.
        structure_bytes: bytes of the interpreter's own structures.
        operators: the operators in order. The times of buffers are indices into them.
        measured_arena_bytes: bytes of the arena that TensorFlow Lite Micro took on this machine;
            `None` if it is not installed, and for the kernels of a vendor.
        kernels: whose kernels run the network.
        table_code_bytes: about how much code reads lookup tables of weights, once for all layers;
            0 without one.
        as_int8: the bytes of flash and of arena without lookup tables; `None` if there is none, or
            if `storage_costs` tell.
        storage_costs: what each `prefer` would cost; empty where there was nothing to choose.
    """

    weights: tuple[WeightMemory, ...]
    flash_bytes: int
    buffers: tuple[Buffer, ...]
    structure_bytes: int
    operators: tuple[str, ...]
    measured_arena_bytes: int | None
    kernels: str = "reference"
    table_code_bytes: int = 0
    as_int8: tuple[int, int] | None = None
    storage_costs: Mapping[str, StorageCost] = dataclasses.field(default_factory=dict)

    @property
    def overhead_bytes(self) -> int:
        """Flash that holds no weight, table or bias: tensors, operators, scales, names."""
        data = sum(w.weight_bytes + w.table_bytes + w.bias_bytes for w in self.weights)
        return self.flash_bytes - data

    @property
    def floor_bytes(self) -> int:
        """`sum(weights * bits) / 8`: the least that a storage of whole codes can take."""
        return -(-sum(weight.elements * weight.bits for weight in self.weights) // 8)

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the arena that buffers take."""
        return max((buffer.offset + buffer.size for buffer in self.buffers), default=0)

    @property
    def arena_bytes(self) -> int:
        """Estimated bytes of the whole arena."""
        return self.buffer_bytes + self.structure_bytes

    @property
    def peak(self) -> int:
        """Index of the operator during which most bytes are in use."""
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

    def __str__(self) -> str:
        return self.render()

    def render(self) -> str:
        """The plan as plain text with tables, no wider than the terminal."""
        alive = [(buffer.name, f"{buffer.size:,}") for buffer in self.alive(self.peak)]
        lines = [
            *text_table(self.table_head, self.table_rows),
            self._flash(),
            "",
            *text_table((f"in use during {self.operators[self.peak]}", "bytes"), alive),
            *self._ram(),
            *self._tables(),
        ]
        return "\n".join(fitted_lines(lines))

    @property
    def table_head(self) -> tuple[str, ...]:
        """The columns: a row for each layer with weights."""
        return ("weights of", "bits", "weights", "storage", "bytes", "table", "bias")

    @property
    def table_rows(self) -> list[tuple[Any, ...]]:
        """A row for each layer with weights."""
        return [
            (w.title, w.bits, w.elements, w.storage, w.weight_bytes, w.table_bytes, w.bias_bytes)
            for w in self.weights
        ]

    def _repr_html_(self) -> str:
        """What a notebook shows: the rows, and the totals."""
        return self.html_table() + html_lines([self._flash(), *self._ram(), *self._tables()])

    def _flash(self) -> str:
        return (
            f"Flash: {self.flash_bytes:,} bytes, {self.overhead_bytes:,} of them around the "
            f"data. Weights times bits would be {self.floor_bytes:,}."
        )

    def _ram(self) -> list[str]:
        return [
            f"RAM: {self.arena_bytes:,} bytes of arena, {self.buffer_bytes:,} for buffers and "
            f"{self.structure_bytes:,} for the interpreter's structures.",
            self._measured(),
        ]

    def _tables(self) -> list[str]:
        """What other storages cost, with the code that reads lookup tables."""
        if self.as_int8 is None:
            return costs_in_words(self.storage_costs)
        flash, arena = self.as_int8
        more = flash - self.flash_bytes - self.table_code_bytes
        compared = f"{abs(more):,} bytes {'more' if more >= 0 else 'less'} flash in all"
        return [
            f"Lookup tables need about {self.table_code_bytes:,} bytes of code, once. As int8 the "
            f"file has {flash:,} bytes and needs no such code: {compared}, and {arena:,} bytes of "
            "arena."
        ]

    def _measured(self) -> str:
        if self.kernels != "reference":
            return f"Scratch as {self.kernels} states it in its sources; not measured."
        if self.measured_arena_bytes is None:
            return (
                'Not measured, as TensorFlow Lite Micro is missing: pip install "keras_qat[tflm]".'
            )
        return f"TensorFlow Lite Micro took {self.measured_arena_bytes:,} bytes here."
