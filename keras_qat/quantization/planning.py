"""From a user's model to a plan, for `quantize` and `plan`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat import config as configs
from keras_qat.config import QuantizationConfig
from keras_qat.input_batches import CalibrationData
from keras_qat.keras_graph import graph_between, input_name, input_structure
from keras_qat.layer_rules.multiplications import macs
from keras_qat.layer_rules.rule import Output
from keras_qat.lowering.affine import lower_affine
from keras_qat.model import QuantizedModel
from keras_qat.quantization.bit_width_policy import BitWidthPolicy
from keras_qat.quantization.calibration import activation_ranges
from keras_qat.quantization.costs import (
    float_bytes,
    stored_bytes,
    stored_bytes_in_float,
    stored_slopes,
)
from keras_qat.quantization.fresh_statistics import with_statistics_of
from keras_qat.quantization.grid_planning import GridPlanner
from keras_qat.quantization.layer_checks import layer_problems, refuse
from keras_qat.quantization.layer_configs import LayerConfigs
from keras_qat.quantization.model_checks import check_graph, check_model, check_weights
from keras_qat.quantization.overrides import Overrides, check_overrides
from keras_qat.quantization.passes.fold_normalization import fold_normalization
from keras_qat.quantization.passes.native_forms import native_forms
from keras_qat.quantization.passes.normalize import normalize
from keras_qat.quantization.passes.paths import inner_paths, paths_of
from keras_qat.quantization.passes.to_layers import to_layers
from keras_qat.quantization.passes.tracing import as_graph
from keras_qat.quantization.plan import (
    LEFT_IN_FLOAT,
    LayerPlan,
    PlannedGrid,
    QuantizationPlan,
    described_bits,
)
from keras_qat.quantization.ruled_graph import MASK, Call, RuledGraph
from keras_qat.quantization.uneven_ranges import ColumnRanges, range_warnings, watched_tensors
from keras_qat.quantized_layers import QuantizeDense
from keras_qat.targets import NATIVE_GRIDS
from keras_qat.training.growing_ranges import looks_untrained

_COMPARED = 16
_ROUNDING, _HALF_ROUNDING = 1e-3, 0.05
"""The largest relative difference of float sums in another order: float32, and a mixed policy."""


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedModel:
    """A model with its plan, and all that `quantize` needs to carry it out.

    Attributes:
        graph: the user's model, or an equal model with a layer graph.
        rules: the normalized model, each call with its rule.
        plan: the plan of each call.
        data: the calibration data, or `None`.
        ranges: the least and the largest value of each tensor of the plan's grids, grid by grid.
        whole: names of layers that need no rule and are not taken apart.
        untrained: what was done to statistics of BatchNormalization, in words; mostly empty.
        starts_untrained: whether the network looks untrained.
    """

    graph: keras.Model
    rules: RuledGraph
    plan: QuantizationPlan
    data: CalibrationData | None
    ranges: np.ndarray
    whole: frozenset[str] = frozenset()
    untrained: str = ""
    starts_untrained: bool = False

    def grid_tensors(self) -> list[Any]:
        """The tensors of the plan's grids in the normalized model, grid by grid."""
        return _grid_tensors(self.rules, self.plan.grids)


def prepare(
    model: keras.Model,
    config: QuantizationConfig | str | dict[str, Any] | None,
    overrides: Overrides | None,
    calibration_data: Any,
    unsupported: bool,
    target: str | None = None,
) -> PreparedModel:
    """Checks a model, normalizes it, and plans its grids. The given model does not change.

    Args:
        model, config, overrides, calibration_data: see `quantize`.
        unsupported: whether layers without a rule are allowed. They are planned in float.
        target: see `quantize`.

    Raises:
        UnsupportedLayerError, ValueError: see `quantize`.
    """
    config, overrides = configs.get(config), check_overrides(overrides)
    check_model(model)
    if isinstance(model, QuantizedModel):
        raise ValueError(
            f"The model {model.name!r} is quantized already: quantize the float model."
        )
    graph = as_graph(model, calibration_data)
    check_graph(graph)
    named = LayerConfigs(config, overrides, paths=inner_paths(graph))
    reasons, whole = layer_problems(graph, named)
    if not unsupported:
        refuse(graph.name, reasons.values())

    def left_in_float(name: str) -> bool:
        return name in reasons or name in whole or named.is_left_in_float(name)

    plain = to_layers(graph, left_in_float)
    paths = paths_of(plain)
    named = LayerConfigs(config, overrides, paths=paths)
    # The layers that replace raw operations need rules too.
    reasons |= layer_problems(plain, named, checked={layer.name for layer in graph.layers})[0]
    if not unsupported:
        refuse(graph.name, reasons.values())
    needs_data = not unsupported or calibration_data is not None
    data = CalibrationData(graph, calibration_data) if needs_data else None
    normalized, origins = normalize(plain, left_in_float)
    if target in NATIVE_GRIDS:
        normalized, added = native_forms(normalized, left_in_float)
        origins = {**origins, **{name: origins.get(own, own) for name, own in added.items()}}
    untrained = ""
    if data is not None:
        _check_answers(model, graph, normalized, data)
        normalized, untrained = with_statistics_of(normalized, graph, data)
    starts_untrained = looks_untrained(normalized)  # a folded bias is never 0
    named = LayerConfigs(config, overrides, origins, paths)
    normalized = fold_normalization(normalized, named.share_one_scale, left_in_float)
    known_as = {**origins, **{name: name for name in reasons}}
    in_float: dict[str, None] = {re.escape(name): None for name in reasons}
    every = {**in_float, **overrides}
    rules = RuledGraph(normalized, LayerConfigs(config, every, known_as, paths).computes_in_float)
    policy = BitWidthPolicy(rules, config, every, known_as, paths)
    grids = GridPlanner(rules, policy, NATIVE_GRIDS.get(target or ""))
    planned = _Planner(rules, policy, grids, reasons, paths).plan(model.name)
    prepared = _measured(graph, rules, planned, policy, data)
    return dataclasses.replace(
        prepared,
        whole=frozenset(whole),
        untrained=untrained,
        starts_untrained=starts_untrained,
    )


class _Planner:
    """Makes the plan of every call from the planned grids."""

    def __init__(
        self,
        rules: RuledGraph,
        policy: BitWidthPolicy,
        grids: GridPlanner,
        reasons: Mapping[str, str],
        paths: Mapping[str, Sequence[str]],
    ):
        self._paths = paths
        self._rules = rules
        self._policy = policy
        self._grids = grids
        self._reasons = reasons
        self._counted: set[int] = set()

    def plan(self, model_name: str) -> QuantizationPlan:
        inputs = self._rules.model.inputs
        return QuantizationPlan(
            model_name,
            tuple((input_name(tensor), self._grids.starts(tensor)) for tensor in inputs),
            tuple(grid.with_sign({}) for grid in self._grids.grids),
            tuple(self._layer(call) for call in self._rules.calls),
            tuple(dict.fromkeys(filter(None, map(self._why_not_one_scale, self._rules.calls)))),
        )

    def _wants_one_scale(self, call: Call) -> bool:
        config, _ = self._policy.config_for([call.name])
        on_grids = config is not None and not self._policy.is_float(call)
        is_dense = call.rule.wrapper is QuantizeDense
        return on_grids and is_dense and config is not None and config.per_tensor_dense

    def _gains_behind(self, layer: Any) -> Any:
        """The layer behind a call of a layer that gives each unit its own gain, or `None`."""
        calls = [call for call in self._rules.calls if call.layer is layer]
        found = (self._gains_of_reader(call.node.outputs[0]) for call in calls)
        return next(filter(None, found), None)

    def _gains_of_reader(self, tensor: Any) -> Any:
        readers = self._rules.readers(tensor)
        maps = [call for call in readers if call is not None and call.rule.lower is lower_affine]
        if len(readers) != 1 or not maps:
            return None
        layer = maps[0].layer
        is_uniform = isinstance(layer, keras.layers.Rescaling) and np.ndim(layer.scale) == 0
        return self._gains_of_reader(maps[0].node.outputs[0]) if is_uniform else layer

    def _why_not_one_scale(self, call: Call) -> str:
        """Why a Dense layer keeps a scale for each unit against its config; mostly empty."""
        behind = self._gains_behind(call.layer) if self._wants_one_scale(call) else None
        if behind is None:
            return ""
        return (
            f"Layer {call.name!r} keeps a weight scale for each unit, against "
            f"per_tensor_dense=True: {behind.name!r} ({type(behind).__name__}) behind it has a "
            "gain for each unit. Only a BatchNormalization is folded before training: if both "
            "layers are called once, have one config, train both or neither, and have no "
            "regularizer or constraint."
        )

    def _layer(self, call: Call) -> LayerPlan:
        layer, tensor = call.layer, call.node.outputs[0]
        first_call = id(layer) not in self._counted
        self._counted.add(id(layer))
        config, _ = self._policy.config_for([layer.name])
        problem = self._problem(call)
        if problem:
            config = None
        has_kernel = config is not None and call.rule.wrapper is not None
        in_float = config is not None and self._policy.is_float(call)
        bits = self._policy.weight_bits(layer.name) if has_kernel else None
        one_scale = has_kernel and self._wants_one_scale(call) and not self._gains_behind(layer)
        litert, tflm = (0, 0)
        if first_call and in_float:
            litert = stored_bytes_in_float(call.node, has_kernel)
        elif first_call and bits:
            litert, tflm = stored_bytes(call.node, bits, one_scale)
        elif first_call and config is not None:
            litert = tflm = stored_slopes(layer)
        starts = tuple(map(self._grids.starts, call.node.outputs))
        why_not = problem or self._reasons.get(layer.name, LEFT_IN_FLOAT)
        return LayerPlan(
            name=layer.name,
            layer_type=type(getattr(layer, "held", layer)).__name__,
            output_shape=tuple(tensor.shape[1:]),
            rule=call.rule,
            config=config,
            weight_bits=bits,
            input_gain=self._rules.input_gain(call),
            starts=starts,
            grid=self._grids.grid_of(tensor),
            output_bits=None if starts[0] is None else self._grids.grids[starts[0]].bits,
            output=self._output(call),
            macs=macs(layer, call.node.inputs, call.node.outputs) if has_kernel else 0,
            float_bytes=float_bytes(layer) if first_call else 0,
            litert_bytes=litert,
            tflm_bytes=tflm,
            why_not="" if config is not None else why_not,
            in_float=in_float,
            one_scale=one_scale,
            path=next(iter(self._paths.get(layer.name, ())), ""),
        )

    def _output(self, call: Call) -> str:
        tensor = call.node.outputs[0]
        if (start := self._grids.starts(tensor)) is not None:
            grid = self._grids.grids[start]
            shared = f", shared by {len(grid.tensors)}" if len(grid.tensors) > 1 else ""
            return described_bits(grid.bits) + shared
        if self._policy.is_float(call):
            return "float32"
        if call.rule.output is Output.FIXED:
            return "8 bits, the runtimes' own"
        if call.rule.output is Output.INDEX:
            return "int32"
        if self._grids.grid_of(tensor) is not None:
            return "as its input"
        return "fused"

    def _problem(self, call: Call) -> str:
        """Why a layer cannot read its input, given the planned grids; empty if it can."""
        layer, tensor = call.layer, call.node.inputs[0]
        if (index := self._rules.index_before(call)) is not None:
            return (
                f"{layer.name!r} ({type(layer).__name__}): it reads the indices of {index!r}, "
                "which are an output of the model alone. Make them an output, and compute with "
                "them outside of the model"
            )
        if isinstance(layer, keras.layers.Embedding) and self._grids.grid_of(tensor) is not None:
            return (
                f"{layer.name!r} (Embedding): it reads whole numbers, which a grid would round. "
                f"Received: an input of dtype {tensor.dtype!r}. Declare the input with "
                "keras.Input(..., dtype='int32'), or leave the input in float too"
            )
        return ""


def _measured(
    graph: keras.Model,
    rules: RuledGraph,
    planned: QuantizationPlan,
    policy: BitWidthPolicy,
    data: CalibrationData | None,
) -> PreparedModel:
    """Measures the ranges and signs of all grids in one pass, and finds uneven ranges."""
    tensors = _grid_tensors(rules, planned.grids)
    columns = ColumnRanges(watched_tensors(rules, planned.grids))
    if data is None:
        messages = tuple(range_warnings(rules, planned.grids, columns))
        planned = dataclasses.replace(planned, warnings=(*planned.warnings, *messages))
        return PreparedModel(graph, rules, planned, None, np.zeros((0, 2)))
    check_weights(call.layer for call in rules.calls if _is_checked(call, policy))
    in_float = [call for call in rules.calls if policy.is_float(call) and call.rule is not MASK]
    of_float = [tensor for call in in_float for tensor in call.node.outputs]
    seen = list({id(tensor): tensor for tensor in [*tensors, *of_float]}.values())
    ranges = activation_ranges(rules.model, seen, data.watched_as("Measuring ranges"), columns.see)
    places = {id(tensor): index for index, tensor in enumerate(seen)}
    signs = data.signed_inputs()
    for call in in_float:
        lows = [ranges[places[id(tensor)], 0] for tensor in call.node.outputs]
        signs[call.name] = signs.get(call.name, False) or bool(min(lows) < 0)
    grids = tuple(grid.with_sign(signs) for grid in planned.grids)
    messages = tuple(range_warnings(rules, grids, columns, data))
    said = (*planned.warnings, *messages)
    planned = dataclasses.replace(planned, grids=grids, warnings=said)
    of_grids = ranges[[places[id(tensor)] for tensor in tensors]]
    return PreparedModel(graph, rules, planned, data, of_grids)


def _is_checked(call: Call, policy: BitWidthPolicy) -> bool:
    return policy.quantizes(call) or isinstance(call.layer, keras.layers.BatchNormalization)


def _grid_tensors(rules: RuledGraph, grids: Iterable[PlannedGrid]) -> list[Any]:
    return [rules.tensor(each.place) for grid in grids for each in grid.tensors]


def _check_answers(
    given: keras.Model, graph: keras.Model, normalized: keras.Model, data: CalibrationData
) -> None:
    """Raises ValueError if the normalized model computes something else than the user's model."""
    if normalized is given:
        return
    batch = [array[:_COMPARED] for array in next(iter(data))]
    fed = keras.tree.pack_sequence_as(input_structure(graph), batch)
    told = "training" in inspect.signature(given.call).parameters
    expected = keras.tree.flatten(given(fed, training=False) if told else given(fed))
    probe = graph_between(normalized.inputs, normalized.outputs)
    actual = keras.tree.flatten(probe(batch, training=False))
    exact = all(layer.compute_dtype == "float32" for layer in given.layers)
    for index, pair in enumerate(zip(expected, actual, strict=True)):
        wanted, found = (np.asarray(ops.convert_to_numpy(each), np.float32) for each in pair)
        with np.errstate(invalid="ignore"):  # calibration names layers with values not finite
            largest, difference = np.max(np.abs(wanted)), np.max(np.abs(wanted - found))
        if difference > (_ROUNDING if exact else _HALF_ROUNDING) * largest:
            raise ValueError(
                f"The model {given.name!r} ({type(given).__name__}) is not what its layers say: "
                f"taken apart into layers, its output {index} differs by {difference:.3g}, with "
                f"values up to {largest:.3g}. A custom call() does something that layers do not "
                "state, such as drawing random numbers in inference. Leave that layer in float "
                "with overrides={its name: None}, or rebuild the model from other layers."
            )
