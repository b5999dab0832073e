"""`quantize`: the one call between a float model and quantization-aware training."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat import config as configs
from keras_qat.calibration import (
    CalibrationData,
    Histogram,
    activation_histograms,
    activation_ranges,
)
from keras_qat.config import QuantizationConfig
from keras_qat.keras_graph import (
    GraphNode,
    flat_nodes,
    input_structure,
    nodes,
    own_methods,
)
from keras_qat.model import ORIGINALS, QuantizedModel
from keras_qat.model_checks import check_graph, check_model, check_weights
from keras_qat.rule import UnsupportedLayerError
from keras_qat.rules import rule_of, supported_layers
from keras_qat.transforms.absorb_rescalings import absorb_rescalings
from keras_qat.transforms.bit_widths import BitWidths, Overrides, check_overrides, stays_float
from keras_qat.transforms.decompose_separable import decompose_separable, origins
from keras_qat.transforms.grid_plan import GridPlan
from keras_qat.transforms.insert_quantizers import QuantizerSite, insert_quantizers
from keras_qat.transforms.layer_copies import StaysFloat
from keras_qat.transforms.pair_merges import pair_merges
from keras_qat.transforms.split_activations import split_activations
from keras_qat.transforms.to_layers import layers_of, to_layers
from keras_qat.transforms.tracing import (
    as_graph,
    expanded,
    lost_by_expanding,
    warn_of_training,
)
from keras_qat.uneven_ranges import ColumnRanges, range_warnings, watched_tensors
from keras_qat.wrappers import quantized_kernels

_STEPS = (
    *("train_step", "test_step", "predict_step"),
    *("compute_loss", "compute_metrics", "stateless_compute_loss"),
)


_COMPARED = 16
_ROUNDING, _HALF_ROUNDING = 1e-3, 0.05
"""Float sums in another order, over the largest value: of float32, and of a mixed policy."""


def quantize(
    model: keras.Model,
    config: QuantizationConfig | str | dict[str, Any] | None = None,
    *,
    overrides: Overrides | None = None,
    calibration_data: Any = None,
) -> QuantizedModel:
    """A new model that computes on integer grids and trains with plain `fit`.

    Weight layers are wrapped and keep their names, weights are copied, quantizers are put where
    the integer model rounds, and all scales start from the calibration data. The model that is
    passed in stays as it is.

    Attention layers, EinsumDense and Embedding train with quantized weights, but compute in
    float32, as Dot and the normalizations of single examples do: such a model exports for LiteRT
    alone.

    The first and the last weight layers, the inputs, the outputs, and tensors that enter an Add,
    Subtract or Multiply get 8 bits unless the config or an override says otherwise.

    A layer with `trainable = False` stays frozen, and the scales of its weights with it; the scales
    of its output are those of an activation, and train. A tensor that is zero throughout, a channel
    of zero weights, or values below about 1e-15 get a scale on which they are zero.

    Args:
        model: Functional or Sequential float model, or a built subclassed one whose `call` runs on
            symbolic tensors. Models and layers made of other layers are taken apart.
        config: a `QuantizationConfig`, or the name `"gdnsq"`, `"lsq"` or `"ste"`; 8-bit LSQ by
            default.
        overrides: regular expression for a whole layer name -> config for the weights and the
            output of these layers, or `None` to leave them in float: they train and run in
            float32 between a grid before and a grid behind them, of the config's `add_bits` and
            `input_bits`, and the model exports for LiteRT alone. Of several patterns that match,
            the first counts. A
            `SeparableConv2D` named `"sep"` becomes `"sep_depthwise"` and `"sep"`, an `Add` of three
            tensors named `"sum"` `"sum_partial"` and `"sum"`; the user's name covers both.
        calibration_data: input samples, a few hundred: an array, a dict or list of arrays for
            several inputs, or an iterable of batches such as a `tf.data.Dataset`.

    Returns:
        A `QuantizedModel`, not compiled.

    Raises:
        UnsupportedLayerError: layers without a rule, or that would lose something if they were
            taken apart; the message lists all of them.
        ValueError: a model that computes something else once it is taken apart, a function of the
            user's own that Keras does not find again by its name, a model without a layer graph or
            without layers, weights that are not float32, calibration data that does not fit,
            weights or values that are not finite or beyond 1e18, an override that matches nothing,
            overrides that leave all in float, a bit width outside 1 to 8.

    Example:

    >>> import keras, numpy as np
    >>> features = keras.Input((4,), name="features")
    >>> model = keras.Sequential([features, keras.layers.Dense(2, name="dense")])
    >>> qmodel = quantize(model, "lsq", calibration_data=np.random.rand(8, 4))
    >>> [layer.name for layer in qmodel.layers][1:]
    ['features_quantizer', 'dense', 'dense_quantizer']
    """
    config, overrides = configs.get(config), check_overrides(overrides)
    check_model(model)
    given, model = model, as_graph(model, calibration_data)
    check_graph(model)
    _check_layers(model, overrides)  # before anything copies a layer
    _warn_of_own_code(given, model, overrides)

    def left_in_float(name: str) -> bool:
        return stays_float(name, overrides)

    plain = to_layers(model, left_in_float)
    _check_layers(plain, overrides)  # what stands for a raw operation needs a rule, too
    data = CalibrationData(model, calibration_data)
    normalized, known_as = normalize(plain, left_in_float)
    _check_answers(given, model, normalized, data)
    bit_widths = BitWidths(normalized, config, overrides, known_as)
    float_nodes = [node for node in nodes(normalized) if bit_widths.is_float(node)]
    if not any(bit_widths.quantizes(node) for node in nodes(normalized)):
        raise ValueError(
            f"Nothing of the model {model.name!r} would be quantized: overrides of None leave all "
            f"layers in float. Received: overrides={dict(overrides)!r}"
        )
    signs = {**data.signed_inputs(), **_signs(normalized, float_nodes, data)}
    plan = GridPlan(normalized, bit_widths, signs)
    _check_embeddings(float_nodes, plan)
    quantized, sites = insert_quantizers(normalized, bit_widths, plan, QuantizedModel)
    check_weights(quantized)
    _calibrate_weights(quantized)
    ranges = ColumnRanges(watched_tensors(normalized, plan))
    _calibrate_activations(normalized, sites, data, ranges)
    quantized.grid_warnings = tuple(range_warnings(normalized, plan, ranges, data))
    for message in quantized.grid_warnings:
        warnings.warn(message, stacklevel=2)
    ORIGINALS[quantized] = model
    return quantized


def normalize(plain: keras.Model, left_in_float: StaysFloat) -> tuple[keras.Model, dict[str, str]]:
    """A model of layers with its weight layers linear, and merges of no more than two tensors.

    Layers that stay in float stay as they are.

    Returns:
        The model, and for the parts of layers that were taken apart the layer's name.
    """
    linear = decompose_separable(split_activations(plain, left_in_float), left_in_float)
    paired, pairs = pair_merges(linear, left_in_float)
    normalized = absorb_rescalings(paired, left_in_float)
    return normalized, {**origins(plain, left_in_float), **pairs}


def _check_layers(model: keras.Model, overrides: Overrides) -> None:
    """Raises one error that lists every layer without a rule, before anything copies a layer."""
    problems = layer_problems(model, overrides).values()
    if problems:
        listing = "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))
        raise UnsupportedLayerError(
            f"The model {model.name!r} has layers that cannot be quantized:{listing}\n"
            "Ways out: replace the layer by supported ones; teach keras_qat the layer with "
            "keras_qat.register_rule; leave it in float with overrides={its name: None}, which "
            "exports for LiteRT alone; or split the model and quantize the part without it. "
            f"These have a rule: {', '.join(supported_layers())}."
        )


def layer_problems(model: keras.Model, overrides: Overrides) -> dict[str, str]:
    """Layer name -> why it has no rule, for all that are not left in float by an override."""
    problems = {}
    for node in flat_nodes(model):
        name = node.operation.name
        if layers_of(node) is not None or stays_float(name, overrides):
            continue
        graph = expanded(node)
        inside = {} if graph is None else layer_problems(graph, overrides)
        try:
            if graph is None or inside:
                rule_of(node)
        except UnsupportedLayerError as error:
            lost = lost_by_expanding(node)
            reason = f"{error}, and taken apart {lost}" if lost else str(error)
            problems[name] = "; it calls ".join([reason, *inside.values()])
    return problems


def _check_answers(
    given: keras.Model, graph: keras.Model, normalized: keras.Model, data: CalibrationData
) -> None:
    """Raises ValueError if the model that was made of the user's computes something else."""
    if normalized is given:
        return
    batch = [array[:_COMPARED] for array in next(iter(data))]
    fed = keras.tree.pack_sequence_as(input_structure(graph), batch)
    told = "training" in inspect.signature(given.call).parameters
    expected = keras.tree.flatten(given(fed, training=False) if told else given(fed))
    probe = keras.Model(normalized.inputs, normalized.outputs)
    actual = keras.tree.flatten(probe(batch, training=False))
    exact = all(layer.compute_dtype == "float32" for layer in given.layers)
    for index, pair in enumerate(zip(expected, actual, strict=True)):
        wanted, found = (np.asarray(ops.convert_to_numpy(each), np.float32) for each in pair)
        with np.errstate(invalid="ignore"):  # calibration names the layer of what is not finite
            largest, difference = np.max(np.abs(wanted)), np.max(np.abs(wanted - found))
        if difference > (_ROUNDING if exact else _HALF_ROUNDING) * largest:
            raise ValueError(
                f"The model {given.name!r} ({type(given).__name__}) is not what its layers say: "
                f"taken apart into layers, its output {index} differs by {difference:.3g}, of "
                f"values up to {largest:.3g}. A call of your own does something that layers do not "
                "say, such as drawing random numbers in inference. Leave that layer in float with "
                "overrides={its name: None}, or rebuild the model from other layers."
            )


def _warn_of_own_code(model: keras.Model, graph: keras.Model, overrides: Overrides) -> None:
    """Warns of what the classes of the user's own do that no layer graph says."""
    methods = own_methods(model, _STEPS)
    if methods:
        warnings.warn(
            f"The model {model.name!r} ({type(model).__name__}) has its own {', '.join(methods)}: "
            "the quantized model trains, evaluates and predicts as any keras.Model does. For steps "
            "of your own, subclass keras_qat.QuantizedModel (its docstring shows how).",
            stacklevel=3,
        )
    for node in flat_nodes(graph):
        warn_of_training(node, lambda name: stays_float(name, overrides))


def _check_embeddings(float_nodes: list[GraphNode], plan: GridPlan) -> None:
    for node in float_nodes:
        layer, tensor = node.operation, node.inputs[0]
        if isinstance(layer, keras.layers.Embedding) and plan.grid_of(tensor) is not None:
            raise UnsupportedLayerError(
                f"{layer.name!r} (Embedding): it reads whole numbers, which a grid would round. "
                "State that the input holds some, keras.Input(..., dtype='int32'), or leave the "
                f"input in float, too. Received: an input of dtype {tensor.dtype!r}"
            )


def _signs(
    model: keras.Model, float_nodes: list[GraphNode], data: CalibrationData
) -> dict[str, bool]:
    """Name of a layer in float -> whether anything it yields for the data is negative."""
    outputs = [(node.operation.name, tensor) for node in float_nodes for tensor in node.outputs]
    signs = {name: False for name, _ in outputs}
    if outputs:
        ranges = activation_ranges(model, [tensor for _, tensor in outputs], data)
        for (name, _), (low, _) in zip(outputs, ranges, strict=True):
            signs[name] |= bool(low < 0)
    return signs


def _calibrate_weights(model: keras.Model) -> None:
    for layer in model.layers:
        for found in quantized_kernels(layer):
            kernel = ops.convert_to_numpy(found.channels_last_kernel())
            found.weight_quantizer.calibrate_weights(kernel)


def _calibrate_activations(
    float_model: keras.Model,
    sites: list[QuantizerSite],
    data: CalibrationData,
    ranges: ColumnRanges,
) -> None:
    tensors = [tensor for site in sites for tensor in site.float_tensors]
    histograms = iter(activation_histograms(float_model, tensors, data, ranges.see))
    for site in sites:
        histogram = Histogram.union([next(histograms) for _ in site.float_tensors])
        site.quantizer.calibrate(histogram, keep_range=site.is_input)
