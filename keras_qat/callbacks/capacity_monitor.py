"""`CapacityMonitor`: the capacity of every quantizer of a model, epoch by epoch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_qat.callbacks.channel_capacity import Measurement, bottlenecks, channel_of
from keras_qat.input_batches import CalibrationData
from keras_qat.integer.io import replace_file
from keras_qat.model import QuantizedModel
from keras_qat.training.backend_state import synchronize

WEIGHTS, ACTIVATIONS = "weights", "activations"


class CapacityMonitor(keras.callbacks.Callback):
    """Records the bits, the range, the saturation and the capacity of every quantizer.

    GDNSQ sees a network as a chain of noisy channels. At the end of every epoch this callback
    runs `data` through the model in inference mode, looks at the float values that enter each
    quantizer, and appends to `history`, which is plain JSON:

    ```
    {"epochs": [0, 1, ...],
     "tensors": {"conv/weights": {"kind": "weights", "target_bits": 4, ...}, ...}}
    ```

    The name of a tensor is `<layer>/weights`, or `<tensor>/activations` with its name in the
    integer graph. Tensors are in the order of the graph. Each holds:

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

    A number that is not finite, as in a run that diverged, is `None`. The grid of a softmax is
    left out: runtimes fix it, and it rounds in inference only.

    A `fit` that continues another one extends the history. An epoch that is run again replaces its
    record and all later records. Another model starts a new history. The model is not changed, and
    nothing is saved with it. The probe of its values is compiled once.

    Args:
        data: input samples, see `calibration_data` of `quantize`; a few dozen are enough.
        log_dir: a folder to which every number is also written, as a TensorBoard scalar
            `<number>/<tensor>`.
        batch_size: the samples in one batch of the probe.

    Raises:
        ValueError: no data, a `batch_size` below 1, or a `log_dir` without the TensorFlow backend.
            When `fit` starts: data that do not fit the model, or a model without quantizers.

    >>> monitor = CapacityMonitor(np.zeros((2, 4)))
    >>> monitor.history
    {'epochs': [], 'tensors': {}}
    """

    def __init__(
        self, data: Any, log_dir: str | os.PathLike[str] | None = None, batch_size: int = 64
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
        self.history: dict[str, Any] = {"epochs": [], "tensors": {}}
        self._data = data
        self._log_dir = log_dir
        self._batch_size = batch_size
        self._probe: _Probe | None = None
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        if not isinstance(self.model, QuantizedModel):
            raise ValueError(
                "CapacityMonitor needs a model that keras_qat.quantize returned. Received: "
                f"{type(self.model).__name__} {self.model.name!r}"
            )
        if self._probe is None or self._probe.model is not self.model:
            self._probe = _Probe(self.model, self._data, self._batch_size)
            self._forget_from(0)
            self.history["tensors"].clear()
        if self._log_dir is not None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(os.fspath(self._log_dir))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._forget_from(epoch)
        self.history["epochs"].append(epoch)
        records = self._probe.records() if self._probe is not None else ()
        for name, record in records:
            tensor = self.history["tensors"].setdefault(name, {})
            for key, value in record.items():
                if isinstance(value, float):
                    tensor.setdefault(key, []).append(value if math.isfinite(value) else None)
                else:
                    tensor[key] = value
        if self._writer is not None:
            self._write_scalars(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def bottlenecks(self, n: int = 3, by: str = "bits_per_value") -> list[str]:
        """The tensors with the smallest capacity in the last epoch, smallest first.

        `by="bits_per_value"` ranks weights and activations together. The share of rounding noise in
        the output of a quantizer is `2**(-2 * C)`. A layer that multiplies weights with inputs adds
        up the shares of both. So the first tensor disturbs its layer most: more bits, or a better
        range, help there first.

        `by="bits_per_example"` ranks activations as links of a chain: all layers behind a tensor
        know at most that many bits of an example. It finds the narrow waist of a network with a
        single path; a shortcut around it carries more. The capacity is naturally small at the end
        of a classifier, where a few values suffice.

        Args:
            n: the largest number of tensors to return.
            by: "bits_per_value" or "bits_per_example".

        Raises:
            ValueError: no such ranking, an `n` below 1, or no epoch recorded yet.
        """
        return bottlenecks(self.history, n, by)

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Writes the history as JSON. If writing fails, an older file stays as it was."""
        replace_file(path, json.dumps(self.history, allow_nan=False).encode())

    def _forget_from(self, epoch: int) -> None:
        """Drops the records of an epoch and of all later ones."""
        kept = sum(recorded < epoch for recorded in self.history["epochs"])
        del self.history["epochs"][kept:]
        for tensor in self.history["tensors"].values():
            for values in tensor.values():
                if isinstance(values, list):
                    del values[kept:]

    def _write_scalars(self, epoch: int) -> None:
        """Writes the same as `tf.summary.scalar`, which requires that TensorBoard is installed."""
        import tensorflow as tf

        scalar = tf.compat.v1.SummaryMetadata(data_class="DATA_CLASS_SCALAR")
        scalar.plugin_data.plugin_name = "scalars"
        with self._writer.as_default():
            for name, tensor in self.history["tensors"].items():
                for key, values in tensor.items():
                    if isinstance(values, list) and values[-1] is not None:
                        value = tf.constant(values[-1], tf.float32)
                        tf.summary.write(f"{key}/{name}", value, step=epoch, metadata=scalar)
        self._writer.flush()


class _Probe:
    """Measures the values that enter the quantizers of a model."""

    def __init__(self, model: QuantizedModel, data: Any, batch_size: int):
        self.model = model
        self._sites = model.quantizer_sites()
        if not self._sites:
            raise ValueError(
                f"{model.name!r} has no quantizers to monitor: all of its layers are in float."
            )
        try:
            batches = list(CalibrationData(model, data))
        except ValueError as error:
            raise ValueError(f"CapacityMonitor cannot run its data: {error}") from error
        self._inputs = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        self._samples = len(self._inputs[0])
        self._batch_size = min(batch_size, self._samples)
        sources = {name: site.source for name, site in self._sites.items() if site.kernel is None}
        self._values = keras.Model(model.inputs, sources) if sources else None

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The name and the current record of every tensor."""
        synchronize(self.model)
        measurements = {name: _measurement(site) for name, site in self._sites.items()}
        for values in self._batches():
            for name, value in values.items():
                measurements[name].add(value)
        for name, site in self._sites.items():
            found = measurements[name]
            record: dict[str, Any] = {
                "kind": ACTIVATIONS if site.kernel is None else WEIGHTS,
                "target_bits": int(site.quantizer.bits),
                "learned": site.quantizer.learns_width and bool(site.quantizer.trainable),
                "values": found.values // (self._samples if site.kernel is None else 1),
                **found.record(),
            }
            if site.kernel is None:
                record["bits_per_example"] = record["bits_per_value"] * record["values"]
            yield name, record

    def _batches(self) -> Iterator[dict[str, Any]]:
        """The inputs of all activation quantizers, in batches of one size for one compilation."""
        if self._values is None:
            return
        for start in range(0, self._samples, self._batch_size):
            filled = np.arange(start, start + self._batch_size) % self._samples
            count = min(self._batch_size, self._samples - start)
            values = self._values.predict_on_batch([array[filled] for array in self._inputs])
            yield {name: value[:count] for name, value in values.items()}


def _measurement(site: Any) -> Measurement:
    if site.kernel is None:
        return Measurement(channel_of(site.quantizer))
    kernel = site.quantizer.prepare(site.kernel.channels_last_kernel())
    measurement = Measurement(channel_of(site.quantizer, kernel))
    measurement.add(keras.ops.convert_to_numpy(kernel))
    return measurement
