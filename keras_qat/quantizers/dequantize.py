"""`Dequantize`: marks where a tensor leaves its grid for layers that stay in float."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_qat")
class Dequantize(keras.layers.Layer):
    """The identity: the layers behind it, up to the next quantizer, compute in float.

    Forward: `y = x`, a tensor on the grid of the quantizer before it. Gradient: `dx = dy`. In a
    file it is a DEQUANTIZE operator.

    >>> [float(y) for y in Dequantize()(keras.ops.array([0.5, -1.0]))]
    [0.5, -1.0]
    """

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.supports_masking = True
        self.built = True

    def call(self, x: Any) -> Any:
        return x
