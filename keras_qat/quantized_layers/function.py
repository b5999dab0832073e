"""A function of one number that is made of raw operations, as an activation layer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.keras_graph import replay
from keras_qat.quantized_layers.pointwise import Pointwise
from keras_qat.tensors import Tensor


@keras.saving.register_keras_serializable(package="keras_qat")
class Function(keras.layers.Layer):
    """Any function of one number, as a graph of raw operations.

    Args:
        graph: a model of raw operations from one input to one output of its shape. Each operation
            computes element by element, and its other arguments are numbers.

    >>> x = keras.Input((2,))
    >>> clipped = Function(keras.Model(x, ops.clip(x, -1.0, 2.0)))
    >>> [float(y) for y in clipped(ops.array([[-3.0, 4.0]]))[0]]
    [-1.0, 2.0]
    """

    def __init__(self, graph: Any, **kwargs: Any):
        super().__init__(**kwargs)
        restored = keras.saving.deserialize_keras_object
        self.graph = restored(graph) if isinstance(graph, dict) else graph

    def call(self, inputs: Tensor) -> Tensor:
        # Not a call of the graph, which would round the inputs to its own dtype.
        (outputs,) = replay(
            self.graph, [inputs], lambda node, args, kwargs: node.operation(*args, **kwargs)
        )
        return outputs

    def get_config(self) -> dict[str, Any]:
        stated = keras.saving.serialize_keras_object(self.graph)
        return {**super().get_config(), "graph": stated}

    def signs(self) -> tuple[bool, bool]:
        """Whether values are negative somewhere, and whether they are for inputs that are not.

        Found at 8,000 inputs between -1e6 and 1e6, most of them near 0.
        """
        steps = np.concatenate([np.linspace(0.0, 16.0, 2001), np.geomspace(1e-6, 1e6, 2000)])
        positive, negative = (
            np.any(ops.convert_to_numpy(self.call(ops.convert_to_tensor(each, "float32"))) < 0)
            for each in (steps, -steps)
        )
        return bool(positive or negative), bool(positive)


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeFunction(Pointwise, Function):
    """A `Function` between grids: a table of 256 values in runtimes.

    In inference it is 0 where the function has no value, as the logarithm of a negative number.
    """

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        outputs = super().call(inputs, training=training)
        return outputs if training else ops.where(ops.isnan(outputs), 0.0, outputs)
