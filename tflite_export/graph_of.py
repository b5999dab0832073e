"""The integer graph of whatever a caller passes: a graph, or a model that states one."""

from __future__ import annotations

from typing import Any

from keras_qat.integer import IntegerGraph


def graph_of(model: Any, planned: bool = False) -> IntegerGraph:
    """The graph itself, or what the model's `to_integer()` returns.

    Args:
        model: a graph or a model.
        planned: of a model that has `planned_integer()`, the graph that training aims at.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(model, IntegerGraph):
        return model
    if not (hasattr(model, "to_integer") and hasattr(model, "layer_codes")):
        raise ValueError(
            "Pass an IntegerGraph, or a trained model with to_integer() and layer_codes(x), such "
            f"as keras_qat.quantize returns. Received: {type(model).__name__}"
        )
    aims = planned and hasattr(model, "planned_integer")
    graph = model.planned_integer() if aims else model.to_integer()
    if not isinstance(graph, IntegerGraph):
        raise ValueError(f"to_integer() must return an IntegerGraph. Received: {type(graph)}")
    return graph
