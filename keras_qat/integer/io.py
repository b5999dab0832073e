"""An `IntegerGraph` as one `.npz` file: a JSON header, and the arrays that it names."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer.files import PathLike, replace_file
from keras_qat.integer.graph import IntegerGraph, IntegerTensor
from keras_qat.integer.ops import OPS, FloatWeight, IntegerOp, QuantizedArray
from keras_qat.integer.qparams import QuantParams

FORMAT = "keras_qat.IntegerGraph"
FORMAT_VERSION = 2
"""1 had no parts in float that end on no grid (`FloatResult`)."""
_HEADER = "header"

Arrays = dict[str, npt.NDArray[Any]]


class GraphFileError(ValueError):
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


def load_graph(path: PathLike) -> IntegerGraph:
    """Reads and validates a graph that `save_graph` wrote.

    Raises:
        FileNotFoundError: no such file.
        GraphFileError: the file is truncated, corrupt, of another kind, or of a newer version.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = dict(archive.items())
        header = json.loads(arrays[_HEADER].tobytes())
        if header["format"] != FORMAT:
            raise GraphFileError(
                f"{path} is not an integer graph. Received: format {header['format']!r}"
            )
        if header["version"] not in range(1, FORMAT_VERSION + 1):
            raise GraphFileError(
                f"{path} was saved by a newer keras_qat: its format is {header['version']!r}, and "
                f"this one reads formats up to {FORMAT_VERSION}. Update keras_qat with "
                "pip install --upgrade keras_qat."
            )
        return _unpack_graph(header, arrays)
    except (FileNotFoundError, IsADirectoryError, GraphFileError):
        raise
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise GraphFileError(
            f"{path} is not a readable integer graph (truncated, corrupt or another kind of "
            f"file): {error}"
        ) from error


def _unpack_graph(header: dict[str, Any], arrays: Arrays) -> IntegerGraph:
    tensors = [
        IntegerTensor(
            t["name"], tuple(t["shape"]), _unpack_qparams(t["qparams"]), t.get("dtype", "int8")
        )
        for t in header["tensors"]
    ]
    return IntegerGraph(
        tensors={tensor.name: tensor for tensor in tensors},
        ops=tuple(_unpack_op(op, arrays) for op in header["ops"]),
        inputs=tuple(header["inputs"]),
        outputs=tuple(header["outputs"]),
    ).validate()


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


def _unpack_op(packed: dict[str, Any], arrays: Arrays) -> IntegerOp:
    fields = {name: _unpack_value(value, arrays) for name, value in packed.items()}
    return OPS[fields.pop("type")](**fields)


def _unpack_value(packed: Any, arrays: Arrays) -> Any:
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
