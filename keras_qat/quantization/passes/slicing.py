"""Slices of a tensor, as layers."""

from __future__ import annotations

import numbers
from typing import Any

import keras

from keras_qat.quantization.passes.recipes import NOTHING, Chain
from keras_qat.quantized_layers import Take

layers = keras.layers

_CROP_AND_POOL = {
    3: (layers.Cropping1D, layers.MaxPooling1D),
    4: (layers.Cropping2D, layers.MaxPooling2D),
}
"""The rank of a tensor -> the layers that crop and thin it."""

_CHANNELS_FIRST = {3: (2, 1), 4: (3, 1, 2)}
_CHANNELS_LAST = {3: (2, 1), 4: (2, 3, 1)}


def slice_layers(shape: tuple[int | None, ...], key: Any, result: tuple[int, ...]) -> Chain | None:
    """The layers that compute `x[key]`; `None` if there are none.

    All examples must be taken. Time steps, height and width are cropped, and thinned by pooling
    windows of one value. Channels are permuted to the front first, and then cut in the same way.
    Slices that run backward, and slices of other tensors than features, sequences and images, are
    taken place by place.

    Args:
        shape: the shape of `x`, examples first.
        key: the expression in the brackets.
        result: the shape of `x[key]`.

    >>> [kind.__name__ for kind, _ in slice_layers((None, 8, 3), (slice(None), -1), (None, 3))]
    ['Cropping1D', 'Reshape']
    """
    ranges = _ranges(shape, key)
    if ranges is None:
        return None
    sizes = _known(shape)
    reshaped = (layers.Reshape, {"target_shape": result[1:]})
    if len(shape) not in (2, 3, 4) or any(each.step < 1 for each in ranges):
        chain = _places(ranges, sizes)
        kept = tuple(map(len, ranges)) == result[1:]
        return (chain if kept else [*chain, reshaped]) or NOTHING
    if len(shape) == 2:
        as_sequence = (layers.Reshape, {"target_shape": (*sizes, 1)})
        return [as_sequence, *_cut(ranges, sizes), reshaped]
    *places, channels = ranges
    chain = _cut(places, sizes[:-1])
    if channels != range(sizes[-1]):
        others = [range(len(each)) for each in places[:-1]]
        chain += [
            (layers.Permute, {"dims": _CHANNELS_FIRST[len(shape)]}),
            *_cut([channels, *others], (sizes[-1], *map(len, others))),
            (layers.Permute, {"dims": _CHANNELS_LAST[len(shape)]}),
        ]
    if tuple(map(len, ranges)) != result[1:]:
        chain.append(reshaped)
    return chain or NOTHING


def _places(ranges: list[range], sizes: tuple[int, ...]) -> Chain:
    """A `Take` for every axis that is not taken whole, in its order."""
    return [
        (Take, {"indices": list(taken), "axis": axis})
        for axis, (taken, size) in enumerate(zip(ranges, sizes, strict=True), start=1)
        if taken != range(size)
    ]


def _known(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """The sizes of one example, where all of them are known."""
    return tuple(size for size in shape[1:] if size is not None)


def _ranges(shape: tuple[int | None, ...], key: Any) -> list[range] | None:
    """The indices along every axis except the examples; `None` for other than plain slices."""
    key = tuple(key) if isinstance(key, (tuple, list)) else (key,)
    key = tuple(each for each in key if each is not None)  # the Reshape adds new axes
    dots = [index for index, each in enumerate(key) if each is Ellipsis]
    if dots:
        whole = (slice(None),) * (len(shape) - len(key) + 1)
        key = (*key[: dots[0]], *whole, *key[dots[0] + 1 :])
    key += (slice(None),) * (len(shape) - len(key))
    if None in shape[1:] or not _takes_all(key[0]):
        return None
    taken = []
    for size, each in zip(_known(shape), key[1:], strict=True):
        if isinstance(each, slice):
            found = range(size)[each]
        elif isinstance(each, numbers.Integral):
            found = range(size)[each:][:1]  # an index beyond the end takes nothing
        else:
            return None
        if not len(found):
            return None
        taken.append(found)
    return taken


def _takes_all(key: Any) -> bool:
    return isinstance(key, slice) and (key.start or 0, key.stop, key.step or 1) == (0, None, 1)


def _cut(taken: list[range], sizes: tuple[int, ...]) -> Chain:
    """The layers that crop and thin the axes between examples and channels."""
    cropping, pooling = _CROP_AND_POOL[len(taken) + 2]
    crops = tuple(
        (each.start, size - 1 - each[-1]) for each, size in zip(taken, sizes, strict=True)
    )
    steps = tuple(each.step if len(each) > 1 else 1 for each in taken)
    image = len(taken) == 2
    chain: Chain = []
    if any(map(any, crops)):
        chain.append((cropping, {"cropping": crops if image else crops[0]}))
    if any(step > 1 for step in steps):
        chain.append((pooling, {"pool_size": 1, "strides": steps if image else steps[0]}))
    return chain
