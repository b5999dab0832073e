"""`Metadata`: what a file says of itself to the tools that read TFLite metadata."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_qat.integer import IntegerGraph, IntegerTensor
from tflite_export.file import metadata_file
from tflite_export.proof.output_kinds import SCORES, VALUES, OutputKind

Labels = Sequence[str] | str | os.PathLike[str]
Numbers = float | Sequence[float]
Normalization = tuple[Numbers, Numbers]

_COLORS = {"rgb": (metadata_file.RGB, 3), "grayscale": (metadata_file.GRAYSCALE, 1)}
_PARSER = "1.0.0"
"""The first reader that knows all fields that are written."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a `.tflite` file says of itself, for `tflite_export.export(metadata=...)`.

    Readers such as TFLite's Task Library, ML Kit and Netron show it. Where a field is about inputs
    or outputs, a dict gives it by their names. A bare value is for a model with one of them.

    Attributes:
        name: the name of the model.
        description: what the model does.
        author: who made it.
        version: its version.
        license: its license.
        labels: of an output, the names of the entries along its last axis, or of the indices that
            it holds: strings, or the path of a text file with one label a line. The file holds
            them as `labels.txt`, and as `labels_NAME.txt` if several outputs have labels.
        normalization: of an input, `(mean, std)`, one number or one for each channel: the model
            takes `(pixel - mean) / std`.
        colors: of an input, `"rgb"` or `"grayscale"`: it is an image.
        threshold: of an output of scores, the least score that counts.
        descriptions: free text by the names of inputs and outputs. An output without it says
            whether it is scores or values, as `export` knows it.

    Example:

    >>> pets = Metadata(name="Pets", labels=["cat", "dog"], normalization=(127.5, 127.5))
    >>> pets.labels
    ['cat', 'dog']
    """

    name: str = ""
    description: str = ""
    author: str = ""
    version: str = ""
    license: str = ""
    labels: Labels | Mapping[str, Labels] | None = None
    normalization: Normalization | Mapping[str, Normalization] | None = None
    colors: str | Mapping[str, str] | None = None
    threshold: float | Mapping[str, float] | None = None
    descriptions: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class PackedMetadata:
    """The metadata of one file.

    Attributes:
        buffer: the content of the buffer `TFLITE_METADATA`.
        files: the associated files by name.
    """

    buffer: bytes
    files: Mapping[str, bytes]


def packed(
    metadata: Metadata, graph: IntegerGraph, kinds: Mapping[str, OutputKind]
) -> PackedMetadata:
    """The metadata as a file for this graph holds it.

    Args:
        metadata: what the user says.
        graph: the graph of the file.
        kinds: what each output is, by name.

    Raises:
        ValueError: a field names no input or output, or does not fit its shape; or no `Metadata`.
    """
    if not isinstance(metadata, Metadata):
        raise ValueError(
            "metadata must be a tflite_export.Metadata, as Metadata(name='Shapes'). Received: "
            f"{type(metadata).__name__}"
        )
    _by_name(metadata.descriptions, (*graph.inputs, *graph.outputs), "descriptions")
    labels = {
        name: _label_list(given, graph.tensors[name])
        for name, given in _by_name(metadata.labels, graph.outputs, "labels").items()
    }
    files = {name: f"labels_{name}.txt" if len(labels) > 1 else "labels.txt" for name in labels}
    files = {name: file.replace("/", "_") for name, file in files.items()}
    normalization = _by_name(metadata.normalization, graph.inputs, "normalization")
    colors = _by_name(metadata.colors, graph.inputs, "colors")
    threshold = _by_name(metadata.threshold, graph.outputs, "threshold")
    inputs = []
    for name in graph.inputs:
        table = _tensor(graph.tensors[name], metadata.descriptions.get(name, ""))
        if name in colors:
            table["content"] = _image(graph.tensors[name], colors[name])
        if name in normalization:
            table["process_units"] = [_normalization(graph.tensors[name], normalization[name])]
        inputs.append(table)
    outputs = []
    for name in dict.fromkeys(graph.outputs):
        said = metadata.descriptions.get(name, _meaning(kinds[name]))
        table = _tensor(graph.tensors[name], said)
        if name in labels:
            table["associated_files"] = [_label_file(files[name], graph.tensors[name])]
        if name in threshold:
            table["process_units"] = [_threshold(threshold[name])]
        outputs.append(table)
    words = {
        field: getattr(metadata, field)
        for field in ("name", "description", "author", "version", "license")
        if getattr(metadata, field)
    }
    subgraph = {"input_tensor_metadata": inputs, "output_tensor_metadata": outputs}
    table = {**words, "subgraph_metadata": [subgraph], "min_parser_version": _PARSER}
    contents = {files[name]: "\n".join(each).encode() for name, each in labels.items()}
    return PackedMetadata(metadata_file.pack_metadata(table), contents)


def _by_name(given: Any, names: Sequence[str], field: str) -> dict[str, Any]:
    """What a field says, by the name of an input or an output."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if len(names) > 1:
            raise ValueError(
                f"Metadata: {field} of a model with {list(names)} is a dict by these names. "
                f"Received: {given!r}"
            )
        return {names[0]: given}
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ValueError(
            f"Metadata: {field} is by the names {list(names)}. Received: {field} for {unknown}"
        )
    return dict(given)


def _label_list(labels: Any, tensor: IntegerTensor) -> list[str]:
    if isinstance(labels, str | os.PathLike):
        labels = pathlib.Path(labels).read_text(encoding="utf-8").splitlines()
    found = list(labels)
    classes = tensor.shape[-1]
    if tensor.dtype != "int32" and len(found) != classes:
        raise ValueError(
            f"Metadata: the output {tensor.name!r} needs {classes} labels, one for each entry "
            f"along its last axis. Received: {len(found)} labels"
        )
    if not all(isinstance(each, str) and each and len(each.splitlines()) == 1 for each in found):
        raise ValueError(
            f"Metadata: labels of {tensor.name!r} are strings of one line. Received: {found!r}"
        )
    return found


def _label_file(file: str, tensor: IntegerTensor) -> dict[str, Any]:
    if tensor.dtype == "int32":  # an index
        kind, said = metadata_file.VALUE_LABELS, "Labels of the values of"
    else:
        kind, said = metadata_file.AXIS_LABELS, "Labels along the last axis of"
    return {"name": file, "description": f"{said} {tensor.name}.", "type": kind}


def _tensor(tensor: IntegerTensor, description: str) -> dict[str, Any]:
    table: dict[str, Any] = {"name": tensor.name}
    if description:
        table["description"] = description
    table["content"] = {
        "content_properties_type": metadata_file.FEATURES,
        "content_properties": {},
    }
    if tensor.on_grid:
        grid = tensor.qparams
        low, high = grid.dequantize(np.array([grid.qmin, grid.qmax])).tolist()
        table["stats"] = {"max": [high], "min": [low]}
    return table


def _image(tensor: IntegerTensor, color: Any) -> dict[str, Any]:
    if color not in _COLORS:
        raise ValueError(
            f"Metadata: colors of {tensor.name!r} must be one of {list(_COLORS)}. "
            f"Received: {color!r}"
        )
    space, channels = _COLORS[color]
    if len(tensor.shape) != 4 or tensor.shape[-1] != channels:
        raise ValueError(
            f"Metadata: the input {tensor.name!r} with colors={color!r} needs the shape "
            f"(height, width, {channels}). Received: {tensor.shape[1:]}"
        )
    size = {"width": tensor.shape[2], "height": tensor.shape[1]}
    return {
        "content_properties_type": metadata_file.IMAGE,
        "content_properties": {"color_space": space, "default_size": size},
    }


def _normalization(tensor: IntegerTensor, given: Any) -> dict[str, Any]:
    try:
        mean, std = (np.atleast_1d(np.asarray(each, np.float32)) for each in given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Metadata: normalization of {tensor.name!r} is (mean, std). Received: {given!r}"
        ) from error
    sizes = {mean.size, std.size}
    if not sizes <= {1, tensor.shape[-1]} or not np.all(np.isfinite(mean)) or not np.all(std > 0):
        raise ValueError(
            f"Metadata: normalization of {tensor.name!r} needs finite means and positive stds, one "
            f"or {tensor.shape[-1]} of each. Received: {given!r}"
        )
    return {
        "options_type": metadata_file.NORMALIZATION,
        "options": {"mean": mean.tolist(), "std": std.tolist()},
    }


def _threshold(threshold: float) -> dict[str, Any]:
    return {
        "options_type": metadata_file.THRESHOLDING,
        "options": {"global_score_threshold": float(threshold)},
    }


def _meaning(kind: OutputKind) -> str:
    """What an output is, in words; empty if it is not known."""
    if kind.kind == VALUES:
        return "Values, to be read as numbers."
    if kind.kind != SCORES:
        return ""
    if kind.threshold is not None:
        return f"Scores: each decides by the side of {kind.threshold:g} on which it lies."
    return "Scores: the largest along the last axis decides."
