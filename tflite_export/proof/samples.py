"""The examples that a file is proven on: the caller's, or random ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph
from keras_qat.integer.interpreter import check_inputs
from keras_qat.integer.samples import gathered
from tflite_export.proof.comparison import Samples

_RANDOM_SAMPLES = 32
_SEED = 0


def code_samples(graph: IntegerGraph, samples: Mapping[str, npt.NDArray[Any]] | None) -> Samples:
    """int8 samples on the grids of the inputs; inputs on no grid have their own dtype."""
    if samples is None:
        return _random_codes(graph)
    codes = check_inputs(graph, samples)
    for name, array in codes.items():
        grid = graph.tensors[name].qparams
        if not graph.tensors[name].on_grid:
            continue
        if array.size == 0 or array.min() < grid.qmin or array.max() > grid.qmax:
            raise ValueError(
                f"Samples of {name!r} must be integers from {grid.qmin} to {grid.qmax}, at least "
                f"one example. Received: shape {array.shape}, {_span(array)}"
            )
    return codes


def split_labels(graph: IntegerGraph, samples: Any, metric: Any = None) -> tuple[Any, Any]:
    """The inputs by name, and the labels; `None` for what is not there.

    Args:
        graph: the graph that takes the inputs.
        samples: see `keras_qat.integer.samples.batches`.
        metric: the metric that needs the labels.

    Raises:
        ValueError: a metric without labels, labels without inputs, or samples that do not fit the
            graph.
    """
    if samples is None:
        inputs, labels = None, None
    else:
        shapes = [graph.tensors[name].shape for name in graph.inputs]
        whole = gathered(samples, graph.inputs, shapes, "samples")
        inputs, labels = dict(zip(graph.inputs, whole.inputs, strict=True)), whole.labels
    if metric is not None and labels is None:
        raise ValueError(
            "A metric needs labels: pass samples=(x, labels). "
            f"Received: samples of type {type(samples).__name__}"
        )
    return inputs, labels


def real_samples(graph: IntegerGraph, samples: Mapping[str, npt.NDArray[Any]] | None) -> Samples:
    """float32 samples for a trained model; int32 for inputs that are indices."""
    if samples is None:
        codes = _random_codes(graph)
        return {name: graph.tensors[name].dequantize(q) for name, q in codes.items()}
    real = {
        name: np.asarray(samples[name], np.int32 if _is_whole(graph, name) else np.float32)
        for name in graph.inputs
    }
    counts = {array.shape[:1] for array in real.values()}
    for name, array in real.items():
        expected = graph.tensors[name].shape[1:]
        if array.shape[1:] != expected or array.size == 0 or len(counts) != 1:
            raise ValueError(
                f"Samples of {name!r} need the shape (samples, {', '.join(map(str, expected))}), "
                "with the same number of samples for every input, at least one. "
                f"Received: shape {array.shape}"
            )
        if not np.all(np.isfinite(array)):
            raise ValueError(f"Samples of {name!r} must be finite. Received: {_span(array)}")
    return real


def _random_codes(graph: IntegerGraph) -> Samples:
    generator = np.random.default_rng(_SEED)
    codes: dict[str, npt.NDArray[Any]] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        shape = (_RANDOM_SAMPLES, *tensor.shape[1:])
        low, high = tensor.qparams.qmin, tensor.qparams.qmax
        codes[name] = generator.integers(low, high, shape, dtype=np.int8, endpoint=True)
        if tensor.dtype == "float32":
            codes[name] = generator.standard_normal(shape, np.float32)
        elif not tensor.on_grid:
            codes[name] = np.zeros(shape, tensor.dtype)  # 0 is a valid index
    return codes


def _is_whole(graph: IntegerGraph, name: str) -> bool:
    return graph.tensors[name].dtype == "int32"


def _span(array: npt.NDArray[Any]) -> str:
    return f"{array.min()}..{array.max()}" if array.size else "no elements"
