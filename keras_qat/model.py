"""`QuantizedModel`: an ordinary Keras model that can state its integers."""

from __future__ import annotations

import weakref
from typing import Any

import keras
import numpy as np

from keras_qat.conversion import placed_codes, quantized_tensors, to_integer
from keras_qat.integer import IntegerGraph
from keras_qat.keras_graph import nodes
from keras_qat.linking import link_neighbours
from keras_qat.quantizers import Quantizer
from keras_qat.wrappers import QuantizeWrapper

_PROBES: weakref.WeakKeyDictionary[keras.Model, keras.Model] = weakref.WeakKeyDictionary()
"""Compiled once for each model; kept out of the models, which would save them."""


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizedModel(keras.Model):
    """What `quantize` returns: trains, saves and loads like any Functional model.

    Its float32 latent weights are what trains and what a `.keras` file keeps; `to_integer` gives
    the integers that deploy.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        link_neighbours(self)

    @property
    def quantizers(self) -> list[Quantizer]:
        """Every quantizer, those of weights included, in the order of the graph."""
        found: dict[int, Quantizer] = {}
        for node in nodes(self):
            layer = node.operation
            quantizer = layer.weight_quantizer if isinstance(layer, QuantizeWrapper) else layer
            if isinstance(quantizer, Quantizer):
                found[id(quantizer)] = quantizer
        return list(found.values())

    def to_integer(self) -> IntegerGraph:
        """The learned integer network.

        Raises:
            LoweringError: a part of the model is float, or has no exact integer form.
        """
        return to_integer(self)

    def layer_codes(self, x: Any, batch_size: int = 64) -> dict[str, np.ndarray]:
        """This model's own integers for float inputs, in inference mode.

        Args:
            x: inputs as for `predict`.
            batch_size: as for `predict`.

        Returns:
            int8 arrays by tensor name of the integer graph: every input, and every tensor that
            a quantizer yields.
        """
        sites = quantized_tensors(self)
        if self not in _PROBES:
            outputs = {name: site.tensor for name, site in sites.items()}
            _PROBES[self] = keras.Model(self.inputs, outputs)
        values = _PROBES[self].predict(x, batch_size=batch_size, verbose=0)
        return {name: placed_codes(values[name], site.quantizer) for name, site in sites.items()}
