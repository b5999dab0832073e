"""Pass: a BatchNormalization joins the kernel of the Dense layer before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.copying import copy_of
from keras_qat.keras_graph import GraphNode, consumers, nodes, rebuild
from keras_qat.lowering.affine import wide_inference_affine
from keras_qat.quantization.passes.layer_copies import LayerCopies, StaysFloat, float_copy_of
from keras_qat.wide_numbers import in_wide_numbers


def fold_normalization(
    model: keras.Model, wanted: Callable[[str, str], bool], stays_float: StaysFloat
) -> keras.Model:
    """An equal model in which some Dense layers hold the BatchNormalization behind them.

    With the gain `g` and the offset `o` of each unit in inference, the kernel becomes `W * g` and
    the bias `b * g + o`, in float64 and then rounded to float32. A BatchNormalization is folded if
    it is called once, alone reads a Dense layer that is called once, and neither stays in float. No
    regularizer or constraint may hold for either, because it would hold for other weights then, and
    both must train, or neither.

    Args:
        model: a model of layers, weight layers linear.
        wanted: tells for the names of a Dense layer and of the BatchNormalization behind it
            whether to fold.
        stays_float: tells for a layer name whether the layer is left in float.
    """
    folded = _pairs(model, wanted, stays_float)
    if not folded:
        return model
    copies = LayerCopies()
    behind = {id(normalization) for normalization, _ in folded.values()}

    def call(node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = node.operation
        if id(layer) in behind:
            return args[0]
        if id(layer) in folded:
            _, dense = folded[id(layer)]
            return dense(*args, **kwargs)
        return copies.of(layer, float_copy_of if stays_float(layer.name) else None)(*args, **kwargs)

    result = rebuild(model, call)
    copies.copy_weights()
    for node in nodes(model):
        if id(node.operation) in folded:
            normalization, dense = folded[id(node.operation)]
            dense.set_weights(_folded_weights(node.operation, normalization))
    return result


def _pairs(
    model: keras.Model, wanted: Callable[[str, str], bool], stays_float: StaysFloat
) -> dict[int, tuple[Any, Any]]:
    """The BatchNormalization behind each Dense layer that gets it, and the layer's copy."""
    calls, readers = list(nodes(model)), consumers(model)
    counts = Counter(id(node.operation) for node in calls)

    def is_free(layer: Any, kind: Any) -> bool:
        return type(layer) is kind and counts[id(layer)] == 1 and not stays_float(layer.name)

    found: dict[int, tuple[Any, Any]] = {}
    for node in calls:
        dense = node.operation
        if not is_free(dense, keras.layers.Dense) or _is_bound(dense):
            continue
        reading = readers.get(id(node.outputs[0]), [])
        reader: Any = reading[0].operation if len(reading) == 1 and reading[0] else None
        free = is_free(reader, keras.layers.BatchNormalization) and not _is_bound(reader)
        alike = free and reader.trainable == dense.trainable
        if alike and wanted(dense.name, reader.name):
            found[id(dense)] = reader, copy_of(dense, use_bias=True)
    return found


def _is_bound(layer: Any) -> bool:
    """Whether a regularizer or a constraint holds for the layer's weights or outputs."""
    kinds = ("regularizer", "constraint")
    return any(value is not None and name.endswith(kinds) for name, value in vars(layer).items())


@in_wide_numbers
def _folded_weights(dense: Any, normalization: Any) -> list[np.ndarray]:
    gain, offset = map(ops.convert_to_numpy, wide_inference_affine(normalization))
    kernel = ops.convert_to_numpy(dense.kernel).astype(np.float64) * gain
    bias = ops.convert_to_numpy(dense.bias).astype(np.float64) if dense.use_bias else 0.0
    return [kernel.astype(np.float32), (bias * gain + offset).astype(np.float32)]
