"""Dense with a quantized kernel."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_qat.integer.ops import FullyConnected
from keras_qat.lowering.pending import PendingLinear
from keras_qat.quantized_layers.quantize_wrapper import QuantizeWrapper


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeDense(QuantizeWrapper):
    """`y = x @ w_hat + b`; kernel (in, out)."""

    packed_in_litert = True

    def forward(self, x: Any, kernel: Any) -> Any:
        return ops.matmul(x, kernel)

    def lower(self, tensor: str, source: int = 0) -> PendingLinear:
        return PendingLinear(
            (tensor,),
            op=FullyConnected,
            codes=self.weight_codes().T,
            channel_axis=0,
            **self.learned(source),
        )
