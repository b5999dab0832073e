"""The base of the wrappers of windowed layers: a kernel slides over one axis or two."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from keras_qat.integer.ops import LinearOp
from keras_qat.lowering.image import over_image
from keras_qat.lowering.pending import Pending, PendingLinear
from keras_qat.lowering.pending_row import PendingRow
from keras_qat.quantized_layers.quantize_wrapper import QuantizeWrapper


class QuantizeWindow(QuantizeWrapper):
    """Base of the wrappers of windowed layers. In integers, all of them slide over an image.

    A subclass defines the integer op (`integer_op`) and the layout of its codes (`image_codes`).
    """

    integer_op: ClassVar[type[LinearOp]]

    def lower(self, tensor: str, source: int = 0) -> Pending:
        codes = self.weight_codes()
        over_sequence = len(self.layer.kernel_size) == 1
        window = self.pending(
            sources=(tensor,),
            op=self.integer_op,
            codes=self.image_codes(codes[None] if over_sequence else codes),
            channel_axis=self.integer_op.channel_axis,
            options=self.options(),
            **self.learned(source),
        )
        if not over_sequence:
            return window
        return PendingRow((tensor,), inner=window, zeros_before=self.zeros_before())

    def pending(self, **fields: Any) -> PendingLinear:
        """The pending op over an image, with these fields."""
        return PendingLinear(**fields)

    def options(self) -> dict[str, Any]:
        """The fields of the integer op besides its weights and bias."""
        return {
            "strides": over_image(self.layer.strides),
            "padding": self.layer.padding,
            "dilation": over_image(self.layer.dilation_rate),
        }

    def zeros_before(self) -> int:
        """The number of zeros padded before a sequence, instead of any other padding."""
        return 0

    def image_codes(self, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Codes (height, width, ..., output channels) in the layout of the integer op."""
        raise NotImplementedError(f"{type(self).__name__} must implement image_codes(codes)")
