"""Proves each op alone at the ends of its grid, where sums are largest.

Samples of a network seldom drive the sums of inner layers far. So each op that computes becomes a
file of its own, with the same weights, bias, scales and storage. Its inputs drive the accumulator
of every output channel to both ends: the highest code at each positive weight and the lowest at
each negative one, and the other way round.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tflite_export.file.file_model import FileModel
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.file.writer import write_model
from tflite_export.ops.emit_model import emit_model

Verify = Callable[[str, IntegerGraph, bytes, FileModel, dict[str, npt.NDArray[Any]]], Any]
Signs = npt.NDArray[np.int8]
Shape = tuple[int, ...]

_CHANNELS = 64
"""Channels in one file. A limit makes the cost proportional to the weights."""
_SMALL = 1 << 24
"""Products up to which all channels go into one file."""
_ONES = 6
"""Places that are tried alone, spread over the input."""
_LARGEST_IMAGE = 4
"""Rows and columns of an image that is interpolated: its borders and its inside."""


def prove_extremes(stored: StoredGraph, runtimes: Sequence[str], verify: Verify) -> None:
    """Runs every op that rounds or sums alone, at the ends of its input's grid.

    Elementwise operators are proven on all their codes instead (`tflite_export.proof.all_codes`).

    Args:
        stored: the graph as the file states it, and the storage of its weights.
        runtimes: names of the runtimes.
        verify: raises an error if a runtime differs on `(runtime, graph, bytes, file, samples)`.
    """
    for op in stored.graph.ops:
        for alone, samples in _alone(op, stored.graph):
            storage = {name: kind for name, kind in stored.storage.items() if name == op.output}
            file = emit_model(StoredGraph(alone, storage, {}), {}, False)
            data = write_model(file)
            for runtime in runtimes:
                verify(runtime, alone, data, file, samples)


def extreme_inputs(graph: IntegerGraph) -> dict[str, npt.NDArray[Any]]:
    """Inputs of a whole network: lowest, highest, both by turns, and one place alone at an end.

    Inputs on no grid are 0.
    """
    return {name: _of_input(graph, name) for name in graph.inputs}


def _of_input(graph: IntegerGraph, name: str) -> npt.NDArray[Any]:
    tensor = graph.tensors[name]
    shape = tensor.shape[1:]
    plain = _plain(shape, 1)
    if not tensor.on_grid:
        return np.zeros(plain.shape, tensor.dtype)
    return _as_codes(plain, tensor.qparams)


def _alone(
    op: ops.IntegerOp, graph: IntegerGraph
) -> Iterator[tuple[IntegerGraph, dict[str, npt.NDArray[Any]]]]:
    """The op as networks, each with its inputs."""
    source = graph.tensors[op.inputs[0]]
    output = graph.tensors[op.output].qparams
    if isinstance(op, ops.LinearOp):
        for part in _parts(op, source.shape):
            shape, signs, changed = _driven(part, source.shape)
            given = np.concatenate([_plain(shape[1:], _ONES), signs, -signs])
            yield _network(changed, shape, source.qparams, output, given)
        return
    size = _small_shape(op, source.shape)
    if size is not None:
        yield _network(op, size, source.qparams, output, _plain(size[1:], _ONES))


def _network(
    op: ops.IntegerOp, shape: Shape, grid: QuantParams, output: QuantParams, signs: Signs
) -> tuple[IntegerGraph, dict[str, npt.NDArray[Any]]]:
    builder = GraphBuilder()
    name = builder.add_input(op.inputs[0], shape, grid)
    return builder.build((builder.add(op, output),)), {name: _as_codes(signs, grid)}


def _as_codes(signs: Signs, grid: QuantParams) -> npt.NDArray[np.int8]:
    """The highest code for 1, the lowest for -1, and the one nearest to the real number 0."""
    zero = min(max(grid.zero_point, grid.qmin), grid.qmax)
    return np.array([zero, grid.qmax, grid.qmin], np.int8)[signs]  # -1 is the last


def _plain(shape: Shape, ones: int) -> Signs:
    """All lowest, all highest, both by turns, and single places at the other end or from 0."""
    size = int(np.prod(shape))
    places = np.unique(np.linspace(0, size - 1, ones).round().astype(int))
    alone = np.zeros((places.size, size), np.int8)
    alone[np.arange(places.size), places] = 1
    turns = np.where(np.arange(size) % 2, 1, -1).astype(np.int8)[None]
    flat = np.full((1, size), 1, np.int8)
    rows = (-flat, flat, turns, -turns, alone, -alone, 2 * alone - 1, 1 - 2 * alone)
    return np.concatenate(rows).reshape(-1, *shape)


def _small_shape(op: ops.IntegerOp, shape: Shape) -> Shape | None:
    """A shape on which the op is tried alone; `None` if it is not."""
    if isinstance(op, ops.Mean):
        return shape
    if isinstance(op, ops.AveragePool2D):
        return (1, *op.pool_size, shape[3])
    if isinstance(op, ops.InterpolatePixels):
        return (1, *(min(size, _LARGEST_IMAGE) for size in shape[1:3]), shape[3])
    if isinstance(op, ops.Softmax):
        return (*[1] * (len(shape) - 1), shape[-1])
    return None


def _parts(op: ops.LinearOp, shape: Shape) -> Iterator[ops.LinearOp]:
    """The op by channels, where all at once would cost much. Groups stay together."""
    channels = op.weight.values.shape[op.channel_axis]
    in_groups = isinstance(op, ops.DepthwiseConv2D) or op.weight.values.shape[-1] < shape[-1]
    if in_groups or channels <= _CHANNELS or 2 * channels * op.weight.values.size < _SMALL:
        yield op
        return
    for start in range(0, channels, _CHANNELS):
        yield _channels(op, slice(start, start + _CHANNELS))


def _channels(op: ops.LinearOp, which: slice) -> ops.LinearOp:
    grid = op.weight.qparams
    if grid.axis is not None:
        grid = dataclasses.replace(grid, scale=grid.scale[which])
    weight = ops.QuantizedArray(op.weight.values[which], grid)
    return dataclasses.replace(op, weight=weight, bias=op.bias[which])


@functools.singledispatch
def _driven(op: Any, shape: Shape) -> tuple[Shape, Signs, ops.LinearOp]:
    """The input's shape, the signs that drive each accumulator up, and the op on that shape."""
    raise NotImplementedError(
        f"{op.output!r}: nothing says which input drives the sums of a {type(op).__name__}. "
        "Register it with `_driven`."
    )


@_driven.register
def _of_dense(op: ops.FullyConnected, shape: Shape) -> tuple[Shape, Signs, ops.LinearOp]:
    alone = (*[1] * (len(shape) - 1), shape[-1])
    return alone, np.sign(op.weight.values).reshape(-1, *alone[1:]), op


@_driven.register
def _of_convolution(op: ops.Conv2D, shape: Shape) -> tuple[Shape, Signs, ops.LinearOp]:
    filters, rows, columns, channels = op.weight.values.shape
    groups = shape[3] // channels
    signs = np.sign(op.weight.values).reshape(groups, filters // groups, rows, columns, channels)
    return _in_window(op, np.moveaxis(signs, 0, 3).reshape(-1, rows, columns, shape[3]))


@_driven.register
def _of_depthwise(op: ops.DepthwiseConv2D, shape: Shape) -> tuple[Shape, Signs, ops.LinearOp]:
    (weight,) = op.weight.values
    each = np.sign(weight).reshape(*weight.shape[:2], shape[3], -1)
    return _in_window(op, np.moveaxis(each, 3, 0))


def _in_window(op: Any, signs: Signs) -> tuple[Shape, Signs, ops.LinearOp]:
    """The window lies once on its input. Between dilated taps, the input is 0."""
    count, *size, channels = signs.shape
    reach = [(taps - 1) * gap + 1 for taps, gap in zip(size, op.dilation, strict=True)]
    spread = np.zeros((count, *reach, channels), np.int8)
    spread[:, :: op.dilation[0], :: op.dilation[1]] = signs
    return (1, *reach, channels), spread, dataclasses.replace(op, padding="valid")


@_driven.register
def _of_transposed(op: ops.TransposeConv2D, shape: Shape) -> tuple[Shape, Signs, ops.LinearOp]:
    """Pixels of the output differ in which taps they see, one kind for each place in a stride."""
    filters, *size, channels = op.weight.values.shape
    pixels = [-(-taps // step) for taps, step in zip(size, op.strides, strict=True)]
    output = [
        (count - 1) * step + taps
        for count, step, taps in zip(pixels, op.strides, size, strict=True)
    ]
    found = []
    for row, column in np.ndindex(*(min(pair) for pair in zip(op.strides, size, strict=True))):
        seen = np.sign(op.weight.values[:, row :: op.strides[0], column :: op.strides[1]])
        signs = np.zeros((filters, *pixels, channels), np.int8)
        signs[:, pixels[0] - seen.shape[1] :, pixels[1] - seen.shape[2] :] = seen[:, ::-1, ::-1]
        found.append(signs)
    changed = dataclasses.replace(op, padding="valid", output_size=tuple(output))
    return (1, *pixels, channels), np.concatenate(found), changed
