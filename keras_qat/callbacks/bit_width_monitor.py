"""`BitWidthMonitor`: every learned bit width of a model, over the batches of a run."""

from __future__ import annotations

import json
import os
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.integer.io import replace_file
from keras_qat.model import QuantizedModel
from keras_qat.training.backend_state import synchronize


class BitWidthMonitor(keras.callbacks.Callback):
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
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number from 1 on. Received: {every!r}")
        self.history: dict[str, Any] = {"batches": [], "tensors": {}}
        self._every = every
        self._first = 0

    def on_train_begin(self, logs: Any = None) -> None:
        if not isinstance(self.model, QuantizedModel) or not self.model.learned_widths:
            raise ValueError(
                "BitWidthMonitor needs a model that learns its bit widths, as "
                "keras_qat.quantize(model, keras_qat.GDNSQConfig(...)) returns. Received: "
                f"{type(self.model).__name__} {self.model.name!r}"
            )
        if not self.params.get("steps"):
            raise ValueError(
                "BitWidthMonitor counts the batches of the whole run, and this dataset does not "
                "tell its length: pass steps_per_epoch to fit."
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._first = epoch * self.params["steps"]
        self._forget_from(self._first if epoch == 0 else self._first + 1)
        if not self.history["batches"]:
            self._record(self._first)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        done = batch + 1
        if done % self._every == 0 or done == self.params["steps"]:
            self._record(self._first + done)

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Writes the history as JSON. If writing fails, an older file stays as it was."""
        replace_file(path, json.dumps(self.history, allow_nan=False).encode())

    def _record(self, batches: int) -> None:
        synchronize(self.model)
        self.history["batches"].append(batches)
        names = {id(each): name for name, each in self.model.named_quantizers.items()}
        for width in self.model.learned_widths:
            bits = ops.convert_to_numpy(width.widths())
            tensor = self.history["tensors"].setdefault(
                names[id(width.quantizer)],
                {"target_bits": width.target, "mean_bits": [], "max_bits": []},
            )
            tensor["mean_bits"].append(float(np.mean(bits)))
            tensor["max_bits"].append(float(np.max(bits)))

    def _forget_from(self, batches: int) -> None:
        """Drops the records from this number of batches on, which are done again."""
        kept = sum(done < batches for done in self.history["batches"])
        del self.history["batches"][kept:]
        for tensor in self.history["tensors"].values():
            for key in ("mean_bits", "max_bits"):
                del tensor[key][kept:]
