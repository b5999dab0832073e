"""Packs TFLite metadata: the buffer that a file names `TFLITE_METADATA`, and its associated files.

Source: `metadata_schema.fbs` of TensorFlow Lite Support, version 1.5 of the schema. Only the tables
and the fields that this package writes are filled in; all slots are listed, as their place counts.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

BUFFER_NAME = "TFLITE_METADATA"
AXIS_LABELS, VALUE_LABELS = 2, 3
RGB, GRAYSCALE = 1, 2
FEATURES, IMAGE = 1, 2  # of the union ContentProperties
NORMALIZATION, THRESHOLDING = 1, 3  # of the union ProcessUnitOptions

_IDENTIFIER = b"M001"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)

Table = Mapping[str, Any]
Slots = tuple[tuple[str, str], ...]

_UNIT: Slots = (("options_type", "uint8"), ("options", "union"))
_TABLES: dict[str, Slots] = {
    "ModelMetadata": (
        ("name", "string"),
        ("description", "string"),
        ("version", "string"),
        ("subgraph_metadata", "[SubGraphMetadata]"),
        ("author", "string"),
        ("license", "string"),
        ("associated_files", "[AssociatedFile]"),
        ("min_parser_version", "string"),
    ),
    "SubGraphMetadata": (
        ("name", "string"),
        ("description", "string"),
        ("input_tensor_metadata", "[TensorMetadata]"),
        ("output_tensor_metadata", "[TensorMetadata]"),
        ("associated_files", "[AssociatedFile]"),
        ("input_process_units", "[ProcessUnit]"),
        ("output_process_units", "[ProcessUnit]"),
        ("input_tensor_groups", ""),
        ("output_tensor_groups", ""),
        ("custom_metadata", ""),
    ),
    "TensorMetadata": (
        ("name", "string"),
        ("description", "string"),
        ("dimension_names", ""),
        ("content", "Content"),
        ("process_units", "[ProcessUnit]"),
        ("stats", "Stats"),
        ("associated_files", "[AssociatedFile]"),
    ),
    "Content": (
        ("content_properties_type", "uint8"),
        ("content_properties", "union"),
        ("range", ""),
    ),
    "FeatureProperties": (),
    "ImageProperties": (("color_space", "int8"), ("default_size", "ImageSize")),
    "ImageSize": (("width", "uint32"), ("height", "uint32")),
    "ProcessUnit": _UNIT,
    "NormalizationOptions": (("mean", "[float32]"), ("std", "[float32]")),
    "ScoreThresholdingOptions": (("global_score_threshold", "float32"),),
    "Stats": (("max", "[float32]"), ("min", "[float32]")),
    "AssociatedFile": (
        ("name", "string"),
        ("description", "string"),
        ("type", "int8"),
        ("locale", "string"),
        ("version", "string"),
    ),
}
_UNIONS = {
    ("Content", FEATURES): "FeatureProperties",
    ("Content", IMAGE): "ImageProperties",
    ("ProcessUnit", NORMALIZATION): "NormalizationOptions",
    ("ProcessUnit", THRESHOLDING): "ScoreThresholdingOptions",
}


def pack_metadata(metadata: Table) -> bytes:
    """The buffer of a `ModelMetadata` table, given by the names of its fields.

    Raises:
        ImportError: `keras_qat[export]` is not installed.
    """
    try:
        import flatbuffers
    except ImportError as error:
        raise ImportError(
            'Writing metadata needs flatbuffers: pip install "keras_qat[export]"'
        ) from error
    builder = flatbuffers.Builder(1024)
    builder.Finish(_table(builder, "ModelMetadata", metadata), _IDENTIFIER)
    return bytes(builder.Output())


def with_associated_files(data: bytes, files: Mapping[str, bytes]) -> bytes:
    """The bytes of a `.tflite` file with a zip archive at their end, as readers of metadata expect.

    The archive is not compressed, and equal files give equal bytes.

    >>> whole = with_associated_files(b"model", {"labels.txt": b"cat"})
    >>> whole[:5], zipfile.ZipFile(io.BytesIO(whole)).read("labels.txt")
    (b'model', b'cat')
    """
    if not files:
        return data
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), content)
    return stream.getvalue()


def _table(builder: Any, name: str, fields: Table) -> int:
    slots = _TABLES[name]
    kinds = dict(slots)
    held = {}
    for field, value in fields.items():
        kind = kinds[field]
        if kind == "union":
            kind = _UNIONS[name, fields[f"{field}_type"]]
        held[field] = _value(builder, kind, value)
    builder.StartObject(len(slots))
    for slot, (field, kind) in enumerate(slots):
        if field not in held:
            continue
        if kind in ("int8", "uint8", "uint32", "float32"):
            add = getattr(builder, f"Prepend{kind.capitalize()}Slot")
            add(slot, held[field], 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, held[field], 0)
    offset: int = builder.EndObject()
    return offset


def _value(builder: Any, kind: str, value: Any) -> Any:
    """A number itself, or the offset of a string, a vector or a table in the buffer."""
    if kind == "string":
        return builder.CreateString(value)
    if kind == "[float32]":
        builder.StartVector(4, len(value), 4)
        for each in reversed(value):
            builder.PrependFloat32(each)
        return builder.EndVector()
    if kind.startswith("["):
        offsets = [_table(builder, kind[1:-1], each) for each in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    return _table(builder, kind, value) if kind in _TABLES else value
