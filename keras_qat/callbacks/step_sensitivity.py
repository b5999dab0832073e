"""`step_sensitivity`: how much the loss feels the step of every quantizer."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.callbacks.channel_capacity import channel_of
from keras_qat.keras_graph import (
    graph_between,
    input_structure,
    nodes,
    packed_outputs,
    structured_inputs,
)
from keras_qat.model import QuantizedModel
from keras_qat.quantizers import Quantizer
from keras_qat.training.backend_state import restored


def step_sensitivity(
    model: QuantizedModel,
    x: Any,
    y: Any,
    loss: Any = None,
    *,
    batch_size: int = 64,
    independent: bool = True,
) -> dict[str, float]:
    """How fast the loss on labels changes with the base-2 logarithm of each quantizer's step.

    A quantizer yields `x_hat = clip(x) + n`. Its noise `n` is proportional to its step `s`, so
    `dL / dlog2(s) = ln(2) * sum g * n` with `g = dL / dx_hat`: to first order, the change of the
    loss for one bit less. Noise that adds up to nothing on one batch hurts on the next. So the
    result is the root mean square of the derivative over independent random signs of the noise:
    `ln(2) * sqrt(sum (g * n)**2)`, and over batches.

    The derivative is the one of training: later quantizers pass the gradient that their estimators
    state, and BatchNormalization uses the statistics of the batch. With fewer examples in a batch
    activations weigh more, because their noise averages out over the examples.

    On ResNet-8 with 4 bits, before training, the order agrees with the rise of the loss when single
    tensors get 2 bits: rank correlation +0.75 (`benchmarks/results/bottlenecks.md`).

    Args:
        model: the quantized model.
        x, y: labelled examples, inputs as for `fit`; a few hundred are enough.
        loss: a Keras loss, or its name; by default the loss that the model was compiled with.
        batch_size: the examples in a batch, 1 or more.
        independent: `False` takes the noise with its signs: `ln(2) * abs(sum g * n)`.

    Returns:
        A number for every quantizer by its name in `QuantizedModel.named_quantizers`, in units of
        the loss per bit, 0 or more; NaN after divergence. The model is not changed.

    Raises:
        ValueError: a model without quantizers, a model that is not compiled and no `loss`, inputs
            and labels that are not equally many, or none, or a `batch_size` below 1.
        RuntimeError: on another backend than TensorFlow.

    >>> import keras, keras_qat
    >>> inputs = keras.Input((2,), name="x")
    >>> model = keras.Model(inputs, keras.layers.Dense(1, name="dense")(inputs))
    >>> qmodel = keras_qat.quantize(model, calibration_data=np.eye(2))
    >>> list(step_sensitivity(qmodel, np.eye(2), np.ones((2, 1)), loss="mse"))
    ['x/activations', 'dense/weights', 'dense/activations']
    """
    parts = list(_batches(x, y, batch_size))
    measure = _Measure(model, _loss_of(model, loss), independent)
    with restored(model.variables):  # a pass in training moves averages and seeds
        squares = [measure(*part) for part in parts]
    return {
        name: math.log(2.0) * math.sqrt(np.mean([each[name] for each in squares]))
        for name in squares[0]
    }


class _Measure:
    """The square of `sum g * n` of every quantizer on one batch, for one kind of signs."""

    def __init__(self, model: QuantizedModel, loss: Callable[..., Any], independent: bool):
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "step_sensitivity needs the TensorFlow backend. Received: the backend "
                f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
            )
        self._model = model
        self._loss = loss
        self._independent = independent
        self._sites = model.quantizer_sites()
        if not self._sites:
            raise ValueError(f"{model.name!r} has no quantizers: all of its layers are in float.")
        behind = {
            id(node.inputs[0]): node.outputs[0]
            for node in nodes(model)
            if isinstance(node.operation, Quantizer)
        }
        read = {
            name: (site.source, behind[id(site.source)])
            for name, site in self._sites.items()
            if site.kernel is None
        }
        outputs = {"outputs": model.outputs, "around": read}
        self._run = graph_between(input_structure(model), outputs)

    def __call__(self, x: Any, y: Any) -> dict[str, float]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            with _watched_outputs(self._model.quantizers, tape) as yielded:
                found = self._run(structured_inputs(self._model, x), training=True)
            loss = self._loss(x, y, packed_outputs(self._model, list(found["outputs"])))
        tensors = [tensor for each in yielded.values() for tensor in each]
        passed = tape.gradient(loss, tensors, unconnected_gradients="zero")
        gradients = {id(tensor): g for tensor, g in zip(tensors, passed, strict=True)}
        squares = {}
        for name, site in self._sites.items():
            if site.kernel is None:
                before, after = found["around"][name]
                calls, channel = [after], channel_of(site.quantizer)
            else:
                before = site.quantizer.prepare(site.kernel.channels_last_kernel())
                calls, channel = yielded[id(site.quantizer)], channel_of(site.quantizer, before)
            clipped = np.clip(ops.convert_to_numpy(before), channel.low, channel.high)
            noise = ops.convert_to_numpy(calls[0]) - clipped
            gradient = sum(ops.convert_to_numpy(gradients[id(each)]) for each in calls)
            squares[name] = self._square(gradient * noise)
        return squares

    def _square(self, terms: Any) -> float:
        if self._independent:
            return float(np.sum(np.square(terms, dtype=np.float64)))
        return float(np.sum(terms, dtype=np.float64)) ** 2


@contextlib.contextmanager
def _watched_outputs(quantizers: Sequence[Quantizer], tape: Any) -> Iterator[dict[int, list[Any]]]:
    """Watches the outputs of quantizers, by the id of the quantizer, in the order of its calls."""
    found: dict[int, list[Any]] = {id(each): [] for each in quantizers}

    def note(key: int, tensor: Any) -> None:
        tape.watch(tensor)
        found[key].append(tensor)

    for quantizer in quantizers:
        quantizer.tap = functools.partial(note, id(quantizer))
    try:
        yield found
    finally:
        for quantizer in quantizers:
            quantizer.tap = None


def _loss_of(model: QuantizedModel, loss: Any) -> Callable[..., Any]:
    """`(x, y, y_pred) -> scalar`: the given loss, or the compiled one without any penalty."""
    if loss is not None:
        return functools.partial(_mean_loss, keras.losses.get(loss))
    if not model.compiled:
        raise ValueError(
            f"Model {model.name!r} is not compiled, so its loss is unknown. Compile it, or pass "
            "loss='sparse_categorical_crossentropy', for example."
        )
    return lambda x, y, y_pred: model.compute_loss(x, y, y_pred, training=False)


def _mean_loss(loss: Callable[..., Any], x: Any, y: Any, y_pred: Any) -> Any:
    """The mean over examples, summed over outputs."""
    pairs = zip(keras.tree.flatten(y), keras.tree.flatten(y_pred), strict=True)
    return sum(ops.mean(loss(labels, outputs)) for labels, outputs in pairs)


def _batches(x: Any, y: Any, size: int) -> Iterator[tuple[Any, Any]]:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"The batch_size must be a whole number from 1 on. Received: {size!r}")
    if isinstance(y, list | tuple) and np.ndim(y[:1]) == 1:
        y = np.asarray(y)  # plain numbers, not one array for each output
    counts = {len(each) for each in keras.tree.flatten((x, y))}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            "step_sensitivity needs as many labels as inputs, and at least one. Received: "
            f"{[len(each) for each in keras.tree.flatten(x)]} inputs and "
            f"{[len(each) for each in keras.tree.flatten(y)]} labels"
        )
    for first in range(0, counts.pop(), size):
        part = slice(first, first + size)
        yield keras.tree.map_structure(lambda each, part=part: np.asarray(each[part]), (x, y))
