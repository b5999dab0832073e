"""`StoredGraph`: a legalized graph, and how a file stores its weights and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from keras_qat.integer import IntegerGraph, ops
from tflite_export.file.file_model import FileOperator

WeightStorage = Literal["int8", "int4", "lut"]


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


def convolution_of(output: str) -> str:
    """The tensor that a Dense layer's convolution writes, before it is reshaped."""
    return f"{output}/convolution"
