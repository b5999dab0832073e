"""`TargetInference`: a model whose inference rounds as a target does, and its codes."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_qat.arithmetic import (
    DEFAULT,
    Arithmetic,
    RoundsAsTarget,
    arithmetic_of,
    forget_traces,
    set_arithmetic,
)
from keras_qat.conversion.to_integer import (
    placed_codes,
    quantized_tensors,
    raw_inputs,
    raw_outputs,
)
from keras_qat.deep_graphs import room_for_depth
from keras_qat.keras_calls import adding_no_losses
from keras_qat.keras_graph import nodes, probe_of, structured_inputs, with_inner_layers
from keras_qat.keras_precision import full_precision
from keras_qat.quantized_layers import QuantizeWrapper
from keras_qat.quantized_layers.living import LivingBranch, LivingIdentity
from keras_qat.quantized_layers.mean import MeanOfCodes
from keras_qat.quantizers import ActivationQuantizer
from keras_qat.training.finite_values import NanKeeper, check_inputs

_PROBES: weakref.WeakKeyDictionary[keras.Model, keras.Model] = weakref.WeakKeyDictionary()
"""The probe of each model, compiled once for `layer_codes`. A model would save its attributes."""

_TOLD_BY: weakref.WeakKeyDictionary[keras.Model, keras.Model] = weakref.WeakKeyDictionary()
"""The probe of each model that trains as its target."""

_DEEP, _FEW_BATCHES, _FIRST_CALLS = 300, 8, 4
"""Calls of a graph from which on few batches run op by op: compiling takes over 0.1 s a layer."""

_CALLS: weakref.WeakKeyDictionary[keras.Model, int] = weakref.WeakKeyDictionary()
"""How often each probe was called."""

_LIVING: weakref.WeakSet[TargetInference] = weakref.WeakSet()

_DROPS = keras.layers.Dropout | keras.layers.SpatialDropout2D


class TargetInference(keras.Model):
    """A quantized model: what it infers, and in whose arithmetic."""

    _nan_keeper: NanKeeper

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._trains_as_target = False
        _LIVING.add(self)

    def compute_as(
        self, target: str, weight_storage: str = "auto", in_training: bool = False
    ) -> None:
        """Lets inference round exactly as the kernels of a target do.

        This holds for `predict`, `evaluate`, the validation inside `fit`, and `layer_codes`. So
        checkpoints and early stopping see what the exported file computes. The choice is saved with
        the layers, and other models that call them follow. Keras traces them anew. You do so with a
        `tf.function` or `jax.jit` of your own, and on JAX with a plain model around this one:
        compile it again. Training steps stay as they are, unless `in_training` says otherwise.

        Args:
            target: `"litert"` (the default of a model): one rounding in float32, as on x86-64.
                `"xnnpack-arm64"`: as LiteRT on phones, whose MUL, MEAN and SOFTMAX differ in the
                last bit. `"tflm"`: two roundings in fixed point, as TensorFlow Lite Micro.
            weight_storage: how the file stores weights, as for `tflite_export.export`. `"int4"` and
                `"int2"` leave less room for headroom, so they round otherwise: Dense layers for
                `"litert"`, all layers with weights for `"tflm"`. The other storages round alike.
            in_training: whether training steps of this model yield the target's values too, for a
                last phase of training. Behind each quantizer `y_hat = y_target`, with the gradient
                of `y_hat` in training. A BatchNormalization between grids keeps its running
                statistics, and `fit` does not set them anew. Dropout, and what your own layers draw
                at random, acts on gradients alone. A step computes the network twice. Neither a
                file nor another model with these layers keeps this choice.

        Raises:
            ValueError: no such target, or a storage that it does not load; or, in training, a model
                without an activation on a grid, or with a layer that changes its input at random in
                training, such as image augmentation.

        >>> import keras, keras_qat
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> qmodel = keras_qat.quantize(model, calibration_data=np.eye(4))
        >>> qmodel.compute_as("tflm")
        >>> qmodel.computes_as
        'tflm'
        """
        arithmetic = arithmetic_of(target, weight_storage)
        if in_training:
            _check_has_values(self)
            _check_draws_nothing(self)
        _infer_as(dict.fromkeys(self.rounding_layers(), arithmetic), lasting=True)
        if in_training != self._trains_as_target:
            self._trains_as_target = in_training
            self.retrace_training()

    def retrace_training(self) -> None:
        """Lets Keras trace training anew, also in a `fit` that runs."""
        if self.train_function is not None:
            self.make_train_function(force=True)

    @property
    def trains_as_target(self) -> bool:
        """Whether training steps yield the target's values."""
        return self._trains_as_target

    def target_values(self, inputs: Any, mask: Any = None) -> dict[Any, list[Any]]:
        """What inference yields behind each quantizer of an activation, for each of its calls."""
        calls = [node for node in nodes(self) if isinstance(node.operation, ActivationQuantizer)]
        if self not in _TOLD_BY:
            outputs = [tensor for node in calls for tensor in node.outputs]
            _TOLD_BY[self] = probe_of(self, outputs)
        with full_precision(_TOLD_BY[self]), adding_no_losses(_TOLD_BY[self]):
            values = _TOLD_BY[self](inputs, training=False, mask=mask)
        found: dict[Any, list[Any]] = {}
        for node, value in zip(calls, values, strict=True):
            found.setdefault(node.operation, []).append(value)
        return found

    @property
    def computes_as(self) -> str:
        """The target as which the model infers: its name, if it does so everywhere.

        Layers whose grids have no integers yet, such as GDNSQ's grids above 8 bits, infer in float
        as in training, and so do means over more than 32 x 32 pixels by `AveragePooling`, or of
        models that an older version saved. The text then lists them.
        """
        arithmetic = self._arithmetic()
        stored = f", weights as {arithmetic.weight_storage}" * (arithmetic.weight_bits < 8)
        name = arithmetic.target + stored
        in_float = [each.name for each in self.rounding_layers() if _infers_in_float(each)]
        return f"{name}, in float so far: {', '.join(in_float)}" if in_float else name

    @contextlib.contextmanager
    def computing_as(self, target: str, weight_storage: str = "auto") -> Iterator[tuple[str, str]]:
        """Infers as a target does inside the context; see `compute_as`.

        Yields:
            The target as which the model inferred before, and its storage of weights.
        """
        before, each_before = self._arithmetic(), {x: x.arithmetic for x in self.rounding_layers()}
        _infer_as(dict.fromkeys(each_before, arithmetic_of(target, weight_storage)))
        try:
            yield before.target, before.weight_storage
        finally:
            _infer_as(each_before)

    def _arithmetic(self) -> Arithmetic:
        found = self.rounding_layers()
        return found[0].arithmetic if found else DEFAULT

    def rounding_layers(self) -> list[RoundsAsTarget]:
        """The layers that round as the target does, in the order of the graph."""
        found = (node.operation for node in nodes(self))
        return list(dict.fromkeys(each for each in found if isinstance(each, RoundsAsTarget)))

    def layer_codes(self, x: Any, batch_size: int = 64) -> dict[str, np.ndarray]:
        """The codes that this model computes from float inputs in inference.

        Args:
            x: inputs as for `predict`.
            batch_size: as for `predict`.

        Returns:
            int8 arrays by tensor name of the integer graph: every input, and every tensor that
            a quantizer yields. Inputs that only layers in float read, and outputs that they yield,
            are returned as they are.

        Raises:
            ValueError: inputs that hold NaN.
        """
        check_inputs(self, self._nan_keeper, x)
        sites, raw = quantized_tensors(self), raw_inputs(self) | raw_outputs(self)
        if self not in _PROBES:
            outputs = {name: site.tensor for name, site in sites.items()}
            outputs |= {name: each.tensor for name, each in raw.items()}
            _PROBES[self] = probe_of(self, outputs)
        fed = structured_inputs(self, x)
        with full_precision(_PROBES[self]):
            probe, exact = _PROBES[self], self._arithmetic().fixed_point
            values = _values(probe, fed, batch_size, exact)
        codes = {name: placed_codes(values[name], site.quantizer) for name, site in sites.items()}
        return codes | {name: values[name].astype(each.dtype) for name, each in raw.items()}


def _values(probe: keras.Model, fed: Any, batch_size: int, exact: bool) -> dict[str, np.ndarray]:
    """The outputs of a probe: compiled, or op by op where compiling would take far longer.

    Fixed point is exact, so both are the same there, and its many small ops take long to compile:
    the first calls are not worth it.
    """
    _CALLS[probe] = _CALLS.get(probe, 0) + 1
    first = _CALLS[probe] <= _FIRST_CALLS and keras.backend.backend() == "tensorflow"
    arrays = [each for each in keras.tree.flatten(fed) if isinstance(each, np.ndarray)]
    all_arrays = len(arrays) == len(keras.tree.flatten(fed))
    count = len(arrays[0]) if arrays else 0
    few = all_arrays and count <= _FEW_BATCHES * batch_size
    if not few or not ((exact and first) or sum(1 for _ in nodes(probe)) >= _DEEP):
        found: dict[str, np.ndarray] = probe.predict(fed, batch_size=batch_size, verbose=0)
        return found
    parts = []
    for start in range(0, count, batch_size):
        part = keras.tree.map_structure(lambda x, at=start: x[at : at + batch_size], fed)
        with room_for_depth():
            outputs = probe(part, training=False)
        parts.append({name: keras.ops.convert_to_numpy(each) for name, each in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _infer_as(chosen: Mapping[RoundsAsTarget, Arithmetic], lasting: bool = False) -> None:
    """Lets layers infer so, in all models that live.

    Args:
        chosen: the arithmetic of each layer.
        lasting: whether a training step may come before the arithmetic changes back.
    """
    changed = set(map(id, set_arithmetic(chosen)))
    for model in list(_LIVING) if changed else ():
        if not changed.isdisjoint(map(id, model.rounding_layers())):
            forget_traces(model)
            _PROBES.pop(model, None)
            if lasting and model.trains_as_target:
                model.retrace_training()


def _check_has_values(model: keras.Model) -> None:
    """Raises a ValueError for a model in which no activation is rounded."""
    if not any(isinstance(node.operation, ActivationQuantizer) for node in nodes(model)):
        raise ValueError(
            f"Model {model.name!r} has no activation on a grid (activation_bits=None), so training "
            "steps have nothing to round as the target does. Leave in_training out. Received: "
            "in_training=True"
        )


def _check_draws_nothing(model: keras.Model) -> None:
    """Raises a ValueError for a layer whose draws only one of two computations would see."""
    for node in nodes(model):
        layer = node.operation
        if not isinstance(layer, ActivationQuantizer | QuantizeWrapper) and _draws(layer):
            raise ValueError(
                f"Layer {layer.name!r} ({type(layer).__name__}) changes its input at random in "
                "training, so training steps cannot round as the target does. Do that to the "
                "dataset instead. Received: in_training=True"
            )


def _draws(layer: Any) -> bool:
    """Whether a layer, or one inside it or inside the layer whose code it runs, draws at random."""
    if isinstance(layer, LivingIdentity | LivingBranch):
        return True
    places = (layer, getattr(layer, "held", None))
    layers = [each for each in places if isinstance(each, keras.layers.Layer)]
    inside = [part for each in layers for part in with_inner_layers(each)]
    return any(
        hasattr(each, "seed_generator") or hasattr(each, "generator")
        for each in inside
        if not isinstance(each, _DROPS)
    )


def _infers_in_float(layer: RoundsAsTarget) -> bool:
    """Whether a layer is between grids, and yet cannot compute the target's codes."""
    if not (layer.arithmetic.fixed_point or layer.arithmetic.arm64):
        return False
    if isinstance(layer, ActivationQuantizer):
        means = (told for told in layer.accumulators.values() if isinstance(told, MeanOfCodes))
        return not all(told.knows_sums for told in means)
    if isinstance(layer, QuantizeWrapper) and layer.connections and layer.arithmetic.fixed_point:
        return not layer.computes_on_target()
    return False
