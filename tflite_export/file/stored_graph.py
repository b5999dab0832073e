"""`StoredGraph`: a legalized graph, and how a file stores its weights and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from keras_qat.integer import IntegerGraph, ops
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.file.lookup_table import DECODE_OPERATOR

WeightStorage = Literal["int8", "int4", "int2", "lut"]
Storages = str | Mapping[str, WeightStorage]
"""One storage for all layers with weights, or one for each by its output."""


@dataclasses.dataclass(frozen=True, eq=False)
class StoredGraph:
    """A graph as a file states it.

    Attributes:
        graph: the graph, whose weights are the integers that kernels multiply with.
        storage: storage of a linear op's weights, by the op's output; int8 if it is not listed.
        native: operators that compute a lookup without its table, by the lookup's output.
    """

    graph: IntegerGraph
    storage: Mapping[str, WeightStorage] = dataclasses.field(default_factory=dict)
    native: Mapping[str, FileOperator] = dataclasses.field(default_factory=dict)

    def linear_op(self, output: str) -> ops.LinearOp:
        """The linear op that replaces the learned op of that output."""
        names = (output, convolution_of(output))
        linear = (op for op in self.graph.ops if isinstance(op, ops.LinearOp))
        (found,) = (op for op in linear if op.output in names)
        return found


def storages_of(file: FileModel, graph: IntegerGraph) -> dict[str, WeightStorage]:
    """The storage that a file has for the weights of each learned op, by the op's output."""
    writers = {name: op for op in file.operators for name in op.outputs}
    found: dict[str, WeightStorage] = {}
    for op in graph.ops:
        writer = writers.get(convolution_of(op.output), writers.get(op.output))
        if not isinstance(op, ops.LinearOp) or writer is None or len(writer.inputs) < 2:
            continue
        weight = writer.inputs[1]
        decoded = weight in writers and writers[weight].code == DECODE_OPERATOR
        dtype = file.tensors[weight].dtype if weight in file.tensors else ""
        packed: WeightStorage = "int4" if dtype == "int4" else "int2" if dtype == "int2" else "int8"
        found[op.output] = "lut" if decoded else packed
    return found


def convolution_of(output: str) -> str:
    """The tensor that a Dense layer's convolution writes, before it is reshaped."""
    return f"{output}/convolution"
