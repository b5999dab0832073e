"""A part of a graph, and the models in which another package sees a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from keras_qat.integer.graph import IntegerGraph

Reader = Callable[[Any], Any]

_READERS: list[Reader] = []


def part_of(graph: IntegerGraph, outputs: Sequence[str]) -> IntegerGraph:
    """The part of a graph that computes these tensors, with the inputs that it reads.

    Args:
        graph: the whole graph.
        outputs: names of tensors, in the order of the part's outputs.

    Raises:
        ValueError: no names, a name twice, or a tensor that no op of the graph writes.

    >>> import numpy as np
    >>> from keras_qat.integer import GraphBuilder, QuantParams, ops
    >>> builder, grid = GraphBuilder(), QuantParams(np.float32(0.1))
    >>> x = builder.add_input("x", (1, 4), grid)
    >>> inner = builder.add(ops.Maximum((x,), "inner", 0), grid)
    >>> whole = builder.build((builder.add(ops.Softmax((inner,), "y"), ops.SOFTMAX_OUTPUT),))
    >>> part = part_of(whole, ["inner"])
    >>> [op.output for op in part.ops], part.outputs
    (['inner'], ('inner',))
    """
    names = list(outputs)
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"A part of a network needs one or more outputs, each once. Received: {names}"
        )
    written = [op.output for op in graph.ops]
    unknown = [name for name in names if name not in written]
    if unknown:
        raise ValueError(
            f"The integer network computes no tensor {unknown[0]!r}. It computes {written}. "
            f"Received: outputs={names}"
        )
    wanted, found = set(names), []
    for op in reversed(graph.ops):
        if op.output in wanted:
            wanted.update(op.inputs)
            found.append(op)
    return dataclasses.replace(
        graph,
        tensors={name: tensor for name, tensor in graph.tensors.items() if name in wanted},
        ops=tuple(reversed(found)),
        inputs=tuple(name for name in graph.inputs if name in wanted),
        outputs=tuple(names),
    ).validate()


def register_reader(reader: Reader) -> Reader:
    """Registers a function that sees a network in models that do not state their integers.

    Args:
        reader: takes any object. It returns a model with `to_integer()` and `layer_codes(x)`, or
            `None` if the object is no model that it knows.

    >>> class Mine:
    ...     def to_integer(self):
    ...         return "graph"
    >>> _ = register_reader(lambda model: Mine() if model == "my model" else None)
    >>> stating_integers("my model").to_integer(), stating_integers("another")
    ('graph', 'another')
    """
    _READERS.append(reader)
    return reader


def stating_integers(model: Any) -> Any:
    """The model that states the integers of `model`.

    It is `model` itself if that states them, or if no registered reader knows it. Otherwise it is
    what the reader returns.
    """
    if isinstance(model, IntegerGraph) or hasattr(model, "to_integer"):
        return model
    for reader in _READERS:
        found = reader(model)
        if found is not None:
            return found
    return model
