"""`IntegerGraph`: the learned integer network, for the interpreter, files and exporters alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer.op_checks import check_fields, check_input_features, check_shape
from keras_qat.integer.ops import FloatPart, IntegerOp, LinearOp, Lookup, Shape
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN, QuantParams


@dataclasses.dataclass(frozen=True)
class IntegerTensor:
    """An activation: its name, its shape (batch first, batch 1, NHWC) and its int8 grid.

    Attributes:
        dtype: `"int8"`. An input that only layers in float read has no grid: its dtype is
            `"float32"` or `"int32"`, and its `qparams` mean nothing. Nor have the output of a
            `FloatResult`, whose dtype is `"float32"`, and of an `ArgMax`, whose dtype is `"int32"`.
    """

    name: str
    shape: Shape
    qparams: QuantParams
    dtype: str = "int8"

    @property
    def on_grid(self) -> bool:
        """Whether the tensor holds integers of its grid."""
        return self.dtype == "int8"

    def quantize(self, values: npt.ArrayLike) -> npt.NDArray[Any]:
        """Real numbers in the form that this tensor holds: codes, or the numbers themselves."""
        held = self.qparams.quantize(values) if self.on_grid else np.asarray(values)
        return held.astype(self.dtype)

    def dequantize(self, held: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The real numbers that the values of this tensor stand for."""
        return self.qparams.dequantize(held) if self.on_grid else held


NO_GRID = QuantParams(np.array(1.0, np.float32))
"""What stands for the grid of a tensor that has none."""


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerGraph:
    """A network of integer ops in topological order. Every tensor is written once.

    Attributes:
        tensors: every activation by name, graph inputs included.
        ops: the ops in the order they run.
        inputs: names of the tensors that a caller provides.
        outputs: names of the tensors that a caller gets.

    Example:

    >>> import numpy as np
    >>> from keras_qat.integer import ops
    >>> builder = GraphBuilder()
    >>> x = builder.add_input("x", (1, 4), QuantParams(np.float32(0.1)))
    >>> y = builder.add(ops.Maximum(inputs=(x,), output="y", bound=0), QuantParams(np.float32(0.1)))
    >>> graph = builder.build(outputs=(y,))
    >>> [op.output for op in graph.ops]
    ['y']
    """

    tensors: Mapping[str, IntegerTensor]
    ops: tuple[IntegerOp, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def validate(self) -> IntegerGraph:
        """Checks the graph and returns it.

        Raises:
            ValueError: a tensor is read before it is written, is written twice, has another shape
                than its op yields, has a size below 1, or does not fit in int8. Also: a field of an
                op has another type or is out of its range, weights do not fit their input, an
                accumulator can leave int32, a table leaves the grid of its tensor, or an integer op
                reads a tensor on no grid.
        """
        for tensor in self.tensors.values():
            check_shape(f"Tensor {tensor.name!r}", tensor.shape)
        written = set(self.inputs)
        if len(written) < len(self.inputs) or not written <= self.tensors.keys():
            raise ValueError(f"Inputs must be tensors, each once. Received: {self.inputs}")
        for op in self.ops:
            check_fields(op)
            for name in (*op.inputs, op.output):
                if name not in self.tensors:
                    raise ValueError(f"Op {op.output!r} names {name!r}, which is no tensor.")
            for name in op.inputs:
                if name not in written:
                    raise ValueError(f"Op {op.output!r} reads {name!r}, which nothing wrote yet.")
            if op.output in written:
                raise ValueError(f"Tensor {op.output!r} is written twice.")
            written.add(op.output)
            self._check_grids(op)
            self._check_shape(op)
            self._check_accumulator(op)
            if isinstance(op, Lookup):
                op.check_table(self.tensors[op.output].qparams)
        for name in self.outputs:
            if name not in written:
                raise ValueError(f"Graph output {name!r} is never written.")
        for tensor in self.tensors.values():
            if tensor.qparams.qmin < INT8_MIN or tensor.qparams.qmax > INT8_MAX:
                raise ValueError(
                    f"Tensor {tensor.name!r} does not fit in int8. Received: {tensor.qparams}"
                )
        return self

    def with_op_replaced(
        self, op: IntegerOp, by: Sequence[IntegerOp], between: Sequence[IntegerTensor]
    ) -> IntegerGraph:
        """The graph with several ops instead of one.

        Args:
            op: an op of this graph.
            by: the ops that compute the same output, in order.
            between: the tensors that these ops add.
        """
        position = self.ops.index(op)
        changed = (*self.ops[:position], *by, *self.ops[position + 1 :])
        tensors = {**self.tensors, **{tensor.name: tensor for tensor in between}}
        return dataclasses.replace(self, tensors=tensors, ops=changed).validate()

    def _check_grids(self, op: IntegerOp) -> None:
        off = [name for name in op.inputs if not self.tensors[name].on_grid]
        if off and not isinstance(op, FloatPart):
            raise ValueError(
                f"Op {op.output!r} ({type(op).__name__}) needs int8 tensors. Received: {off}"
            )
        if self.tensors[op.output].dtype != op.output_dtype:
            raise ValueError(
                f"Op {op.output!r} ({type(op).__name__}) yields {op.output_dtype}. Received: a "
                f"tensor of {self.tensors[op.output].dtype}"
            )

    def _check_shape(self, op: IntegerOp) -> None:
        shapes = [self.tensors[name].shape for name in op.inputs]
        check_input_features(op, shapes)
        expected = op.output_shape(shapes)
        stated = self.tensors[op.output].shape
        if expected != stated:
            raise ValueError(
                f"Tensor {op.output!r} states shape {stated}, but its op yields {expected}."
            )

    def _check_accumulator(self, op: IntegerOp) -> None:
        if isinstance(op, LinearOp):
            bound = op.accumulator_bound(self.tensors[op.inputs[0]].qparams)
            if bound >= 1 << 31:
                raise ValueError(
                    f"Op {op.output!r}: its accumulator can reach {bound}, beyond int32."
                )


class GraphBuilder:
    """Builds an `IntegerGraph` op by op, and infers the shapes."""

    def __init__(self) -> None:
        self._tensors: dict[str, IntegerTensor] = {}
        self._ops: list[IntegerOp] = []
        self._inputs: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> IntegerTensor:
        """The tensor with this name."""
        return self._tensors[name]

    def add_input(self, name: str, shape: Shape, qparams: QuantParams, dtype: str = "int8") -> str:
        """Declares a graph input and returns its name."""
        self._tensors[name] = IntegerTensor(name, shape, qparams, dtype)
        self._inputs.append(name)
        return name

    def add(self, op: IntegerOp, qparams: QuantParams) -> str:
        """Appends an op whose output is on the grid `qparams`, and returns the output's name.

        The output of a `FloatResult` is on no grid: its `qparams` mean nothing.
        """
        shape = op.output_shape([self._tensors[name].shape for name in op.inputs])
        self._tensors[op.output] = IntegerTensor(op.output, shape, qparams, op.output_dtype)
        self._ops.append(op)
        return op.output

    def build(self, outputs: Sequence[str]) -> IntegerGraph:
        """The finished, validated graph."""
        graph = IntegerGraph(
            dict(self._tensors), tuple(self._ops), tuple(self._inputs), tuple(outputs)
        )
        return graph.validate()
