"""Layer graphs of subclassed models, and of layers that are made of other layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_qat.keras_graph import GraphNode, functional, is_graph
from keras_qat.rules import RULES


def as_graph(model: keras.Model, data: Any) -> keras.Model:
    """The model itself if it has a layer graph, else one of the same layers and function.

    A subclassed model is called once on symbolic inputs like those of `data`, in inference mode.

    Raises:
        ValueError: a model that is not built, or whose `call` does not run on symbolic tensors.
    """
    if is_graph(model) or isinstance(model, keras.Sequential):
        functional(model)
        return model
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} has no weights yet. Call it on a batch of data first. "
            f"Received: an unbuilt {type(model).__name__}"
        )
    sample = _sample(model, data)
    inputs = keras.tree.map_structure(lambda x: keras.Input(x.shape[1:]), sample)
    if isinstance(inputs, dict):
        inputs = {name: keras.Input(each.shape[1:], name=name) for name, each in inputs.items()}
    try:
        return keras.Model(inputs, model.call(inputs), name=model.name)
    except Exception as error:
        raise ValueError(
            f"The subclassed model {model.name!r} ({type(model).__name__}) has no layer graph, and "
            "its call() yields none on symbolic inputs. Write it with layers and keras.ops alone, "
            f"or rebuild it with keras.Model(inputs, outputs). Received: {error}"
        ) from error


def expanded(node: GraphNode) -> keras.Model | None:
    """The layers that a layer of the user's own calls; `None` if it is none or hides them.

    The inputs of the graph are the different inputs of the node, in their order.
    """
    layer = node.operation
    if not may_expand(layer):
        return None
    tensors = {id(tensor): tensor for tensor in node.inputs}
    fresh = {
        key: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
        for key, tensor in tensors.items()
    }
    args, kwargs = node.fill_in(fresh)
    try:
        return keras.Model(list(fresh.values()), layer.call(*args, **kwargs))
    except Exception:  # whatever a foreign call() raises: it does not run on symbolic tensors
        return None


def may_expand(operation: Any) -> bool:
    """Whether this is a layer of the user's own, without a rule."""
    return (
        isinstance(operation, keras.layers.Layer)
        and type(operation) not in RULES
        and not type(operation).__module__.startswith(("keras.", "keras_qat."))
        and not is_graph(operation)
    )


def _sample(model: keras.Model, data: Any) -> Any:
    """The first of the calibration data, in the structure that the model takes."""
    if hasattr(data, "shape"):
        return data
    if isinstance(data, Mapping):
        return dict(data)
    if isinstance(data, list | tuple):
        return list(data)
    if data is None or iter(data) is data:
        raise ValueError(
            f"The subclassed model {model.name!r} needs calibration_data that can be read twice: "
            f"arrays or a tf.data.Dataset. Received: {type(data).__name__}"
        )
    batch = next(iter(data))
    return batch[0] if isinstance(batch, tuple) else batch
