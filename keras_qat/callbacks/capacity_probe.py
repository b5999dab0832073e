"""`CapacityProbe`: measures the channels of a model on a few inputs, and of its float network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_qat.callbacks.average_bits import ACTIVATIONS, WEIGHTS, average_bits
from keras_qat.callbacks.channel_capacity import (
    CodeCounts,
    FloatMeasurement,
    Measurement,
    channel_of,
)
from keras_qat.callbacks.channel_graph import ChannelGraph
from keras_qat.input_batches import CalibrationData
from keras_qat.keras_graph import graph_between, input_keys, nodes
from keras_qat.kernel_places import kernel_places
from keras_qat.model import QuantizedModel
from keras_qat.training.backend_state import synchronize
from keras_qat.training.objective import ORIGINALS

Record = dict[str, Any]

FACTS = ("kind", "target_bits", "learned", "values")
"""The keys of a record that do not change while a model trains."""


class CapacityProbe:
    """Measures the values that enter the quantizers of a model.

    Args:
        model: the quantized model.
        data: input samples, see `calibration_data` of `quantize`.
        batch_size: the samples in one batch.

    Raises:
        ValueError: a model without quantizers, or data that do not fit.
    """

    def __init__(self, model: QuantizedModel, data: Any, batch_size: int):
        self.model = model
        self._sites = model.quantizer_sites()
        if not self._sites:
            raise ValueError(
                f"{model.name!r} has no quantizers to monitor: all of its layers are in float."
            )
        try:
            batches = list(CalibrationData(model, data))
        except ValueError as error:
            raise ValueError(f"CapacityMonitor cannot run its data: {error}") from error
        self.inputs = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        self._samples = len(self.inputs[0])
        self._batch_size = min(batch_size, self._samples)
        self._graph = ChannelGraph(model)
        sources = {name: site.source for name, site in self._sites.items() if site.kernel is None}
        self._values = graph_between(model.inputs, sources) if sources else None

    def records(self) -> dict[str, Record]:
        """The current record of every tensor, by its name, in the order of the graph."""
        synchronize(self.model)
        measured = {name: _measurement(site) for name, site in self._sites.items()}
        for values in self._batches(self._values):
            for name, value in values.items():
                measured[name].add(value)
        found = {}
        for name, site in self._sites.items():
            found[name] = {
                **self._record(name, measured[name]),
                "target_bits": int(site.quantizer.bits),
                "learned": site.quantizer.learns_width and bool(site.quantizer.trainable),
            }
        return found

    def code_counts(self) -> dict[str, npt.NDArray[np.float64]]:
        """How many values have each code, from the lowest one on, by tensor.

        A tensor whose grid is not finite, as in a run that diverged, is left out.
        """
        found = {}
        for name, site in self._sites.items():
            kernel = None
            if site.kernel is not None:
                kernel = site.quantizer.prepare(site.kernel.channels_last_kernel())
            channel = channel_of(site.quantizer, kernel)
            if not all(np.all(np.isfinite(each)) for each in (channel.low, channel.levels)):
                continue
            found[name] = CodeCounts(channel)
            if kernel is not None:
                found[name].add(keras.ops.convert_to_numpy(kernel))
        for values in self._batches(self._values):
            for name in found.keys() & values.keys():
                found[name].add(values[name])
        return {name: counts.counts for name, counts in found.items()}

    def network(self, records: Mapping[str, Record]) -> Record:
        """Average bits and narrowest cuts of the network, from the records of all its tensors.

        Empty if there is not a record of every tensor.
        """
        if set(records) < set(self._sites):
            return {}
        every, hidden = (self._graph.narrowest_cut(records, each) for each in (False, True))
        return {
            **self._average_bits(records, "mean_bits"),
            "bits_per_example": every.bits,
            "narrowest": every.tensors,
            "hidden_bits_per_example": hidden.bits,
            "hidden_narrowest": hidden.tensors,
        }

    def targets(self, records: Mapping[str, Record]) -> Record:
        """The average bits of the network once every tensor has met its target."""
        return self._average_bits(records, "target_bits")

    def input_rate(self) -> float | None:
        """How many bits of an example its quantized inputs hold, at most; `None` with raw inputs.

        `sum(values * H)` over inputs, where `H` is the entropy of the codes of the input in the
        data, in bits per value. The values of an example depend on each other, so that it holds
        fewer bits.
        """
        total = 0.0
        read = {id(site.source): site for site in self._sites.values() if site.kernel is None}
        for tensor, values in zip(self.model.inputs, self.inputs, strict=True):
            if id(tensor) not in read:
                return None
            counts = CodeCounts(channel_of(read[id(tensor)].quantizer))
            counts.add(values)
            total += counts.entropy() * values[0].size
        return total

    def float_records(self) -> dict[str, Record] | None:
        """The record of every tensor in the float network, as a channel of float32.

        Tensors are found by their names: those inside of layers that `quantize` took apart are left
        out. `None` if the model was loaded or cloned: it does not know its float network.
        """
        original = ORIGINALS.get(self.model)
        if original is None:
            return None
        tensors = _named_tensors(original)
        kernels = _named_kernels(original)
        known = {*tensors, *kernels}
        found = {name: FloatMeasurement() for name in self._sites if name in known}
        for name in found.keys() & kernels.keys():
            found[name].add(keras.ops.convert_to_numpy(kernels[name]))
        sources = {name: tensors[name] for name in found if name not in kernels}
        run = graph_between(original.inputs, sources) if sources else None
        for values in self._batches(run):
            for name, value in values.items():
                found[name].add(value)
        return {name: self._record(name, measured) for name, measured in found.items()}

    def _average_bits(self, records: Mapping[str, Record], key: str) -> Record:
        found = average_bits(records, self._sites, key)
        return {name: finite(value) for name, value in found.items()}

    def _record(self, name: str, measured: Measurement | FloatMeasurement) -> Record:
        activation = self._sites[name].kernel is None
        record: Record = {
            "kind": ACTIVATIONS if activation else WEIGHTS,
            "values": measured.values // (self._samples if activation else 1),
            **{key: finite(value) for key, value in measured.record().items()},
        }
        if activation:
            bits = record["bits_per_value"]
            record["bits_per_example"] = None if bits is None else bits * record["values"]
        return record

    def _batches(self, run: Any) -> Iterator[dict[str, Any]]:
        """What a model yields for the samples, in batches of one size for one compilation."""
        if run is None:
            return
        for start in range(0, self._samples, self._batch_size):
            filled = np.arange(start, start + self._batch_size) % self._samples
            count = min(self._batch_size, self._samples - start)
            values = run.predict_on_batch([array[filled] for array in self.inputs])
            yield {name: value[:count] for name, value in values.items()}


def finite(number: float) -> float | None:
    """The number; `None` if JSON cannot hold it."""
    return number if math.isfinite(number) else None


def _measurement(site: Any) -> Measurement:
    if site.kernel is None:
        return Measurement(channel_of(site.quantizer))
    kernel = site.quantizer.prepare(site.kernel.channels_last_kernel())
    measurement = Measurement(channel_of(site.quantizer, kernel))
    measurement.add(keras.ops.convert_to_numpy(kernel))
    return measurement


def _named_tensors(model: keras.Model) -> dict[str, Any]:
    """The tensors of a float network by the names that they have in its quantized model."""
    found = dict(zip(input_keys(model), model.inputs, strict=True))
    for node in nodes(model):
        count = f"_{node.call_index}" if node.call_index else ""
        found.setdefault(f"{node.operation.name}{count}", node.outputs[0])
    return {f"{name}/{ACTIVATIONS}": tensor for name, tensor in found.items()}


def _named_kernels(model: keras.Model) -> dict[str, Any]:
    """The kernels of a float network by the names that they have in its quantized model."""
    found = {}
    for layer in model.layers:
        for place in kernel_places(layer):
            name = f"{layer.name}/{place.name}" if place.name else layer.name
            found[f"{name}/{WEIGHTS}"] = place.latent
        kernel = layer.alpha if isinstance(layer, keras.layers.PReLU) else None
        kernel = getattr(layer, "kernel", kernel)
        if kernel is not None:
            found[f"{layer.name}/{WEIGHTS}"] = kernel
    return found
