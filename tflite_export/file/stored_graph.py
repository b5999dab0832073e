"""`StoredGraph`: a legalized graph, and how its weights and tables lie in a file."""

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
        graph: its weights are the integers that kernels multiply with.
        storage: of the weights of linear ops, by their outputs; int8 for one that is not there.
        native: operators that compute a table on their own, by their outputs.
    """

    graph: IntegerGraph
    storage: Mapping[str, WeightStorage] = dataclasses.field(default_factory=dict)
    native: Mapping[str, FileOperator] = dataclasses.field(default_factory=dict)

    def linear_op(self, output: str) -> ops.LinearOp:
        """The op with weights that a learned op of that output became."""
        names = (output, convolution_of(output))
        linear = (op for op in self.graph.ops if isinstance(op, ops.LinearOp))
        (found,) = (op for op in linear if op.output in names)
        return found


def convolution_of(output: str) -> str:
    """The tensor that a Dense layer's convolution writes, before it gets the layer's shape."""
    return f"{output}/convolution"
