"""`LearnedScale`: a calibrated scale times a trained ratio."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_qat.quantizers.constraints import AtLeast
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.quantizer import Quantizer

_SMALLEST_RATIO = 2.0**-10


class LearnedScale(Quantizer):
    """Mixin for quantizers whose scale is `calibrated_scale * scale_ratio`.

    `calibrated_scale` is a constant. `scale_ratio` is trained and starts at 1. An optimizer with
    steps of fixed size, like Adam, thus moves small and large scales at the same relative pace. A
    constraint keeps the ratio at `2**-10` or more.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.scale_ratio = self.add_weight(
            name="scale_ratio",
            shape=self.calibrated_scale.shape,
            initializer="ones",
            constraint=AtLeast(_SMALLEST_RATIO),
            autocast=False,
        )

    @property
    def scale(self) -> Any:
        return as_tensor(self.calibrated_scale) * as_tensor(self.scale_ratio)

    def set_scale(self, scale: Any) -> None:
        super().set_scale(scale)
        self.scale_ratio.assign(ops.ones(self.scale_ratio.shape))
