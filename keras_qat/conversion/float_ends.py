"""Finds the tensors of a quantized model in which a float part ends without a grid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from keras_qat.keras_graph import consumers, nodes
from keras_qat.keras_masks import data_inputs
from keras_qat.quantizers import Dequantize, Quantizer, SoftmaxRounding


def float_ends(model: keras.Model, raw: Iterable[Any]) -> set[int]:
    """The tensors, by `id(tensor)`, that are outputs of float parts and on no grid.

    These are the outputs of the model that are in float. A tensor that several parts would compute
    is one too: each layer is then in one part, and in a file once. A model whose outputs are all on
    grids has none.

    Args:
        model: a quantized model.
        raw: its inputs that no quantizer reads.
    """
    in_float = {id(tensor) for tensor in raw}
    calls = []
    for node in nodes(model):
        layer = node.operation
        on_grid = isinstance(layer, Quantizer | SoftmaxRounding)
        reads_float = any(id(tensor) in in_float for tensor in data_inputs(node))
        if isinstance(layer, Dequantize) or (reads_float and not on_grid):
            in_float.update(map(id, node.outputs))
        if reads_float and not on_grid:
            calls.append(node)
    if not any(id(tensor) in in_float for tensor in model.outputs):
        return set()
    readers = consumers(model)
    parts: dict[int, set[int]] = {}  # id of a tensor -> the ends of the parts that compute it
    ends = set()
    for node in reversed(calls):
        of_call: set[int] = set()
        for tensor in node.outputs:
            found = readers.get(id(tensor), [])
            into: set[int] = set()
            for reader in found:
                if reader is not None and isinstance(reader.operation, Quantizer):
                    into.add(id(tensor))
                elif reader is not None:
                    into |= parts.get(id(reader.outputs[0]), set())
            if None in found or len(into) > 1:
                ends.add(id(tensor))
                into = {id(tensor)}
            of_call |= into
        parts.update({id(tensor): of_call for tensor in node.outputs})
    return ends
