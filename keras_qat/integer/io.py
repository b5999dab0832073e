"""An `IntegerGraph` as one `.npz` file: a JSON header, and the arrays that it names."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer.archive import MAX_BYTES, Archive
from keras_qat.integer.files import PathLike, replace_file
from keras_qat.integer.graph import IntegerGraph, IntegerTensor
from keras_qat.integer.invalid_file import InvalidFileError
from keras_qat.integer.ops import OPS, FloatWeight, IntegerOp, QuantizedArray
from keras_qat.integer.qparams import QuantParams

FORMAT = "keras_qat.IntegerGraph"
FORMAT_VERSION = 2
"""1 had no parts in float that end on no grid (`FloatResult`)."""
_HEADER = "header"
_DTYPES = ("int8", "float32", "int32")

Arrays = dict[str, npt.NDArray[Any]]


class GraphFileError(InvalidFileError):
    """A file that is not a readable integer graph."""


def save_graph(graph: IntegerGraph, path: PathLike) -> None:
    """Writes the graph to a file beside `path` and renames it: `path` is never half written."""
    arrays: Arrays = {}
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "tensors": [
            {
                "name": t.name,
                "shape": list(t.shape),
                "qparams": _pack_qparams(t.qparams),
                "dtype": t.dtype,
            }
            for t in graph.tensors.values()
        ],
        "ops": [_pack_op(op, f"op{index}", arrays) for index, op in enumerate(graph.ops)],
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
    }
    arrays[_HEADER] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    replace_file(path, stream.getvalue())


def load_graph(path: PathLike, max_bytes: int = MAX_BYTES) -> IntegerGraph:
    """Reads and validates a graph that `save_graph` wrote.

    Args:
        path: the file. It may come from anywhere.
        max_bytes: the largest size of all arrays, unpacked.

    Raises:
        FileNotFoundError: no such file.
        GraphFileError: the file is truncated, corrupt, too large, of another kind, or of a newer
            version.
    """
    with open(path, "rb") as stream:
        try:
            return _read(Archive(stream, max_bytes), path)
        except GraphFileError:
            raise
        except Exception as error:  # zip, npy and JSON readers raise a dozen types on damage
            raise GraphFileError(
                f"{path} is not a readable integer graph (truncated, corrupt or another kind of "
                f"file): {error or type(error).__name__}"
            ) from error


def _read(archive: Archive, path: PathLike) -> IntegerGraph:
    header = json.loads(archive[_HEADER].tobytes())
    if header["format"] != FORMAT:
        raise GraphFileError(
            f"{path} is not an integer graph. Received: format {str(header['format'])[:60]!r}"
        )
    if header["version"] not in range(1, FORMAT_VERSION + 1):
        raise GraphFileError(
            f"{path} was saved by a newer keras_qat: its format is "
            f"{str(header['version'])[:60]}, and this one reads formats up to {FORMAT_VERSION}. "
            "Update keras_qat with pip install --upgrade keras_qat."
        )
    graph = _unpack_graph(header, archive)
    archive.check_all_read()
    return graph


def _unpack_graph(header: dict[str, Any], arrays: Archive) -> IntegerGraph:
    tensors = [
        IntegerTensor(
            _name(t["name"]),
            tuple(t["shape"]),
            _unpack_qparams(t["qparams"]),
            _dtype(t.get("dtype", "int8")),
        )
        for t in header["tensors"]
    ]
    named = {tensor.name: tensor for tensor in tensors}
    if len(named) < len(tensors):
        raise ValueError("two tensors have one name")
    return IntegerGraph(
        tensors=named,
        ops=tuple(_unpack_op(op, arrays) for op in header["ops"]),
        inputs=tuple(map(_name, header["inputs"])),
        outputs=tuple(map(_name, header["outputs"])),
    ).validate()


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"a name must be text. Received: {value!r}")
    return value


def _dtype(value: Any) -> str:
    if value not in _DTYPES:
        raise ValueError(f"a tensor must be one of {_DTYPES}. Received: {value!r}")
    return str(value)


def _pack_op(op: IntegerOp, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """The op's fields as JSON. Arrays go to `arrays`, and the JSON names their keys."""
    packed: dict[str, Any] = {"type": type(op).__name__}
    for field in dataclasses.fields(op):
        value = getattr(op, field.name)
        key = f"{prefix}/{field.name}"
        packed[field.name] = _pack_value(value, key, arrays)
    return packed


def _pack_value(value: Any, key: str, arrays: Arrays) -> Any:
    if isinstance(value, FloatWeight):
        return {"name": value.name, "bits": value.bits, **_pack_value(value.array, key, arrays)}
    if isinstance(value, QuantizedArray):
        arrays[key] = value.values
        return {"array": key, "qparams": _pack_qparams(value.qparams)}
    if isinstance(value, np.ndarray):
        arrays[key] = value
        return {"array": key}
    if isinstance(value, tuple):
        return [_pack_value(each, f"{key}/{index}", arrays) for index, each in enumerate(value)]
    return value


def _unpack_op(packed: dict[str, Any], arrays: Archive) -> IntegerOp:
    fields = {name: _unpack_value(value, arrays) for name, value in packed.items()}
    return OPS[fields.pop("type")](**fields)


def _unpack_value(packed: Any, arrays: Archive) -> Any:
    """A field of an op. JSON has turned tuples into lists, and ops hold tuples only."""
    if isinstance(packed, list):
        return tuple(_unpack_value(each, arrays) for each in packed)
    if not isinstance(packed, dict):
        return packed
    array = arrays[packed["array"]]
    if "qparams" not in packed:
        return array
    held = QuantizedArray(array, _unpack_qparams(packed["qparams"]))
    return FloatWeight(packed["name"], held, packed["bits"]) if "name" in packed else held


def _pack_qparams(qparams: QuantParams) -> dict[str, Any]:
    """A grid as JSON. Scales are float64 decimals, which hold every float32 exactly."""
    return {**dataclasses.asdict(qparams), "scale": qparams.scale.astype(np.float64).tolist()}


def _unpack_qparams(packed: dict[str, Any]) -> QuantParams:
    return QuantParams(**{**packed, "scale": np.asarray(packed["scale"], dtype=np.float32)})
