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
    """`y = x @ w_hat + b`; kernel (in, out).

    Args:
        layer, weight_quantizer, input_gain: see `QuantizeWrapper`.
        one_scale: whether all units have one weight scale in a file for TensorFlow Lite Micro, so
            that its kernel keeps no multiplier for each unit.

    Raises:
        ValueError: one scale, and a quantizer that learns one for each unit.
    """

    packed_in_litert = True

    def __init__(self, *args: Any, one_scale: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.one_scale = one_scale
        if one_scale and self.weight_quantizer.per_channel:
            raise ValueError(
                f"Layer {self.name!r}: one_scale=True needs a quantizer with one scale for the "
                f"kernel. Received: {self.weight_quantizer!r}. Give it per_channel=False. With "
                "per_tensor_dense=True, `quantize` asks a config's weight_quantizer(...) for that."
            )

    def forward(self, x: Any, kernel: Any) -> Any:
        return ops.matmul(x, kernel)

    def lower(self, tensor: str, source: int = 0) -> PendingLinear:
        return PendingLinear(
            (tensor,),
            op=FullyConnected,
            codes=self.weight_codes().T,
            channel_axis=0,
            one_scale=self.one_scale,
            **self.learned(source),
        )

    def get_config(self) -> dict[str, Any]:
        chosen = {"one_scale": True} if self.one_scale else {}
        return {**super().get_config(), **chosen}
