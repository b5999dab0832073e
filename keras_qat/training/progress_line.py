"""The progress line of a `fit`: what the user compiled, and how far learned bit widths are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_qat.training.fit_callbacks import add_callback, given_callbacks

_TERMS = frozenset(
    {
        "task_loss",
        "discretization_loss",
        *(f"{kind}_violation" for kind in ("weight", "activation")),
        *(f"{which}_{kind}_bits" for which in ("mean", "max") for kind in ("weight", "activation")),
    }
)
"""The terms of the training loss. `History`, `CSVLogger` and `TensorBoard` have all of them."""


_MEANS = ("mean_weight_bits", "mean_activation_bits")


class ProgressLine(keras.callbacks.ProgbarLogger):
    """The progress bar of Keras without the terms of the training loss.

    With learned bit widths it shows `mean_bits`, the mean of `mean_weight_bits` and
    `mean_activation_bits`, and at the end of an epoch `targets_met`, the share of widths that have
    met their targets. A metric that the user compiled stays under any name.
    """

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, self._shown(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        shown = self._shown(logs)
        widths = self.model.learned_widths
        if widths:
            shown["targets_met"] = float(np.mean([width.meets_target() for width in widths]))
        super().on_epoch_end(epoch, shown)

    def _shown(self, logs: Mapping[str, Any] | None) -> dict[str, Any]:
        logs = logs or {}
        kept = _TERMS - self._compiled()
        shown = {name: value for name, value in logs.items() if name not in kept}
        means = [
            logs[name] for name in ("mean_weight_bits", "mean_activation_bits") if name in logs
        ]
        if means and self.model.learned_widths:
            shown["mean_bits"] = float(np.mean([float(each) for each in means]))
        return shown

    def _compiled(self) -> set[str]:
        """The names of the metrics of the user."""
        terms = self.model.term_logs
        own = [each for each in self.model.metrics if all(each is not term for term in terms)]
        return {one.name for each in own for one in getattr(each, "metrics", [each])}


def add_progress_line(model: Any, arguments: dict[str, Any]) -> None:
    """Gives a `fit` this progress line, if it has one and the user has given none.

    Args:
        model: the quantized model that trains.
        arguments: the arguments of `fit` by name; they are changed.
    """
    given = arguments.get("callbacks")
    if isinstance(given, keras.callbacks.CallbackList) or arguments.get("verbose", "auto") == 0:
        return
    kinds = keras.callbacks.ProgbarLogger
    if model.term_logs and not any(isinstance(each, kinds) for each in given_callbacks(arguments)):
        add_callback(model, arguments, ProgressLine(), first=False)
