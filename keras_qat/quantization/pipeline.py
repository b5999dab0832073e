"""`quantize`: makes a model for quantization-aware training from a float model."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import keras
from keras import ops

from keras_qat.config import QuantizationConfig
from keras_qat.conversion.tensor_names import label_outputs
from keras_qat.errors import UnsupportedLayerError
from keras_qat.integer.progress import stage
from keras_qat.integer.samples import first_batches
from keras_qat.keras_graph import flat_nodes, own_methods
from keras_qat.model import QuantizedModel
from keras_qat.quantization.calibration import activation_histograms
from keras_qat.quantization.insert_quantizers import insert_quantizers
from keras_qat.quantization.layer_checks import refuse
from keras_qat.quantization.overrides import Overrides, check_overrides, stays_float
from keras_qat.quantization.passes.tracing import warn_of_training
from keras_qat.quantization.plan import LEFT_IN_FLOAT, QuantizationPlan
from keras_qat.quantization.planning import PreparedModel, prepare
from keras_qat.quantization.preserving import (
    check_zeros,
    preserving,
    remember_patterns,
    unkept_zeros,
)
from keras_qat.quantization.unrounded_outputs import fix_probabilities, quantizers_before
from keras_qat.quantized_layers import quantized_kernels
from keras_qat.quantizers import Quantizer
from keras_qat.quantizers.initial_scale import Histogram
from keras_qat.targets import checked_target, problem_on
from keras_qat.training.growing_ranges import keep_sample
from keras_qat.training.learned_bit_widths import settle_frozen_widths
from keras_qat.training.objective import ORIGINALS
from keras_qat.training.own_steps import (
    STEPS,
    StepsNotKeptError,
    give_attributes,
    read_attributes,
    stepping_class,
)


def quantize(
    model: keras.Model,
    config: QuantizationConfig | str | dict[str, Any] | None = None,
    *,
    overrides: Overrides | None = None,
    calibration_data: Any = None,
    calibration_batches: int | None = None,
    target: str | None = None,
    preserve_sparsity: bool = False,
    preserve_clusters: bool = False,
) -> QuantizedModel:
    """A new model that computes on integer grids and trains with plain `fit`.

    Weight layers are wrapped and keep their names. Their weights are copied. Quantizers stand where
    the integer model rounds. All scales start from the calibration data. The given model does not
    change.

    Attention layers, EinsumDense and Embedding become weight-only: they train with quantized
    weights, but compute in float32. Dot and the normalizations of single examples compute in
    float32 too. A model with such layers exports for LiteRT only. With `activation_bits=None` in
    the config, all layers with kernels become weight-only, and nothing else is on a grid: no
    activation, no input and no output of the model. Layers without weights need no rule then.

    The first and the last weight layers, the inputs, the outputs, and tensors that enter an Add,
    Subtract or Multiply get 8 bits unless the config or an override says otherwise.

    Layers that a user wrote are taken apart where that is possible: weights that they add stay
    trainable, and what they do in training alone lives on in `fit`. The quantized model keeps the
    `train_step`, `test_step`, `predict_step`, `compute_loss`, `compute_metrics`, `compile` and
    `metrics` of a class that the user wrote, and the attributes that these read.

    A network that looks untrained, as a bias or a beta is still all zeros in a trainable layer,
    outgrows the ranges that calibration finds. After some of its first 1,024 batches, `fit` widens
    the ranges that clip.

    A layer with `trainable = False` stays frozen, and so do the scales of its weights. The scales
    of its output belong to an activation, and train. With GDNSQ, its weights are at their target
    from the start. A tensor or a channel of zeros, or of values
    below about 1e-15, gets a scale on which the values are zero.

    Args:
        model: a Functional or Sequential float model, or a built subclassed model whose `call` runs
            on symbolic tensors. Models and layers made of other layers are taken apart.
        config: a `QuantizationConfig`, or the name `"dorefa"`, `"gdnsq"`, `"lsq"`, `"pege"`,
            `"ste"` or `"waveq"`; 8-bit LSQ by default.
        overrides: regular expression for a whole layer name -> config for the weights and the
            output of these layers, or `None` to leave them in float. A layer of an inner model also
            has its path as a name, such as `"base/conv1"`. Of several patterns that match, the
            first counts. Layers in float train and run in float32, between a grid of the
            config's `add_bits` before them and a grid of its `input_bits` behind them. Such a model
            exports for LiteRT only. With a config whose `activation_bits` is `None`, layers run in
            float32 between the same grids, and their weights train on grids; what they yield as an
            output of the model stays float32. A `SeparableConv2D` named `"sep"` becomes
            `"sep_depthwise"` and `"sep"`, and an `Add` of three tensors named `"sum"` becomes
            `"sum_partial"` and `"sum"`. The name in the given model matches both parts.
        calibration_data: a few hundred input samples: an array, a dict or list of arrays for
            several inputs, or batches such as a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
            generator. Labels in `(inputs, labels)` are ignored. A tuple of as many arrays as the
            model has inputs is inputs. A subclassed model does not say how many it has: a tuple of
            arrays is its inputs. Data that does not tell its length ends after 100 batches, with a
            warning.
        calibration_batches: how many batches of a dataset or a generator calibrate, such as of one
            without end; `None` for all.
        target: `"litert"`, `"tflm"` or `"ethos-u"` refuses now, before any training, what
            `tflite_export.export` would refuse for that target. `fit` then looks again after every
            epoch, and warns. The model keeps the target (`QuantizedModel.target`), and infers as it
            does (`QuantizedModel.compute_as`). For `"ethos-u"`, sigmoid and tanh get the 8-bit
            grids 1/256 and 1/128, on which the NPU runs them, unless an override says otherwise.
            silu, hard_sigmoid and hard_silu become products and affine maps, as the NPU runs these.
            `None` checks nothing, and infers as LiteRT.
        preserve_sparsity: keeps all weights at zero that are zero now, as pruning made them, in
            training and in the file. It switches the option of this name on in all configs.
        preserve_clusters: keeps weights equal that are equal now and share a scale, as clustering
            made them. A cluster moves by the mean gradient of its weights: with weights `w[i]` of
            cluster `c`, `dw[i] = mean dw[j] over j in c`. So a channel has at most as many codes as
            it has values now. It switches the option of this name on in all configs.

    Returns:
        A `QuantizedModel`, not compiled.

    Raises:
        UnsupportedLayerError: layers have no rule, or would lose something if they were taken
            apart. The message lists all of them. Or the target cannot hold the network. Or zeros
            are to be preserved where weights have 1 bit, which has no zero.
        ValueError: a model that computes something else once it is taken apart, a quantized layer
            that cannot be copied by its configuration, a model without a layer graph or without
            layers, weights that are not float32, calibration data that does not fit,
            weights or values that are not finite or beyond 1e18, an override that matches nothing,
            overrides that leave all layers in float, a bit width outside 1 to 8.

    Example:

    >>> import keras, numpy as np
    >>> features = keras.Input((4,), name="features")
    >>> model = keras.Sequential([features, keras.layers.Dense(2, name="dense")])
    >>> qmodel = quantize(model, "lsq", calibration_data=np.random.rand(8, 4))
    >>> [layer.name for layer in qmodel.layers][1:]
    ['features_quantizer', 'dense', 'dense_quantizer']
    """
    checked_target(target)
    data = first_batches(calibration_data, calibration_batches)
    config, overrides = preserving(
        config,
        overrides,
        preserve_sparsity=preserve_sparsity,
        preserve_clusters=preserve_clusters,
    )
    with stage("Taking the model apart"):
        prepared = prepare(model, config, overrides, data, unsupported=False, target=target)
    plan = prepared.plan
    refuse(model.name, (each.why_not for each in plan.unsupported if each.why_not != LEFT_IN_FLOAT))
    _check_something_is_quantized(plan, overrides)
    kind, attributes = _own_class(model, prepared)
    _warn_of_training(prepared, check_overrides(overrides))
    quantized = _built(prepared, kind)
    give_attributes(quantized, attributes)
    if target is not None and (problem := problem_on(quantized.planned_integer(), target)):
        raise UnsupportedLayerError(_not_on(target, problem))
    quantized.target = target
    if target is not None:
        quantized.compute_as(target)
    quantized.starts_untrained = prepared.starts_untrained
    if quantized.starts_untrained and prepared.data is not None:
        keep_sample(quantized, prepared.data)
    zeros = unkept_zeros(prepared.rules.model, plan)
    said = filter(None, [prepared.untrained, zeros, _parted(prepared)])
    for message in (*plan.warnings, *said):
        warnings.warn(message, stacklevel=2)
    quantized.plan = plan
    quantized.dtype_policy = model.dtype_policy  # `compile` scales the loss by it, as in float
    ORIGINALS[quantized] = prepared.graph
    return quantized


def plan(
    model: keras.Model,
    config: QuantizationConfig | str | dict[str, Any] | None = None,
    *,
    overrides: Overrides | None = None,
    calibration_data: Any = None,
    calibration_batches: int | None = None,
    target: str | None = None,
    preserve_sparsity: bool = False,
    preserve_clusters: bool = False,
) -> QuantizationPlan:
    """What `quantize` with these arguments would do to every layer, and at what cost.

    Nothing is quantized, and the model does not change. Layers without a rule are listed with the
    reason, while `quantize` raises an error. If `quantize` accepts the model, the plan equals
    `quantize(...).plan`. Without calibration data the signs of grids are unknown (`signed` is
    `None`), and there are fewer `warnings`.

    Args:
        model, config, overrides, preserve_sparsity, preserve_clusters: see `quantize`.
        calibration_batches: see `quantize`.
        calibration_data: see `quantize`, or `None`. A subclassed model needs it for the shapes of
            its inputs.
        target: with a target, the plan's last warning says if that cannot hold the network.

    Raises:
        ValueError: see `quantize`; or a target without calibration data.
        UnsupportedLayerError: tensors cannot share a grid, or the calls of an `Average` have
            different numbers of tensors.

    >>> import keras, keras_qat
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")])
    >>> [layer.weight_bits for layer in plan(model, keras_qat.LSQConfig(weight_bits=4)).layers]
    [8]
    """
    checked_target(target)
    data = first_batches(calibration_data, calibration_batches)
    if target is not None and calibration_data is None:
        raise ValueError(
            "plan(target=...) needs calibration_data, because what a target holds depends on "
            f"scales. Received: target={target!r}, calibration_data=None"
        )
    config, overrides = preserving(
        config,
        overrides,
        preserve_sparsity=preserve_sparsity,
        preserve_clusters=preserve_clusters,
    )
    prepared = prepare(model, config, overrides, data, unsupported=True, target=target)
    if target is None or prepared.plan.unsupported:
        return prepared.plan
    problem = problem_on(_built(prepared).planned_integer(), target)
    said = (*prepared.plan.warnings, *filter(None, [_not_on(target, problem)]))
    return dataclasses.replace(prepared.plan, warnings=said)


def _built(prepared: PreparedModel, kind: type[keras.Model] = QuantizedModel) -> QuantizedModel:
    """The calibrated model of a plan."""
    quantized: QuantizedModel
    quantized, quantizers = insert_quantizers(prepared.rules, prepared.plan, kind)
    label_outputs(quantized, like=prepared.graph)
    remember_patterns(quantized)
    _calibrate_weights(quantized)
    settle_frozen_widths(quantized)
    check_zeros(quantized)
    _calibrate_activations(quantizers, prepared, whole=quantizers_before(quantized))
    fix_probabilities(quantized)
    for quantizer, grid in zip(quantizers, prepared.plan.grids, strict=True):
        if grid.native_scale is not None:
            quantizer.set_scale(grid.native_scale)
    return quantized


def _not_on(target: str, problem: str) -> str:
    return problem and f"Target {target!r} cannot hold this network: {problem}"


def _parted(prepared: PreparedModel) -> str:
    """A warning of weights that layers share in the float model alone; empty if there are none."""
    floats = {layer.name for layer in prepared.plan.layers if layer.config is None}
    holders: dict[int, list[str]] = {}
    for layer in prepared.graph.layers:
        for variable in layer.trainable_variables:
            holders.setdefault(id(variable), []).append(layer.name)
    for names in holders.values():
        kept = [name for name in names if name in floats]
        if kept and len(names) > 1:
            others = ", ".join(repr(name) for name in names if name != kept[0])
            return (
                f"Layer {kept[0]!r} is left in float and shares a weight with {others}. In the "
                "quantized model each has a weight of its own, and they train apart. To keep one "
                "weight, write them as one layer that is called twice."
            )
    return ""


def _check_something_is_quantized(plan: QuantizationPlan, overrides: Overrides | None) -> None:
    kernels = any(layer.weight_bits for layer in plan.layers)
    if not kernels and all(layer.computes_in_float for layer in plan.layers):
        raise ValueError(
            f"Nothing of the model {plan.model_name!r} would be quantized: overrides of None leave "
            f"all layers in float. Received: overrides={dict(overrides or {})!r}"
        )


def _own_class(
    model: keras.Model, prepared: PreparedModel
) -> tuple[type[keras.Model], dict[str, Any]]:
    """The class of the quantized model, with the user's steps, and the attributes they read."""
    steps = own_methods(model, STEPS)
    if not steps:
        return QuantizedModel, {}
    names = {layer.name for layer in prepared.rules.model.layers}
    try:
        attributes = read_attributes(model, QuantizedModel, names)
    except StepsNotKeptError as reason:
        warnings.warn(
            f"The model {model.name!r} ({type(model).__name__}) has its own "
            f"{', '.join(steps)}, which the quantized model does not keep: "
            f"{reason}. It trains, evaluates and predicts as any keras.Model does. For steps of "
            "your own, subclass keras_qat.QuantizedModel (its docstring shows how).",
            stacklevel=3,
        )
        return QuantizedModel, {}
    return stepping_class(QuantizedModel, type(model)), attributes


def _warn_of_training(prepared: PreparedModel, overrides: Overrides) -> None:
    """Warns of layers that do something else in training."""
    for node in flat_nodes(prepared.graph):
        warn_of_training(node, lambda name: name in prepared.whole or stays_float(name, overrides))


def _calibrate_weights(model: keras.Model) -> None:
    for layer in model.layers:
        for found in quantized_kernels(layer):
            kernel = ops.convert_to_numpy(found.channels_last_kernel())
            found.weight_quantizer.calibrate_weights(kernel)


def _calibrate_activations(
    quantizers: list[Quantizer], prepared: PreparedModel, whole: set[Quantizer]
) -> None:
    """Calibrates every activation quantizer on the values of all tensors on its grid.

    Inputs of the model and the grids in `whole` keep their whole range.
    """
    found = activation_histograms(
        prepared.rules.model,
        prepared.grid_tensors(),
        prepared.ranges,
        prepared.data.watched_as("Calibrating") if prepared.data else (),
    )
    histograms = iter(found)
    for quantizer, grid in zip(quantizers, prepared.plan.grids, strict=True):
        histogram = Histogram.union([next(histograms) for _ in grid.tensors])
        quantizer.calibrate(histogram, keep_range=grid.is_input or quantizer in whole)
