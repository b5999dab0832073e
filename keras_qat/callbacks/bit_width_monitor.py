"""`BitWidthMonitor`: every learned bit width of a model, over the batches of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_qat.callbacks.batch_records import BatchRecords
from keras_qat.callbacks.trained_model import trained_model


class BitWidthMonitor(BatchRecords):
    """Records how the learned bit widths of GDNSQ come to their targets.

    Before the first batch, after every `every` batches and after the last batch of an epoch, it
    appends to `history`, which is plain JSON:

    ```
    {"batches": [0, 50, ...],
     "tensors": {"conv/weights": {"target_bits": 2, "mean_bits": [10.0, ...],
                                  "max_bits": [10.0, ...]}, ...}}
    ```

    `mean_bits` and `max_bits` are the mean and the maximum of the real-valued width over the
    channels of a kernel; an activation has one width. A held grid has the logarithm of its number
    of levels. `keras_qat.plot_bit_widths` draws the history.

    A `fit` that continues another one extends the history, and replaces what is done again. The
    model is not changed. A record reads the kernels, which costs about as much as evaluating the
    loss of the penalty.

    Source: GDNSQ (arXiv 2508.14004), whose figures show such curves.

    Args:
        every: the batches from one record to the next.

    Raises:
        ValueError: an `every` below 1. When `fit` starts: a model without learned widths, or a run
            of unknown length.

    >>> BitWidthMonitor(every=20).history
    {'batches': [], 'tensors': {}}
    """

    def __init__(self, every: int = 50):
        super().__init__(every, {"batches": [], "tensors": {}})
        self._quantized: Any = None  # the quantized model, once training begins

    def on_train_begin(self, logs: Any = None) -> None:
        self._quantized = trained_model(self.model)
        if self._quantized is None or not self._quantized.learned_widths:
            raise ValueError(
                "BitWidthMonitor needs a model that learns its bit widths, as "
                "keras_qat.quantize(model, keras_qat.GDNSQConfig(...)) returns. Received: "
                f"{type(self.model).__name__} {self.model.name!r}"
            )
        super().on_train_begin(logs)

    def _add_record(self) -> None:
        names = {id(each): name for name, each in self._quantized.named_quantizers.items()}
        for width in self._quantized.learned_widths:
            bits = ops.convert_to_numpy(width.widths())
            tensor = self.history["tensors"].setdefault(
                names[id(width.quantizer)],
                {"target_bits": width.target, "mean_bits": [], "max_bits": []},
            )
            tensor["mean_bits"].append(float(np.mean(bits)))
            tensor["max_bits"].append(float(np.max(bits)))
