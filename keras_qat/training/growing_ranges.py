"""Lets ranges grow with a network that starts from random weights."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_qat.keras_graph import graph_between
from keras_qat.quantized_layers import QuantizedKernel
from keras_qat.quantizers import ActivationQuantizer, Quantizer
from keras_qat.quantizers.initial_scale import Histogram, least_error_scale
from keras_qat.training.backend_state import restored, synchronize
from keras_qat.training.changes_by_hand import followed_by
from keras_qat.training.fit_callbacks import add_callback
from keras_qat.training.pipeline_sample import is_arrays, sample_of_pipeline

Array = npt.NDArray[Any]

_SAMPLES = 256
_BYTES = 2**25
_BINS = 2048
_MOST_CLIPPED = 0.01
_LEAST_GROWTH, _LEAST_GROWTH_WITHOUT_GRADIENT = 1.25, 1.05
"""A range grows where it clips more than 1 % of the values of a tensor, or any weight, and least
squared error asks for a scale at least this much larger: grids of few bits clip on purpose. A scale
that does not learn lags behind more: with 1.25, STE ends 9 points below float in a small network
without normalization, with 1.05 at its side."""

FIRST_BATCHES = tuple(sorted({round(2.0 ** (half / 2)) for half in range(21)}))
"""The batches after which ranges may grow: every half octave, up to the 1,024th."""


_KEPT: weakref.WeakKeyDictionary[keras.Model, list[Array]] = weakref.WeakKeyDictionary()
"""Calibration samples of models that look untrained, for a `fit` on a dataset."""


def keep_sample(model: keras.Model, data: Iterable[list[Array]]) -> None:
    """Keeps up to 256 calibration samples of a model, and no more than 32 MiB, for `fit`."""
    batch = next(iter(data))
    count = min(_SAMPLES, max(1, _BYTES // sum(array[:1].nbytes for array in batch)))
    _KEPT[model] = [array[:count] for array in batch]


def looks_untrained(model: keras.Model) -> bool:
    """Whether a trainable layer still has the bias, or the gamma and beta, that it started with.

    >>> looks_untrained(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    True
    """
    return any(layer.trainable and _is_new(layer) for layer in model.layers)


def _is_new(layer: Any) -> bool:
    starts = {"bias": 0.0, "beta": 0.0, "gamma": 1.0}
    variables = {name: getattr(layer, name, None) for name in starts}
    found = {name: each for name, each in variables.items() if isinstance(each, keras.Variable)}
    shifts = "bias" in found or "beta" in found
    return shifts and all(
        np.all(keras.ops.convert_to_numpy(each) == starts[name]) for name, each in found.items()
    )


def add_range_growth(model: Any, arguments: dict[str, Any]) -> None:
    """Adds the growth of ranges in front of the callbacks of a `fit`.

    Args:
        model: a `QuantizedModel` made from a network that looks untrained.
        arguments: the arguments of `fit` by name; they are changed.
    """
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    if done >= FIRST_BATCHES[-1] or arguments.get("x") is None:
        return
    sample = _sample(model, arguments)
    if sample is None:
        warnings.warn(
            f"Model {model.name!r} looks untrained, and its ranges cannot grow in this fit: it was "
            "loaded, and a dataset may begin with other samples each time. Pass arrays to fit, or "
            "quantize the float model again in this process.",
            stacklevel=3,
        )
        return
    add_callback(model, arguments, RangeGrowth(sample), first=True)


def _sample(model: Any, arguments: dict[str, Any]) -> list[Array] | None:
    """Inputs that are the same for a run that resumes; `None` if there are none."""
    if not is_arrays(arguments["x"]):
        return _KEPT.get(model)
    batches = sample_of_pipeline(model, arguments, _SAMPLES)
    return [np.concatenate(each)[:_SAMPLES] for each in zip(*batches, strict=True)] or None


class RangeGrowth(keras.callbacks.Callback):
    """Widens ranges that training has outgrown, after some of the first batches.

    A network with random weights yields small values, and larger ones as it learns. A range that
    was calibrated at the start would clip them, and what it clips has no gradient. After batches
    1, 2, 3, 4, 6, 8, 11, 16, ... 1,024 since `compile`, this callback runs a sample in training
    mode: of the arrays that `fit` gets, or of the calibration data. Where a range clips more than
    1 % of the values, or any weight of a channel, and the scale `s'` of the least squared error is
    at least `1.25 * s`, or `1.05 * s` if the scale does not learn, it multiplies the range by
    `s' / s`. What was learned about the scale stays.

    The count of batches is the optimizer's, so that a run that resumes goes on in the same way.

    Args:
        sample: inputs of the model, as a list of arrays.
    """

    kept_by_backup = ("_done", "_seen")

    def __init__(self, sample: list[Array]):
        super().__init__()
        self._sample = sample
        self._probe: keras.Model | None = None
        self._quantizers: list[ActivationQuantizer] = []
        self._kernels: list[QuantizedKernel] = []
        self._done = self._seen = 0

    def on_train_begin(self, logs: Any = None) -> None:
        found = self.model.quantizer_sites().values()
        self._kernels = [site.kernel for site in found if site.kernel is not None]
        sites = [site for site in found if site.source is not None]
        self._quantizers = [site.quantizer for site in sites]
        sources = [site.source for site in sites]
        self._probe = graph_between(self.model.inputs, sources) if sources else None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._done < FIRST_BATCHES[-1]:
            synchronize(self.model)
            iterations = self.model.optimizer.iterations
            self._done = int(keras.ops.convert_to_numpy(iterations))
        self._seen = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self._done = self._done, self._done + batch + 1 - self._seen
        self._seen = batch + 1
        due = any(before < each <= self._done for each in FIRST_BATCHES)
        if due and self._probe is not None:
            synchronize(self.model)
            with followed_by(self.model.optimizer, self.model.quantizers):
                self._grow(self._probe)

    def _grow(self, probe: keras.Model) -> None:
        with restored(probe.non_trainable_variables):
            values = keras.tree.flatten(probe(self._sample, training=True))
        for quantizer in dict.fromkeys(self._quantizers):
            found = [
                np.asarray(keras.ops.convert_to_numpy(each), np.float64)
                for each, owner in zip(values, self._quantizers, strict=True)
                if owner is quantizer
            ]
            factor = growth(np.concatenate([each.ravel() for each in found]), quantizer)
            if factor > 1.0:
                quantizer.widen(factor)
        for kernel in self._kernels:
            weights = keras.ops.convert_to_numpy(kernel.channels_last_kernel())
            if not np.all(np.isfinite(weights)):
                continue  # training diverged: the export names the layer, and no range fits
            quantizer = kernel.weight_quantizer
            factors = quantizer.outgrown(np.asarray(weights, np.float64))
            if np.any(factors >= _least_growth(quantizer)):
                quantizer.widen(np.where(factors >= _least_growth(quantizer), factors, 1.0))


def growth(values: npt.NDArray[np.float64], quantizer: ActivationQuantizer) -> float:
    """The factor by which a range is to grow for these values; 1 if it fits them.

    >>> quantizer = ActivationQuantizer({"qmin": 0, "qmax": 255})
    >>> quantizer.build((None, 4))
    >>> quantizer.set_scale(1.0)
    >>> growth(np.linspace(0.0, 510.0, 1000), quantizer)
    2.0
    """
    if not np.all(np.isfinite(values)):
        return 1.0
    grid = quantizer.grid
    scale = float(keras.ops.convert_to_numpy(quantizer.scale))
    low, high = scale * grid.qmin if grid.qmin < 0 else -np.inf, scale * grid.qmax
    if np.mean((values < low) | (values > high)) <= _MOST_CLIPPED:
        return 1.0
    counts, edges = np.histogram(values, bins=_BINS)
    centers = (edges[:-1] + edges[1:]) / 2
    histogram = Histogram(centers, counts, float(values.min()), float(values.max()))
    factor = float(least_error_scale(histogram, grid)) / scale
    return factor if factor >= _least_growth(quantizer) else 1.0


def _least_growth(quantizer: Quantizer) -> float:
    learns = bool(quantizer.trainable_variables)
    return _LEAST_GROWTH if learns else _LEAST_GROWTH_WITHOUT_GRADIENT
