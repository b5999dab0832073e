"""`DiscretizationMonitor`: the discretization error of every quantizer, over a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_qat.callbacks.batch_records import BatchRecords
from keras_qat.callbacks.channel_capacity import Channel, channel_of
from keras_qat.input_batches import CalibrationData
from keras_qat.keras_graph import graph_between
from keras_qat.model import QuantizedModel

Array = npt.NDArray[np.floating[Any]]


class DiscretizationMonitor(BatchRecords):
    """Records how far values are from their codes, for every quantizer of any method.

    Before the first batch, after every `every` batches and after the last batch of an epoch, it
    runs `data` through the model in inference mode, and appends to `history`, which is plain JSON:

    ```
    {"batches": [0, 50, ...], "replaced_share": [0.0, ...],
     "tensors": {"conv/weights": {"kind": "weights", "rounding": [...], "clipping": [...]}, ...}}
    ```

    With the lowest level `l`, the highest level `h` and the nearest level `x_hat` of a value `x`:

    * `rounding`: `mean((clip(x, l, h) - x_hat)**2 / (h - l)**2)`,
    * `clipping`: `mean((x - clip(x, l, h))**2 / (h - l)**2)`.

    Their sum is the mean squared distance of values and codes, in ranges of the grid: the
    discretization error that PEGE optimizes with the task. `replaced_share` is the mean share of
    replaced elements, 1 for a model without progressive replacement. A number that is not finite
    is `None`. `keras_qat.plot_replacement` draws one history, or several side by side.

    A `fit` that continues another one extends the history, and replaces what is done again. The
    model is not changed.

    Source: PEGE (arXiv 2509.00097) names the discretization error. The formula is our own.

    Args:
        data: input samples, see `calibration_data` of `quantize`; a few dozen are enough.
        every: the batches from one record to the next.

    Raises:
        ValueError: no data, or an `every` below 1. When `fit` starts: data that do not fit the
            model, a model without quantizers, or a run of unknown length.

    >>> DiscretizationMonitor(np.zeros((2, 4))).history
    {'batches': [], 'replaced_share': [], 'tensors': {}}
    """

    def __init__(self, data: Any, every: int = 50):
        super().__init__(every, {"batches": [], "replaced_share": [], "tensors": {}})
        if data is None:
            raise ValueError(
                "DiscretizationMonitor needs a few input samples, for example "
                "DiscretizationMonitor(x_train[:64]). Received: None"
            )
        self._data = data
        self._sites: Mapping[str, Any] = {}
        self._batches: list[list[Any]] = []
        self._values: keras.Model | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        self._sites = model.quantizer_sites() if isinstance(model, QuantizedModel) else {}
        if not self._sites:
            raise ValueError(
                "DiscretizationMonitor needs a model with quantizers, as keras_qat.quantize "
                f"returns. Received: {type(model).__name__} {model.name!r}"
            )
        super().on_train_begin(logs)
        try:
            self._batches = list(CalibrationData(model, self._data))
        except ValueError as error:
            raise ValueError(f"DiscretizationMonitor cannot run its data: {error}") from error
        sources = {name: site.source for name, site in self._sites.items() if site.kernel is None}
        self._values = graph_between(model.inputs, sources) if sources else None

    def on_train_end(self, logs: Any = None) -> None:
        self._values, self._batches = None, []

    def _add_record(self) -> None:
        replaced = self.model.replaced_quantizers.values()
        shares = [float(keras.ops.convert_to_numpy(each.replaced_share)) for each in replaced]
        self.history["replaced_share"].append(float(np.mean(shares)) if shares else 1.0)
        for name, (rounding, clipping) in self._errors().items():
            kind = "activations" if self._sites[name].kernel is None else "weights"
            tensor = self.history["tensors"].setdefault(
                name, {"kind": kind, "rounding": [], "clipping": []}
            )
            for key, value in (("rounding", rounding), ("clipping", clipping)):
                tensor[key].append(value if np.isfinite(value) else None)

    def _errors(self) -> dict[str, Array]:
        """The errors of rounding and of clipping, by tensor in the order of the graph."""
        found: dict[str, Array] = {name: np.zeros(2) for name in self._sites}
        for name, site in self._sites.items():
            if site.kernel is not None:
                kernel = site.quantizer.prepare(site.kernel.channels_last_kernel())
                channel = channel_of(site.quantizer, kernel)
                found[name] = discretization_errors(channel, keras.ops.convert_to_numpy(kernel))
        if self._values is None:
            return found
        samples = sum(len(batch[0]) for batch in self._batches)
        for batch in self._batches:
            for name, values in self._values.predict_on_batch(batch).items():
                channel = channel_of(self._sites[name].quantizer)
                share = len(batch[0]) / samples
                found[name] = found[name] + share * discretization_errors(channel, values)
        return found


def discretization_errors(channel: Channel, values: Any) -> Array:
    """The errors of rounding and of clipping, each a mean of squares in ranges of the grid.

    Args:
        channel: the grid. If it has several steps, they belong to the last axis of the values.
        values: the float values.

    >>> channel = Channel(*np.float64([1.0, 2.0, -1.0, 1.0, 2.0, 0.0]))  # levels -1 and 1
    >>> [float(error) for error in discretization_errors(channel, np.array([0.0, 3.0]))]
    [0.125, 0.5]
    """
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        extent = np.where(channel.high > channel.low, channel.high - channel.low, np.inf)
        inside = np.clip(values, channel.low, channel.high)
        level = channel.low + channel.step * np.rint((inside - channel.low) / channel.step)
        distances = (inside - level) / extent, (values - inside) / extent
        return np.array([np.mean(np.square(each)) for each in distances])
