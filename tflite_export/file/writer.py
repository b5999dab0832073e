"""Writes and reads the flatbuffer. Only this module knows schema, buffers and indices."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import InvalidFileError
from keras_qat.integer.storage_sizes import PACKED_BITS
from tflite_export.file.file_model import FileModel, FileOperator, FileTensor

SIGNATURE = "serving_default"
_VERSION = 3
_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16
_LAST_DEPRECATED_CODE = 127
_CUSTOM = "CUSTOM"
_ABSENT = -1
_MOST_ELEMENTS = 2**31 - 1
_BYTES_OF_A_TABLE = 8
"""At least: where its fields are, and the offset in whatever holds it."""
_UNPACKS_A_TABLE = "InitFromObj"
_ENUMERATIONS = {
    "fusedActivationFunction": "ActivationFunctionType",
    "inDataType": "TensorType",
    "outDataType": "TensorType",
    "outputType": "TensorType",
    "padding": "Padding",
}


def write_model(model: FileModel) -> bytes:
    """The file's bytes. Equal constants share a buffer, and data starts at multiples of 16.

    Raises:
        ImportError: `keras_qat[export]` is not installed.
    """
    schema = _schema()
    import flatbuffers

    buffers = _Buffers(schema)
    indices = {name: index for index, name in enumerate(model.tensors)}
    codes = list(dict.fromkeys((op.code, op.version) for op in model.operators))

    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors = [
        _tensor(schema, tensor, buffers, model.compact) for tensor in model.tensors.values()
    ]
    graph.operators = [
        _operator(schema, op, indices, codes.index((op.code, op.version))) for op in model.operators
    ]
    graph.inputs = [indices[name] for name in model.inputs.values()]
    graph.outputs = [indices[name] for name in model.outputs.values()]

    file = schema.ModelT()
    file.version = _VERSION
    file.description = model.description
    file.operatorCodes = [_operator_code(schema, code, version) for code, version in codes]
    file.subgraphs = [graph]
    file.metadata = [_metadata(schema, *item, buffers) for item in model.metadata.items()]
    file.buffers = buffers.items
    file.signatureDefs = [_signature(schema, model, indices)]

    builder = flatbuffers.Builder(1024)
    builder.Finish(file.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def read_model(data: bytes) -> FileModel:
    """The file's content by name, straight from the schema.

    Raises:
        InvalidFileError: the bytes are not a TFLite flatbuffer, it has several subgraphs, or its
            tensors have sizes below 1, scales that are no scales, or one name twice.
        ImportError: `keras_qat[export]` is not installed.
    """
    schema = _schema()
    if data[4:8] != _IDENTIFIER:
        raise InvalidFileError(f"Not a TFLite file. Received: bytes 4 to 8 are {data[4:8]!r}")
    try:
        with _at_most_tables(len(data) // _BYTES_OF_A_TABLE):
            file = schema.ModelT.InitFromPackedBuf(data)
        return _read(schema, file)
    except InvalidFileError:
        raise
    except Exception as error:  # flatbuffers and NumPy raise a dozen types on damage
        raise InvalidFileError(
            f"The TFLite file is damaged: {error or type(error).__name__}"
        ) from error


@contextlib.contextmanager
def _at_most_tables(most: int) -> Iterator[None]:
    """Ends a reading that unpacks more tables than the bytes can hold.

    In a damaged file vectors overlap, and unpacking them all may take hours. Under a profiler
    nothing is counted, because its place is taken.
    """
    if sys.getprofile() is not None:
        yield
        return
    count = 0

    def note(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        if event == "call" and frame.f_code.co_name == _UNPACKS_A_TABLE:
            count += 1
            if count > most:
                raise InvalidFileError("The TFLite file is damaged: its parts overlap")

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def _read(schema: Any, file: Any) -> FileModel:
    if len(file.subgraphs) != 1:
        raise InvalidFileError(f"The file must have one subgraph. Received: {len(file.subgraphs)}")
    (graph,) = file.subgraphs
    tensors = [_read_tensor(schema, tensor, file.buffers) for tensor in graph.tensors]
    names = [tensor.name for tensor in tensors]
    _check_tensors(tensors)
    signatures = file.signatureDefs or []
    inputs, outputs = (
        {(m.name.decode()): names[m.tensorIndex] for s in signatures for m in getattr(s, side)}
        for side in ("inputs", "outputs")
    )
    return FileModel(
        description=(file.description or b"").decode(),
        tensors={tensor.name: tensor for tensor in tensors},
        operators=tuple(_read_operator(schema, op, file, names) for op in graph.operators),
        inputs=inputs or {names[i]: names[i] for i in graph.inputs},
        outputs=outputs or {names[i]: names[i] for i in graph.outputs},
        metadata={
            (each.name.decode()): np.asarray(file.buffers[each.buffer].data, np.uint8).tobytes()
            for each in file.metadata or ()
        },
    )


def _check_tensors(tensors: list[FileTensor]) -> None:
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise InvalidFileError("Two tensors of the TFLite file have one name.")
    for tensor in tensors:
        elements = math.prod(tensor.shape)
        if (tensor.shape and min(tensor.shape) < 1) or elements > _MOST_ELEMENTS:
            raise InvalidFileError(
                f"Tensor {tensor.name[:60]!r}: sizes must be positive, and their product below "
                f"2**31. Received: shape {tensor.shape[:9]}"
            )
        if not np.all(np.isfinite(tensor.scale) & (tensor.scale > 0)):
            raise InvalidFileError(
                f"Tensor {tensor.name[:60]!r}: scales must be positive and finite. Received: "
                f"{tensor.scale.ravel()[:9]}"
            )


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError(
            "Writing .tflite files needs ai-edge-litert and flatbuffers: "
            'pip install "keras_qat[export]"'
        ) from error
    return schema_py_generated


class _Buffers:
    """The constants of a file; buffer 0 is empty by convention."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._index_of: dict[bytes, int] = {}
        self.items: list[Any] = [schema.BufferT()]

    def index(self, data: npt.NDArray[Any] | None) -> int:
        """The index of the buffer with the data. Equal data shares one buffer."""
        if data is None:
            return 0
        content = data.astype(data.dtype.newbyteorder("<")).tobytes()
        if content not in self._index_of:
            self._index_of[content] = len(self.items)
            self.items.append(_aligned_buffer(self._schema, content))
        return self._index_of[content]


def _aligned_buffer(schema: Any, content: bytes) -> Any:
    """A buffer that aligns its data. The generated Python packer does not."""

    class AlignedBuffer(schema.BufferT):
        def Pack(self, builder: Any) -> Any:  # noqa: N802 (the schema's name)
            builder.StartVector(1, len(content), _ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    return AlignedBuffer()


def _tensor(schema: Any, tensor: FileTensor, buffers: _Buffers, compact: bool) -> Any:
    packed = schema.TensorT()
    packed.name = tensor.name
    packed.shape = list(tensor.shape)
    packed.hasRank = True
    if tensor.resizable and not compact:
        packed.shapeSignature = [-1, *tensor.shape[1:]]
    packed.type = getattr(schema.TensorType, tensor.dtype.upper())
    packed.buffer = buffers.index(_stored_data(tensor))
    if tensor.scale.size:
        packed.quantization = schema.QuantizationParametersT()
        packed.quantization.scale = tensor.scale.reshape(-1)
        packed.quantization.zeroPoint = np.full(
            1 if compact else tensor.scale.size, tensor.zero_point, np.int64
        )
        packed.quantization.quantizedDimension = tensor.axis
    return packed


def _metadata(schema: Any, name: str, content: bytes, buffers: _Buffers) -> Any:
    packed = schema.MetadataT()
    packed.name, packed.buffer = name, buffers.index(np.frombuffer(content, np.uint8))
    return packed


def _stored_data(tensor: FileTensor) -> npt.NDArray[Any] | None:
    """The constant as the file holds it. The first of several in a byte is in its low bits."""
    if tensor.data is None or tensor.dtype not in PACKED_BITS:
        return tensor.data
    bits = PACKED_BITS[tensor.dtype]
    count = 8 // bits
    padded = np.append(tensor.data.ravel(), np.zeros(-tensor.data.size % count, np.int8))
    parts = padded.view(np.uint8).reshape(-1, count) & ((1 << bits) - 1)
    return np.asarray(np.bitwise_or.reduce(parts << _places(bits), axis=1))


def _values(stored: npt.NDArray[Any], dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Restores the constant from `_stored_data`."""
    content = np.asarray(stored)
    if dtype not in PACKED_BITS:
        return content.view(dtype).reshape(shape)
    bits = PACKED_BITS[dtype]
    at_the_top = content.astype(np.uint8)[:, np.newaxis] << _places(bits)[::-1]
    values = at_the_top.astype(np.uint8).view(np.int8) >> (8 - bits)
    return values.ravel()[: math.prod(shape)].reshape(shape)


def _places(bits: int) -> npt.NDArray[np.uint8]:
    """The lowest bit of each number in a byte."""
    return np.arange(0, 8, bits, dtype=np.uint8)


def _operator(schema: Any, op: FileOperator, indices: dict[str, int], code: int) -> Any:
    packed = schema.OperatorT()
    packed.opcodeIndex = code
    packed.inputs = [indices[name] if name else _ABSENT for name in op.inputs]
    packed.outputs = [indices[name] for name in op.outputs]
    if op.options:
        packed.builtinOptionsType = getattr(schema.BuiltinOptions, op.options)
        packed.builtinOptions = getattr(schema, f"{op.options}T")()
        for field, value in op.fields.items():
            if field in _ENUMERATIONS:
                value = getattr(getattr(schema, _ENUMERATIONS[field]), value)
            setattr(packed.builtinOptions, field, value)
    return packed


def _operator_code(schema: Any, code: str, version: int) -> Any:
    packed = schema.OperatorCodeT()
    custom = not hasattr(schema.BuiltinOperator, code)
    packed.builtinCode = getattr(schema.BuiltinOperator, _CUSTOM if custom else code)
    packed.customCode = code if custom else None
    packed.deprecatedBuiltinCode = min(packed.builtinCode, _LAST_DEPRECATED_CODE)
    packed.version = version
    return packed


def _signature(schema: Any, model: FileModel, indices: dict[str, int]) -> Any:
    packed = schema.SignatureDefT()
    packed.signatureKey = SIGNATURE
    for side in ("inputs", "outputs"):
        maps = []
        for name, tensor in getattr(model, side).items():
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, indices[tensor]
            maps.append(entry)
        setattr(packed, side, maps)
    return packed


def _read_tensor(schema: Any, tensor: Any, buffers: list[Any]) -> FileTensor:
    dtype = _name_of(schema.TensorType, tensor.type).lower()
    shape = tuple(int(size) for size in tensor.shape) if tensor.shape is not None else ()
    stored = buffers[tensor.buffer].data
    grid = tensor.quantization
    quantized = grid is not None and grid.scale is not None
    return FileTensor(
        name=tensor.name.decode(),
        shape=shape,
        dtype=dtype,
        scale=np.asarray(grid.scale if quantized else [], dtype=np.float32),
        zero_point=int(grid.zeroPoint[0]) if quantized else 0,
        axis=int(grid.quantizedDimension) if quantized else 0,
        data=None if stored is None else _values(stored, dtype, shape),
        resizable=tensor.shapeSignature is not None,
    )


def _read_operator(schema: Any, op: Any, file: Any, names: list[str]) -> FileOperator:
    code = file.operatorCodes[op.opcodeIndex]
    options = _name_of(schema.BuiltinOptions, op.builtinOptionsType)
    stored = vars(op.builtinOptions) if op.builtinOptions is not None else {}
    fields = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in stored.items()}
    for field in fields.keys() & _ENUMERATIONS.keys():
        fields[field] = _name_of(getattr(schema, _ENUMERATIONS[field]), fields[field])
    name = _name_of(schema.BuiltinOperator, max(code.builtinCode, code.deprecatedBuiltinCode))
    return FileOperator(
        code=code.customCode.decode() if name == _CUSTOM else name,
        version=int(code.version),
        inputs=tuple("" if i == _ABSENT else names[i] for i in op.inputs),
        outputs=tuple(names[i] for i in op.outputs),
        options="" if options == "NONE" else options,
        fields=fields,
    )


def _name_of(enumeration: Any, value: int) -> str:
    names: dict[int, str] = {number: name for name, number in vars(enumeration).items()}
    return names[value]
