"""`CapacityMonitor`: the capacity of every quantizer of a model, epoch by epoch."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from typing import Any

import keras

from keras_qat.callbacks.bottlenecks import bottlenecks
from keras_qat.callbacks.capacity_probe import FACTS, CapacityProbe, finite
from keras_qat.callbacks.step_sensitivity import step_sensitivity
from keras_qat.callbacks.tensorboard_events import TensorBoardEvents
from keras_qat.integer.files import replace_file
from keras_qat.model import QuantizedModel

_BY_HAND = ("assisted_widths", "refit_octaves")
"""The numbers of `GDNSQSchedule` that are recorded with the capacity."""


class CapacityMonitor(keras.callbacks.Callback):
    """Records the bits, the range, the saturation and the capacity of every quantizer.

    GDNSQ sees a network as a chain of noisy channels. Before the first epoch and at the end of
    every epoch this callback runs `data` through the model in inference mode, looks at the float
    values that enter each quantizer, and writes `history`, which is plain JSON:

    ```
    {"epochs": [0, 1, ...],
     "tensors": {"conv/weights": {"kind": "weights", "mean_bits": [...], ...}, ...},
     "network": {"bits_per_mac": [...], "bits_per_example": [...], ...},
     "start": {"tensors": {...}, "network": {...}},
     "float": {"tensors": {...}, "network": {...}},
     "targets": {"bits_per_mac": ..., ...},
     "input_bits_per_example": ...}
    ```

    `tensors` has one list entry for each epoch. The name of a tensor is `<layer>/weights`, or
    `<tensor>/activations` with its name in the integer graph. Tensors are in the order of the
    graph. Each holds:

    * `kind`: "weights" or "activations".
    * `target_bits`: the bit width, or the target width if it is learned.
    * `learned`: whether the bit width is trained.
    * `values`: the number of weights, or of activations in one example.
    * `mean_bits`, `max_bits`: the mean and the maximum of the real-valued width over channels; the
      bits of a fixed grid. This is the width in the penalty. A width a little above its target
      meets it, because the number of levels is rounded.
    * `step`, `low`, `high`: the distance of two levels and the ends of the grid in real units, mean
      over channels. The noise is proportional to the step.
    * `saturation`: the share of the float values beyond `low` and `high`. The grids of GDNSQ's
      weights follow their range: for them, the share more than half a step beyond, which is cut
      off.
    * `bits_per_value`: the effective capacity
      `C = min(1/2 * log2(1 + 12 * sigma**2 / step**2), log2(levels))`, mean over channels, with
      `sigma**2` the variance of the values after clamping. It is Shannon's capacity of a Gaussian
      channel with Bennett's rounding noise of variance `step**2 / 12`. Applying it to GDNSQ's
      chain is our own reading. `channel_capacity` names sources and limits.
    * `bits_per_example`, activations only: `C * values`.
    * `step_sensitivity`, with `labels` only: `keras_qat.step_sensitivity`.

    `network` holds, for each epoch:

    * `bits_per_weight`, `bits_per_activation`: the mean of `mean_bits` over all weights, and over
      all activations of one example.
    * `bit_operations`: `sum(macs * weight bits * activation bits)` over the multiply-accumulates of
      one example. `bits_per_mac` is `sqrt(bit_operations / sum(macs))`, so 4 for W4A4 and for W2A8.
    * `bits_per_example`: the capacity of the network, which is the one of its narrowest cut. The
      tensors of a cut separate the inputs from the outputs, and their `bits_per_example` add up
      (maximum flow, minimum cut). `narrowest` names them.
    * `hidden_bits_per_example`, `hidden_narrowest`: the same without the tensors that the outputs
      are. A classifier has few outputs, and its task says so.
    * `assisted_widths`, `refit_octaves`: what `GDNSQSchedule` did by hand in this epoch. It has to
      stand before this callback.

    `start` is the state when the first `fit` began: 10 bits for GDNSQ. `float` is the float network
    that `quantize` was given, with the rounding noise of float32 and the smallest and the largest
    value as `low` and `high`. A model that was loaded does not know it. Tensors inside of layers
    that `quantize` took apart are left out, and then `network` is empty. `targets` are the averages
    of all `target_bits`. `input_bits_per_example` is how many bits of an example the quantized
    inputs hold at most: the entropy of their codes in `data` times the number of values. It is
    `None` if a layer in float reads an input.

    A number that is not finite, as in a run that diverged, is `None`. The grid of a softmax is
    left out: runtimes fix it, and it rounds in inference only.

    A `fit` that continues another one extends the history. An epoch that is run again replaces its
    record and all later records. Another model starts a new history. The model is not changed, and
    nothing is saved with it. The probe of its values is compiled once.

    Args:
        data: input samples, see `calibration_data` of `quantize`; a few dozen are enough.
        log_dir: a folder for TensorBoard: every number of an epoch as a scalar `<number>/<tensor>`
            or `<number>/network`, a histogram `codes/<tensor>` of the codes, counted from the
            lowest one, and at the end of a `fit` the picture of `keras_qat.plot_capacity`, if
            matplotlib is installed.
        batch_size: the samples in one batch of the probe.
        labels: the labels of `data`, to record `step_sensitivity` too. It takes a training step for
            each batch, run eagerly.

    Raises:
        ValueError: no data, a `batch_size` below 1, or a `log_dir` or `labels` without the
            TensorFlow backend. When `fit` starts: data or labels that do not fit, or a model
            without quantizers.

    >>> monitor = CapacityMonitor([[0.0, 1.0], [1.0, 0.0]])
    >>> monitor.history
    {'epochs': [], 'tensors': {}}
    """

    kept_by_backup = ("history",)

    def __init__(
        self,
        data: Any,
        log_dir: str | os.PathLike[str] | None = None,
        batch_size: int = 64,
        labels: Any = None,
    ):
        super().__init__()
        if data is None:
            raise ValueError(
                "CapacityMonitor needs a few input samples, for example "
                "CapacityMonitor(x_train[:64]). Received: None"
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                f"The batch_size must be a whole number from 1 on. Received: {batch_size!r}"
            )
        if log_dir is not None and keras.backend.backend() != "tensorflow":
            raise ValueError(
                "CapacityMonitor needs the TensorFlow backend to write to a log_dir. Received: the "
                f"backend {keras.backend.backend()!r}. Leave log_dir out: history, save_json and "
                "keras_qat.plot_capacity work on every backend."
            )
        if labels is not None and keras.backend.backend() != "tensorflow":
            raise ValueError(
                "CapacityMonitor needs the TensorFlow backend for the step sensitivity. Received: "
                f"labels on the backend {keras.backend.backend()!r}. Leave labels out: all other "
                "numbers are recorded on every backend."
            )
        self.history: dict[str, Any] = {"epochs": [], "tensors": {}}
        self._data = data
        self._labels = labels
        self._log_dir = log_dir
        self._batch_size = batch_size
        self._probe: CapacityProbe | None = None
        self._events: TensorBoardEvents | None = None
        self._accuracies: dict[int, float] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        if not isinstance(self.model, QuantizedModel):
            raise ValueError(
                "CapacityMonitor needs a model that keras_qat.quantize returned. Received: "
                f"{type(self.model).__name__} {self.model.name!r}"
            )
        if self._probe is None or self._probe.model is not self.model:
            self._probe = CapacityProbe(self.model, self._data, self._batch_size)
            self._begin(self._probe)
        if self._log_dir is not None:
            self._events = TensorBoardEvents(self._log_dir)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._forget_from(epoch)
        self.history["epochs"].append(epoch)
        if self._probe is not None:
            records = self._records(self._probe)
            for name, record in records.items():
                tensor = self.history["tensors"].setdefault(name, {})
                for key, value in record.items():
                    if key in FACTS:
                        tensor[key] = value
                    else:
                        tensor.setdefault(key, []).append(value)
            by_hand = {key: float(logs[key]) for key in _BY_HAND if key in (logs or {})}
            for key, value in {**self._probe.network(records), **by_hand}.items():
                self.history["network"].setdefault(key, []).append(value)
        found = [logs[key] for key in ("val_accuracy", "accuracy") if key in (logs or {})]
        self._accuracies |= {epoch: float(found[0])} if found else {}
        if self._events is not None:
            self._write(self._events, epoch)

    def on_train_end(self, logs: Any = None) -> None:
        if self._events is not None:
            self._write_picture(self._events)
            self._events.close()
            self._events = None

    def bottlenecks(self, n: int = 3, by: str = "bits_per_value") -> list[str]:
        """The first tensors of a ranking in the last epoch.

        Which tensor loses most accuracy with fewer bits? The rankings were compared with the
        measured drop on ResNet-8 (`benchmarks/results/bottlenecks.md`). The first two below agree
        with it in part. The other two do not: they describe channels.

        * `by="step_sensitivity"`: the largest effect on the loss for one bit less, to first order.
          It needs `labels`.
        * `by="area_above_target"`: the largest `sum(max(mean_bits - target, 0))` over epochs, so
          how long a learned width resisted. Compare it only among equal targets.
        * `by="bits_per_value"`: the smallest capacity per value, so the strongest rounding noise in
          relation to the signal: its share is `2**(-2 * C)`. It does not know what the loss feels.
        * `by="bits_per_example"`, activations only: all layers behind a tensor know at most that
          many bits of an example through it. A shortcut around it carries more, which
          `history["network"]["narrowest"]` takes into account. It is naturally small at the end of
          a classifier, where a few values suffice.

        Args:
            n: the largest number of tensors to return.
            by: the ranking.

        Raises:
            ValueError: no such ranking, an `n` below 1, no epoch recorded yet, no labels for the
                sensitivity, or no learned width for the area.
        """
        return bottlenecks(self.history, n, by)

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Writes the history as JSON. If writing fails, an older file stays as it was."""
        replace_file(path, json.dumps(self.history, allow_nan=False).encode())

    def _begin(self, probe: CapacityProbe) -> None:
        """Starts a new history with the state before training, and with the float network."""
        records, of_float = self._records(probe), probe.float_records()
        self.history.clear()
        self.history |= {
            "epochs": [],
            "tensors": {},
            "network": {},
            "start": {"tensors": records, "network": probe.network(records)},
            "targets": probe.targets(records),
            "input_bits_per_example": probe.input_rate(),
        }
        if of_float is not None:
            self.history["float"] = {"tensors": of_float, "network": probe.network(of_float)}

    def _records(self, probe: CapacityProbe) -> dict[str, dict[str, Any]]:
        """The current record of every tensor."""
        records = probe.records()
        if self._labels is not None:
            found = step_sensitivity(
                self.model, probe.inputs, self._labels, batch_size=self._batch_size
            )
            for name, sensitivity in found.items():
                records[name]["step_sensitivity"] = finite(sensitivity)
        return records

    def _forget_from(self, epoch: int) -> None:
        """Drops the records of an epoch and of all later ones."""
        kept = sum(recorded < epoch for recorded in self.history["epochs"])
        del self.history["epochs"][kept:]
        for series in (*self.history["tensors"].values(), self.history.get("network", {})):
            for values in series.values():
                if isinstance(values, list):
                    del values[kept:]

    def _write(self, events: TensorBoardEvents, epoch: int) -> None:
        """Writes the numbers of the last epoch, and the codes of all tensors."""
        series = {**self.history["tensors"], "network": self.history["network"]}
        for name, numbers in series.items():
            for key, values in numbers.items():
                if isinstance(values, list) and isinstance(values[-1], float):
                    events.scalar(f"{key}/{name}", values[-1], epoch)
        for name, counts in self._probe.code_counts().items() if self._probe else ():
            events.codes(f"codes/{name}", counts, epoch)
        events.flush()

    def _write_picture(self, events: TensorBoardEvents) -> None:
        """Writes the picture of the run, if matplotlib is there."""
        if importlib.util.find_spec("matplotlib") is None or not self.history["epochs"]:
            return
        import keras_qat  # its front door: pictures are on a floor above

        epochs = self.history["epochs"]
        known = [self._accuracies.get(epoch, math.nan) for epoch in epochs]
        accuracy = known if any(map(math.isfinite, known)) else None
        figure = keras_qat.plot_capacity(self.history, accuracy=accuracy)
        events.figure("capacity", figure, epochs[-1])
