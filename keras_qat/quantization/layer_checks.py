"""Finds the layers of a user's model without a rule, before any layer is copied."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import keras

from keras_qat.errors import UnsupportedLayerError
from keras_qat.keras_graph import (
    GraphNode,
    flat_nodes,
    is_graph,
    nodes,
    own_trainable_weights,
    shared_weights,
)
from keras_qat.keras_masks import makers, mask_tensors, read_masks
from keras_qat.layer_rules.restrictions import unsupported_reason
from keras_qat.layer_rules.table import RULES, rule_of, supported_layers
from keras_qat.quantization.layer_configs import LayerConfigs
from keras_qat.quantization.passes.equal_forms import EqualForms, is_one_function
from keras_qat.quantization.passes.raw_operations import layers_of, regions_of
from keras_qat.quantization.passes.split_activations import SPLIT_TYPES
from keras_qat.quantization.passes.tracing import expanded, lost_by_expanding


def layer_problems(
    model: keras.Model, configs: LayerConfigs, checked: Container[str] = ()
) -> tuple[dict[str, str], set[str]]:
    """Layer name -> why it has no rule, for all layers that no override leaves in float.

    Also the names of layers that need no rule and stay whole in float.

    Args:
        model: any model with a layer graph; layers made of other layers are looked into.
        configs: the config of each layer. Layers that are left in float need no rule. Where
            weights alone are on grids, layers without weights and activations need none either.
        checked: names of layers that were checked before.
    """
    problems: dict[str, str] = {}
    whole: set[str] = set()
    forms = EqualForms()
    in_tables = _in_tables(model)
    tied, masks, made_by = shared_weights(model), mask_tensors(model), makers(model)
    for node in flat_nodes(model):
        name = node.operation.name
        if node.outputs and id(node.outputs[0]) in masks:
            continue
        if (
            name in checked
            or id(node.outputs[0]) in in_tables
            or layers_of(node) is not None
            or configs.is_left_in_float(name)
        ):
            continue
        if configs.computes_in_float(name) and _needs_no_rule(node):
            if type(node.operation) not in SPLIT_TYPES:
                whole.add(name)
            continue
        form = forms.of(node)
        graph = expanded(node) if form is None else form.graph
        if graph is not None and form is None and is_one_function(graph):
            continue
        if form is None and graph is not None and (reason := _reason_of_tied(node.operation, tied)):
            problems[name] = reason
            continue
        inside = {} if graph is None else layer_problems(graph, configs)[0]
        if reason := _reason_of_mask(node, made_by):
            problems[name] = reason
            continue
        try:
            if graph is None or inside:
                rule_of(node)
        except UnsupportedLayerError as error:
            lost = lost_by_expanding(node)
            reason = f"{error}, and taken apart {lost}" if lost else str(error)
            if graph is None and type(node.operation) is keras.layers.Lambda:
                reason += ", and no form of its function in keras.ops; write it with keras.ops"
            problems[name] = "; it calls ".join([reason, *inside.values()])
    return problems, whole


def _in_tables(model: keras.Model) -> set[int]:
    """The tensors, by `id(tensor)`, of operations that become a table together."""
    found = set(regions_of(model).inside)
    for node in nodes(model):
        if is_graph(node.operation):
            found |= _in_tables(node.operation)
    return found


_MASKED = (keras.layers.GlobalAveragePooling1D, keras.layers.Softmax)
"""Layers with a rule whose result depends on a mask."""


def _reason_of_mask(node: GraphNode, made_by: dict[int, str]) -> str:
    """Why a layer that reads a mask cannot be quantized; empty if it can."""
    layer = node.operation
    masks = read_masks(node) if type(layer) in _MASKED else {}
    for mask in masks.values():
        return (
            f"{layer.name!r} ({type(layer).__name__}): it reads the mask that "
            f"{made_by.get(id(mask), 'a layer')!r} makes, and integers have no masks"
        )
    return ""


def _reason_of_tied(layer: Any, tied: dict[int, list[str]]) -> str:
    """Why a custom layer cannot be taken apart if it shares weights; empty if it shares none."""
    for variable in own_trainable_weights(layer):
        others = [name for name in tied.get(id(variable), []) if name != layer.name]
        if others:
            return (
                f"{layer.name!r} ({type(layer).__name__}): it shares the weight {variable.name!r} "
                f"with {', '.join(map(repr, others))}, and taken apart the two would train apart"
            )
    return ""


def _needs_no_rule(node: GraphNode) -> bool:
    """Whether a layer can compute in float32 without leaving a kernel unquantized.

    A raw operation with a constant matrix, or a larger constant, may be a weight layer.
    """
    layer: Any = node.operation
    if type(layer) in SPLIT_TYPES:
        return not unsupported_reason(node) and not getattr(layer.activation, "weights", ())
    if isinstance(layer, keras.layers.Layer):
        ruled = type(layer) in RULES and not isinstance(layer, keras.layers.TimeDistributed)
        return not ruled and not layer.weights
    given = keras.tree.flatten(node.fill_in({id(tensor): tensor for tensor in node.inputs}))
    constants = [each for each in given if not isinstance(each, keras.KerasTensor)]
    return all(len(getattr(each, "shape", ())) < 2 for each in constants)


def refuse(model_name: str, problems: Iterable[str]) -> None:
    """Raises one `UnsupportedLayerError` that lists all problems, if there are any."""
    listing = "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))
    if listing:
        raise UnsupportedLayerError(
            f"The model {model_name!r} has layers that cannot be quantized:{listing}\n"
            "Ways out: replace the layer by supported ones; teach keras_qat the layer with "
            "keras_qat.register_rule; leave it in float with overrides={its name: None}, which "
            "exports for LiteRT alone; or split the model and quantize the part without it. "
            f"These have a rule: {', '.join(supported_layers())}."
        )
