"""Conv1D with a quantized kernel."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_qat.quantized_layers.conv2d import QuantizeConv2D


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeConv1D(QuantizeConv2D):
    """`y = conv(x, w_hat) + b`; kernel (steps, in / groups, out)."""

    def forward(self, x: Any, kernel: Any) -> Any:
        if not self._is_causal():
            return super().forward(x, kernel)
        return ops.conv(
            ops.pad(x, ((0, 0), (self.zeros_before(), 0), (0, 0))),
            kernel,
            strides=self.layer.strides,
            padding="valid",
            dilation_rate=self.layer.dilation_rate,
            data_format="channels_last",
        )

    def options(self) -> dict[str, Any]:
        options = super().options()
        return {**options, "padding": "valid"} if self._is_causal() else options

    def zeros_before(self) -> int:
        if not self._is_causal():
            return 0
        return int(self.layer.dilation_rate[0] * (self.layer.kernel_size[0] - 1))

    def _is_causal(self) -> bool:
        return bool(self.layer.padding == "causal")
