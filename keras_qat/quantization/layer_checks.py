"""Finds the layers of a user's model without a rule, before any layer is copied."""

from __future__ import annotations

from collections.abc import Container, Iterable

import keras

from keras_qat.errors import UnsupportedLayerError
from keras_qat.keras_graph import flat_nodes
from keras_qat.layer_rules.table import rule_of, supported_layers
from keras_qat.quantization.overrides import Overrides, stays_float
from keras_qat.quantization.passes.to_layers import layers_of
from keras_qat.quantization.passes.tracing import expanded, lost_by_expanding


def layer_problems(
    model: keras.Model, overrides: Overrides, checked: Container[str] = ()
) -> dict[str, str]:
    """Layer name -> why it has no rule, for all layers that no override leaves in float.

    Args:
        model: any model with a layer graph; layers made of other layers are looked into.
        overrides: the overrides; layers that they leave in float need no rule.
        checked: names of layers that were checked before.
    """
    problems = {}
    for node in flat_nodes(model):
        name = node.operation.name
        if name in checked or layers_of(node) is not None or stays_float(name, overrides):
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
