"""What a lower function is given: the graph under construction, and the place of the layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from keras_qat.errors import LoweringError
from keras_qat.integer import GraphBuilder, QuantParams, ops
from keras_qat.lowering.image import flat_name
from keras_qat.lowering.pending import Pending

Value = str | Pending


@dataclasses.dataclass(frozen=True)
class GraphInput:
    """A model input that no quantizer has read yet."""

    name: str
    shape: ops.Shape


@dataclasses.dataclass(frozen=True)
class LoweringContext:
    """The place where a layer is lowered.

    Attributes:
        builder: the integer graph so far.
        name: name of the tensor that this call of the layer yields.
        output_shape: shape of that tensor, without the batch.
    """

    builder: GraphBuilder
    name: str
    output_shape: ops.Shape

    def qparams(self, tensor: str) -> QuantParams:
        """The int8 grid of a tensor of the graph."""
        return self.builder.tensor(tensor).qparams

    def same_grid(self, op: ops.IntegerOp) -> str:
        """Appends an op whose output keeps the grid of its first input, and returns its name."""
        return self.builder.add(op, self.qparams(op.inputs[0]))

    def in_own_shape(self, make: Callable[[str], ops.IntegerOp]) -> str:
        """Appends `make(name)` on the grid of its input, and a RESHAPE if the shape differs."""
        op = make(self.name)
        shape = op.output_shape([self.builder.tensor(name).shape for name in op.inputs])
        if shape[1:] == self.output_shape:
            return self.same_grid(op)
        image = self.same_grid(make(flat_name(self.name)))
        return self.same_grid(ops.Reshape((image,), self.name, self.output_shape))


def integer_operand(value: Value | GraphInput, reader: str) -> str:
    """The operand as the name of an integer tensor.

    Raises:
        LoweringError: the operand is on no grid.
    """
    if not isinstance(value, str):
        raise LoweringError(
            f"Layer {reader!r} reads a tensor that is on no grid, so it has no integer form. Make "
            "the model with keras_qat.quantize, which puts a quantizer there."
        )
    return value
