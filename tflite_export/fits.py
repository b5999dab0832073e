"""`fits`: whether a target can hold a network, before there is a file."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target


def fits(graph: IntegerGraph, target: str) -> None:
    """Does what `export` does to write a file, and forgets the file.

    `keras_qat.quantize(target=)` finds this function by its entry point.

    Raises:
        ExportError: the target cannot hold the graph; the message names the tensor.

    >>> import numpy as np
    >>> from keras_qat.integer import GraphBuilder, QuantParams, ops
    >>> builder = GraphBuilder()
    >>> x = builder.add_input("x", (1, 4), QuantParams(np.float32(0.1)))
    >>> fits(builder.build((builder.add(ops.Softmax((x,), "y"), ops.SOFTMAX_OUTPUT),)), "tflm")
    """
    chosen = get_target(target)
    write_model(emit_model(legalize(graph, chosen, "auto")))
