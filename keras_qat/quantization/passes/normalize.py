"""Pass: the last changes of a float model before its grids are planned, in one rebuild.

`to_layers` runs before it, and turns raw operations into layers.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.keras_graph import GraphNode
from keras_qat.layer_rules.restrictions import MERGES
from keras_qat.quantization.passes.decompose_separable import DECOMPOSE
from keras_qat.quantization.passes.layer_copies import StaysFloat
from keras_qat.quantization.passes.pair_merges import Pairing, has_merges_to_pair
from keras_qat.quantization.passes.rewriting import Rewriting
from keras_qat.quantization.passes.split_activations import SPLIT


def normalize(model: keras.Model, stays_float: StaysFloat) -> tuple[keras.Model, dict[str, str]]:
    """An equal model with linear weight layers and merges of two tensors.

    `split_activations`, `decompose_separable` and `pair_merges` describe the changes. Layers that
    stay in float do not change.

    Args:
        model: a model of layers.
        stays_float: tells for a layer name whether the layer is left in float.

    Returns:
        The model, and for each part of a layer that was taken apart, the name of that layer. A
        model with nothing to change is returned itself.
    """
    rewriting = Rewriting(model, [DECOMPOSE, SPLIT], stays_float)
    pairing = Pairing(rewriting.copies, rewriting.names)
    if not (rewriting.applies() or has_merges_to_pair(model, stays_float)):
        return model, {}

    def call(node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if type(node.operation) in MERGES and not stays_float(node.operation.name):
            return pairing.call(node.operation, args[0])
        return rewriting.call(node, args, kwargs)

    return rewriting.rebuilt(call), rewriting.names.origins
