"""Finds the layers of a user's model without a rule, before any layer is copied."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import keras

from keras_qat.errors import UnsupportedLayerError
from keras_qat.keras_graph import GraphNode, flat_nodes, is_graph, nodes
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
    for node in flat_nodes(model):
        name = node.operation.name
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
        inside = {} if graph is None else layer_problems(graph, configs)[0]
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
