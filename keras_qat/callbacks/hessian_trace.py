"""The curvature of the loss at the outputs of quantizers, estimated with random probes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_qat.quantizers import Quantizer


def hessian_traces(
    model: keras.Model,
    quantizers: Sequence[Quantizer],
    x: Any,
    y: Any,
    probes: int = 50,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """`(Tr(H) / N, std(g))` of the training loss at the output of each quantizer.

    `H` is the second and `g` the first derivative of the loss by the `N` elements of the output of
    a quantizer. A sign `v_i` is drawn for every element of all outputs. The mean of `v_i * (H v)_i`
    over draws, summed over one tensor, is the trace of the tensor's block of `H` (Hutchinson 1990).
    Quantizers further on have the derivatives that their estimators state.

    Args:
        model: a compiled model with a loss.
        quantizers: the quantizers; each must be called once in a forward pass.
        x, y: one batch.
        probes: the largest number of probes. They end early when the running means change by less
            than `tolerance`.
        tolerance: a relative change.
        seed: the seed of the signs.

    Returns:
        Two arrays of shape `(quantizers,)`.

    Raises:
        RuntimeError: on another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "The curvature for EWGSSchedule needs the TensorFlow backend. Received: the backend "
            f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow, or keep delta fixed."
        )
    import tensorflow as tf

    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            yielded = _Taps(quantizers, (inner, outer))
            with yielded:
                outputs = model(x, training=True)
            loss = model.compute_loss(x, y, outputs)
        gradients = inner.gradient(loss, yielded.tensors, unconnected_gradients="zero")
    rng = np.random.default_rng(seed)
    sums, means = np.zeros(len(quantizers)), np.zeros(len(quantizers))
    for probe in range(1, probes + 1):
        signs = [tf.constant(_signs(rng, tensor.shape)) for tensor in yielded.tensors]
        products = outer.gradient(gradients, yielded.tensors, signs, unconnected_gradients="zero")
        sums += [float(tf.reduce_mean(v * hv)) for v, hv in zip(signs, products, strict=True)]
        before, means = means, sums / probe
        if probe > 1 and np.all(np.abs(means - before) <= tolerance * np.abs(before)):
            break
    return means, np.array([float(tf.math.reduce_std(gradient)) for gradient in gradients])


class _Taps:
    """A context that records and watches the output of each quantizer."""

    def __init__(self, quantizers: Sequence[Quantizer], tapes: Sequence[Any]):
        self._quantizers = quantizers
        self._tapes = tapes
        self._found: dict[int, Any] = {}

    @property
    def tensors(self) -> list[Any]:
        return [self._found[id(quantizer)] for quantizer in self._quantizers]

    def __enter__(self) -> None:
        for quantizer in self._quantizers:
            quantizer.tap = functools.partial(self._note, id(quantizer))

    def __exit__(self, *exception: Any) -> None:
        for quantizer in self._quantizers:
            quantizer.tap = None

    def _note(self, key: int, tensor: Any) -> None:
        for tape in self._tapes:
            tape.watch(tensor)
        self._found[key] = tensor


def _signs(rng: np.random.Generator, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    return rng.choice(np.array([-1.0, 1.0], np.float32), size=tuple(shape))
