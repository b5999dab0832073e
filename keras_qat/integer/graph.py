"""`IntegerGraph`: the learned integer network, stated once for interpreter, files and exporters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from keras_qat.integer.ops import IntegerOp, LinearOp, Lookup, Shape
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN, QuantParams


@dataclasses.dataclass(frozen=True)
class IntegerTensor:
    """An activation: its name, its shape (batch first, batch 1, NHWC) and its int8 grid."""

    name: str
    shape: Shape
    qparams: QuantParams


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerGraph:
    """A network of integer ops in topological order; every tensor is written once.

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
        """Checks the graph's laws and returns the graph.

        Raises:
            ValueError: a tensor that is read before it is written, written twice, of another
                shape than its op yields, or outside int8; an accumulator beyond int32; a table
                that leaves the grid of its tensor.
        """
        written = set(self.inputs)
        for op in self.ops:
            for name in op.inputs:
                if name not in written:
                    raise ValueError(f"Op {op.output!r} reads {name!r}, which nothing wrote yet.")
            if op.output in written:
                raise ValueError(f"Tensor {op.output!r} is written twice.")
            written.add(op.output)
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

    def _check_shape(self, op: IntegerOp) -> None:
        expected = op.output_shape([self.tensors[name].shape for name in op.inputs])
        stated = self.tensors[op.output].shape
        if expected != stated:
            raise ValueError(
                f"Tensor {op.output!r} states shape {stated}; its op yields {expected}."
            )

    def _check_accumulator(self, op: IntegerOp) -> None:
        if isinstance(op, LinearOp):
            bound = op.accumulator_bound(self.tensors[op.inputs[0]].qparams)
            if bound >= 1 << 31:
                raise ValueError(f"The accumulator of {op.output!r} can reach {bound}: over int32.")


class GraphBuilder:
    """Grows an `IntegerGraph` op by op; shapes are inferred."""

    def __init__(self) -> None:
        self._tensors: dict[str, IntegerTensor] = {}
        self._ops: list[IntegerOp] = []
        self._inputs: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> IntegerTensor:
        """The tensor of that name."""
        return self._tensors[name]

    def add_input(self, name: str, shape: Shape, qparams: QuantParams) -> str:
        """Declares a graph input and returns its name."""
        self._tensors[name] = IntegerTensor(name, shape, qparams)
        self._inputs.append(name)
        return name

    def add(self, op: IntegerOp, qparams: QuantParams) -> str:
        """Appends an op whose output has that grid and returns the output's name."""
        shape = op.output_shape([self._tensors[name].shape for name in op.inputs])
        self._tensors[op.output] = IntegerTensor(op.output, shape, qparams)
        self._ops.append(op)
        return op.output

    def build(self, outputs: Sequence[str]) -> IntegerGraph:
        """The finished, validated graph."""
        graph = IntegerGraph(
            dict(self._tensors), tuple(self._ops), tuple(self._inputs), tuple(outputs)
        )
        return graph.validate()
