"""Raw operations that move values and change none, as layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_qat.keras_graph import GraphNode
from keras_qat.quantization.passes.recipes import NOTHING, Chain, Recipe
from keras_qat.quantization.passes.slicing import slice_layers
from keras_qat.quantized_layers import CastTo, StopGradient, Take

layers = keras.layers

Arguments = tuple[Any, ...]
Options = dict[str, Any]
Shape = tuple[int | None, ...]


def reshape(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """A reshape that keeps the examples apart; also `squeeze`, `expand_dims` and the like."""
    before, after = node.inputs[0].shape[1:], node.outputs[0].shape[1:]
    if None in after and None not in before and hasattr(node.operation, "newshape"):
        after = _with_the_rest(node.operation.newshape[1:], before)
    examples = (node.inputs[0].shape[0], node.outputs[0].shape[0] if node.outputs[0].shape else 1)
    if None in (*before, *after) or math.prod(before) != math.prod(after):
        return None
    if examples[0] != examples[1]:
        return None
    return [(layers.Reshape, {"target_shape": after})]


def _with_the_rest(wanted: Sequence[int | None], before: Shape) -> Shape:
    """The sizes of a reshape to `(shape(x)[0], -1)`, for which Keras does not know them."""
    known = [size for size in wanted if size not in (None, -1)]
    rest = math.prod(size for size in before if size) // max(math.prod(known), 1)
    return tuple(rest if size == -1 else size for size in wanted)


def transpose(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    axes = node.operation.axes
    rank = len(node.inputs[0].shape)
    return _permute([each % rank for each in axes] if axes else range(rank)[::-1])


def swapaxes(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    rank = len(node.inputs[0].shape)
    order = list(range(rank))
    one, other = node.operation.axis1 % rank, node.operation.axis2 % rank
    order[one], order[other] = order[other], order[one]
    return _permute(order)


def moveaxis(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    rank = len(node.inputs[0].shape)
    sources = [each % rank for each in node.operation.source]
    order = [axis for axis in range(rank) if axis not in sources]
    moved = zip((each % rank for each in node.operation.destination), sources, strict=True)
    for place, axis in sorted(moved):
        order.insert(place, axis)
    return _permute(order)


def _permute(order: Sequence[int]) -> Chain | None:
    """The order of all axes, the batch first; `None` where the batch moves."""
    if list(order) == list(range(len(order))):
        return NOTHING
    return [(layers.Permute, {"dims": tuple(order[1:])})] if order[0] == 0 else None


def get_item(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    return slice_layers(node.inputs[0].shape, args[1], node.outputs[0].shape)


def split(node: GraphNode, args: Arguments, kwargs: Options) -> Recipe | None:
    """A slice for each part."""
    shape = node.inputs[0].shape
    axis = node.operation.axis % len(shape)
    sizes = [tensor.shape[axis] for tensor in node.outputs]
    if axis == 0 or None in (*shape[1:], *sizes):
        return None
    ends = list(itertools.accumulate(sizes))
    cuts = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    return _slices(node, [(slice(None),) * axis + (cut,) for cut in cuts])


def unstack(node: GraphNode, args: Arguments, kwargs: Options) -> Recipe | None:
    """One step for each output."""
    shape = node.inputs[0].shape
    axis = node.operation.axis % len(shape)
    if axis == 0 or None in shape[1:]:
        return None
    return _slices(node, [(slice(None),) * axis + (step,) for step in range(len(node.outputs))])


def _slices(node: GraphNode, keys: Sequence[Any]) -> Recipe | None:
    shape = node.inputs[0].shape
    pairs = zip(keys, node.outputs, strict=True)
    chains = [slice_layers(shape, key, tensor.shape) for key, tensor in pairs]
    return None if None in chains else Recipe(tuple(each for each in chains if each is not None))


def concatenate(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    axis, given = node.operation.axis, args[0] if args else kwargs.get("xs")
    if not isinstance(given, list | tuple) or not all(map(_is_symbolic, given)):
        return None
    return None if axis is None else [(layers.Concatenate, {"axis": axis})]


def append(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    axis = node.operation.axis
    if axis is None or len(node.inputs) != 2:
        return None
    return [(layers.Concatenate, {"axis": axis})]


def stacks_of_arrays(axis: int) -> Any:
    """`hstack`, `dstack`: a concatenation over one axis."""

    def find(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
        enough = all(len(tensor.shape) > axis for tensor in node.inputs)
        return [(layers.Concatenate, {"axis": axis})] if enough else None

    return find


def stack(node: GraphNode, args: Arguments, kwargs: Options) -> Recipe | None:
    """Every tensor gets an axis of size 1, over which all are joined."""
    shape = node.outputs[0].shape
    axis = node.operation.axis % len(shape)
    given = args[0] if args else kwargs["x"]
    symbolic = isinstance(given, list | tuple) and all(map(_is_symbolic, given))
    if axis == 0 or None in shape[1:] or not symbolic:
        return None
    one = (layers.Reshape, {"target_shape": (*shape[1:axis], 1, *shape[axis + 1 :])})
    return Recipe(([],), ([one],) * len(given), (layers.Concatenate, {"axis": axis}))


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def flip(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    return _taken(node, node.operation.axis, lambda places, axis: places[::-1])


def roll(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    axis, shift = node.operation.axis, node.operation.shift
    axes, shifts = (_as_list(each) for each in (axis, shift))
    if len(shifts) not in (1, len(axes)):
        return None
    by_axis = dict(zip(axes, shifts if len(shifts) > 1 else shifts * len(axes), strict=True))
    return _taken(node, axis, lambda places, given: np.roll(places, by_axis[given]))


def repeat(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    repeats = node.operation.repeats
    return _taken(node, node.operation.axis, lambda places, axis: np.repeat(places, repeats))


def rot90(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """Quarter turns: a permutation, and flips."""
    shape, (first, second) = node.inputs[0].shape, node.operation.axes
    rank = len(shape)
    first, second, turns = first % rank, second % rank, node.operation.k % 4
    if None in shape[1:] or 0 in (first, second):
        return None
    flipped = {0: (), 1: (second,), 2: (first, second), 3: (first,)}[turns]
    chain: Chain = [(Take, {"indices": range(shape[a])[::-1], "axis": a}) for a in flipped]
    if turns % 2:
        order = list(range(rank))
        order[first], order[second] = order[second], order[first]
        chain += _permute(order) or []
    return chain or NOTHING


def tile(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """Copies of every axis behind each other. Axes may be added in front, behind the examples."""
    shape, result = node.inputs[0].shape, node.outputs[0].shape
    repeats = [1] * (len(shape) - len(_as_list(node.operation.repeats)))
    repeats += _as_list(node.operation.repeats)
    if len(repeats) > len(shape) or repeats[0] != 1 or None in (*shape[1:], *result[1:]):
        return None
    chain: Chain = [
        (Take, {"indices": list(range(size)) * count, "axis": axis})
        for axis, (size, count) in enumerate(zip(shape, repeats, strict=True))
        if count != 1
    ]
    return chain or NOTHING


def broadcast_to(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """Axes of size 1, repeated."""
    shape, result = node.inputs[0].shape, node.outputs[0].shape
    if None in (*shape[1:], *result[1:]) or len(shape) != len(result) or shape[0] != result[0]:
        return None
    chain: Chain = [
        (Take, {"indices": (0,) * after, "axis": axis})
        for axis, (before, after) in enumerate(zip(shape, result, strict=True))
        if before != after
    ]
    return chain or NOTHING


def take(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """`take` with constant places along one axis."""
    indices = args[1] if len(args) > 1 else kwargs["indices"]
    shape, axis = node.inputs[0].shape, node.operation.axis
    if axis is None or _is_symbolic(indices) or None in shape[1:]:
        return None
    found = np.asarray(keras.ops.convert_to_numpy(indices))
    axis = axis % len(shape)
    size = shape[axis]
    if axis == 0 or not found.size or found.min() < -size or found.max() >= size:
        return None
    chain: Chain = [(Take, {"indices": (found.ravel() % size).tolist(), "axis": axis})]
    if found.ndim != 1:
        chain.append((layers.Reshape, {"target_shape": tuple(node.outputs[0].shape[1:])}))
    return chain


def _taken(node: GraphNode, axis: Any, places_of: Any) -> Chain | None:
    """A `Take` for every axis, with the places `places_of(all places, axis as given)`."""
    shape = node.inputs[0].shape
    axes = _as_list(axis)
    if None in axes or None in shape[1:] or any(each % len(shape) == 0 for each in axes):
        return None
    return [
        (Take, {"indices": np.asarray(places_of(np.arange(size), given)).tolist(), "axis": place})
        for given in axes
        for place, size in [(given % len(shape), shape[given % len(shape)])]
    ] or NOTHING


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def nothing(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """`copy`: what is read is not changed by anybody."""
    return NOTHING


def stop_gradient(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    return [(StopGradient, {})]


def conversion(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """A cast to a float type, of floats or of integers. Other casts round, or compare."""
    before, after = (keras.backend.standardize_dtype(x.dtype) for x in _ends(node))
    if before == after:
        return NOTHING
    floats = keras.backend.is_float_dtype(after) and before != "bool"
    return [(CastTo, {"target": after})] if floats else None


def _ends(node: GraphNode) -> tuple[Any, Any]:
    return node.inputs[0], node.outputs[0]


def depth_to_space(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """Channels become blocks of pixels."""
    block = node.operation.block_size
    return _between_blocks(node, lambda h, w, c: (h, w, block, c // block))


def space_to_depth(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """Blocks of pixels become channels."""
    block = node.operation.block_size
    return _between_blocks(node, lambda h, w, c: (h // block, block, w // block, block * c))


def _between_blocks(
    node: GraphNode, split: Callable[[int, int, int], tuple[int, ...]]
) -> Chain | None:
    """A reshape, an exchange of the two middle axes, and a reshape."""
    sizes = node.inputs[0].shape[1:]
    if None in sizes or node.operation.data_format != "channels_last":
        return None
    return [
        (layers.Reshape, {"target_shape": split(*sizes)}),
        (layers.Permute, {"dims": (1, 3, 2, 4)}),
        (layers.Reshape, {"target_shape": tuple(node.outputs[0].shape[1:])}),
    ]


def pad(node: GraphNode, args: Arguments, kwargs: Options) -> Chain | None:
    """Zeros around steps, or around height and width and channels."""
    operation = node.operation
    value = args[1] if len(args) > 1 else kwargs.get("constant_values")
    widths = tuple(tuple(pair) for pair in operation.pad_width)
    if operation.mode != "constant" or value not in (None, 0) or any(widths[0]):
        return None
    if len(widths) == 3 and not any(widths[2]):
        return [(layers.ZeroPadding1D, {"padding": widths[1]})]
    if len(widths) != 4:
        return None
    chain: Chain = []
    if any(map(any, widths[1:3])):
        chain.append((layers.ZeroPadding2D, {"padding": widths[1:3]}))
    if any(widths[3]):
        chain += [
            (layers.Permute, {"dims": (3, 1, 2)}),
            (layers.ZeroPadding2D, {"padding": (widths[3], (0, 0))}),
            (layers.Permute, {"dims": (2, 3, 1)}),
        ]
    return chain or NOTHING
