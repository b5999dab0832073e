"""The float network of TFMOT's model, in Keras 3, with the ranges that TFMOT learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_qat.errors import UnsupportedLayerError
from keras_qat.keras_graph import input_name
from keras_qat.tfmot.layers import WRAPPERS, ReadLayer, UnreadableLayerError, read_layer
from keras_qat.tfmot.stored_model import StoredModel

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class ReadNetwork:
    """A network without TFMOT's wrappers.

    Attributes:
        model: the float model in Keras 3, with the names and the weights of the user's layers.
        ranges: name of an input or a layer -> the range of its values.
        kernel_ranges: layer name -> the ranges of its kernel.
        quantized: whether TFMOT quantized it.
    """

    model: keras.Model
    ranges: dict[str, Range]
    kernel_ranges: dict[str, tuple[np.ndarray, np.ndarray]]
    quantized: bool


def read_network(stored: StoredModel) -> ReadNetwork:
    """The network of a stored model.

    Raises:
        UnsupportedLayerError: layers cannot be read. The message lists all of them.
    """
    reader = _Reader(stored)
    entries = stored.config["layers"]
    is_chain = stored.class_name == "Sequential"
    for entry, calls in _chain(entries) if is_chain else _graph(entries):
        reader.read(entry, calls)
    if reader.problems:
        listing = "".join(f"\n  {problem}" for problem in reader.problems)
        raise UnsupportedLayerError(
            f"The model {stored.config['name']!r} of TFMOT has layers that cannot be read:{listing}"
            "\nWays out: build the network in Keras 3 without these layers, copy the weights of "
            "the others, and call keras_qat.quantize."
        )
    if is_chain:
        outputs: Any = reader.last
    else:
        named = stored.config["output_layers"]
        single = bool(named) and isinstance(named[0], str)
        outputs = [reader.tensors[tuple(each[:3])] for each in ([named] if single else named)]
        outputs = outputs[0] if len(outputs) == 1 else outputs
    inputs = reader.inputs[0] if len(reader.inputs) == 1 else reader.inputs
    model = keras.Model(inputs, outputs, name=stored.config["name"])
    for read in reader.layers.values():
        read.layer.set_weights(read.weights)
    kernels = {
        read.layer.name: read.kernel_range
        for read in reader.layers.values()
        if read.kernel_range is not None
    }
    wrapped = any(each["class_name"] in WRAPPERS for each in entries)
    return ReadNetwork(model, reader.ranges, kernels, wrapped)


class _Reader:
    """Calls the Keras 3 layers as TFMOT's model calls its own.

    Attributes:
        tensors: `(layer name, call, output)` -> the tensor in Keras 3.
        last: the tensor of the last layer, for a chain of layers.
    """

    def __init__(self, stored: StoredModel):
        self._weights = stored.weights
        self.inputs: list[Any] = []
        self.tensors: dict[tuple[Any, ...], Any] = {}
        self.last: Any = None
        self.layers: dict[str, ReadLayer] = {}
        self.ranges: dict[str, Range] = {}
        self.problems: list[str] = []

    def read(self, entry: dict[str, Any], calls: list[Any]) -> None:
        """Reads a layer, and calls it. After the first problem, layers are only checked."""
        name = entry.get("name") or entry["config"]["name"]
        stored = self._weights.get(name, {})
        if entry["class_name"] == "InputLayer":
            self._add_input(entry["config"], name)
            return
        if entry["class_name"] == "QuantizeLayer":
            self._pass_on(name, calls, stored)
            return
        try:
            read = read_layer(entry, stored)
        except UnreadableLayerError as problem:
            self.problems.append(str(problem))
            return
        self.layers[name] = read
        self.ranges |= read.ranges
        if self.problems:
            return
        for number, call in enumerate(calls):
            args, kwargs = self._arguments(call)
            outputs = keras.tree.flatten(read.layer(args, **kwargs))
            for index, tensor in enumerate(outputs):
                self.tensors[name, number, index] = tensor
            self.last = outputs[0]

    def _add_input(self, config: dict[str, Any], name: str) -> None:
        batch, *shape = config["batch_input_shape"]
        tensor = keras.Input(shape, batch_size=batch, dtype=config.get("dtype"), name=name)
        self.inputs.append(tensor)
        self.tensors[name, 0, 0] = self.last = tensor

    def _pass_on(self, name: str, calls: list[Any], stored: dict[str, np.ndarray]) -> None:
        """A layer that quantizes an input: its range is the range of the input."""
        low, high = (
            next(value for key, value in stored.items() if key.endswith(end))
            for end in ("_min", "_max")
        )
        for number, call in enumerate(calls):
            tensor, _ = self._arguments(call)
            self.tensors[name, number, 0] = self.last = tensor
            self.ranges[input_name(tensor)] = float(low), float(high)

    def _arguments(self, call: Any) -> tuple[Any, dict[str, Any]]:
        if call is None:
            return self.last, {}
        found = [self.tensors[tuple(each[:3])] for each in call]
        kwargs = {} if len(call[0]) < 4 else call[0][3]
        kept = {key: value for key, value in kwargs.items() if key not in ("training", "mask")}
        return (found[0] if len(found) == 1 else found), kept


def _graph(entries: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Every layer with its calls: a list of `[layer name, call, output, kwargs]` for each."""
    for entry in entries:
        yield entry, entry["inbound_nodes"]


def _chain(entries: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Every layer of a Sequential model, called once on the result of the one before."""
    first = entries[0]
    if first["class_name"] != "InputLayer":
        name = f"{first['config']['name']}_input"
        shape = first["config"].get("batch_input_shape")
        if shape is None:
            raise ValueError(
                "The Sequential model of TFMOT has no input shape. Received: a first layer "
                f"{first['config']['name']!r} that is not built. Build the model, and save it."
            )
        yield {"class_name": "InputLayer", "config": {"batch_input_shape": shape, "name": name}}, []
    for entry in entries:
        yield entry, [None]
