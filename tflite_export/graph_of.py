"""The integer graph that a caller passes, or that the caller's model states."""

from __future__ import annotations

from typing import Any

from keras_qat.integer import IntegerGraph
from keras_qat.integer.parts import stating_integers


def graph_of(model: Any, planned: bool = False) -> IntegerGraph:
    """The graph itself, or the graph that the model's `to_integer()` returns.

    Args:
        model: a graph or a model; see `keras_qat.integer.parts.stating_integers`.
        planned: use the model's `planned_integer()` if it has one: the graph that training aims at.

    Raises:
        ValueError: `model` is neither, or its method returns something else.
    """
    model = stating_integers(model)
    if isinstance(model, IntegerGraph):
        return model
    if not (hasattr(model, "to_integer") and hasattr(model, "layer_codes")):
        raise ValueError(
            "model must be an IntegerGraph, or a trained model with to_integer() and "
            "layer_codes(x), such as keras_qat.quantize returns, or a part of one: "
            "keras.Model(qmodel.inputs, qmodel.get_layer(name).output). "
            f"Received: {type(model).__name__}"
        )
    aims = planned and hasattr(model, "planned_integer")
    graph = model.planned_integer() if aims else model.to_integer()
    if not isinstance(graph, IntegerGraph):
        raise ValueError(
            "The model's to_integer() and planned_integer() must return an IntegerGraph. "
            f"Received: {type(graph)}"
        )
    return graph
