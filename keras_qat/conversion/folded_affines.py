"""Which affine maps the weight layers before them compute, in all calls of the maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_Fused = tuple[Any, tuple[Any, ...]]
"""A call of a weight layer: the layer, and the affine maps that are fused behind it."""


def folded_affines(fused: Iterable[_Fused], calls: Mapping[Any, int]) -> dict[Any, tuple[Any, ...]]:
    """The affine maps that weight layers compute, each with the layers that must do so together.

    A map is computed by the layers before it if that holds for all of its calls. A layer computes
    all maps behind one of its calls, or none. So layers that share a map depend on each other.

    Args:
        fused: the calls of weight layers that can compute maps.
        calls: how often each map is called.

    >>> folded_affines([("a", ("m", "n")), ("b", ("n",))], {"m": 1, "n": 2})
    {'m': ('a', 'b'), 'n': ('a', 'b')}
    >>> folded_affines([("a", ("m", "n")), ("b", ("k",))], {"m": 1, "n": 2, "k": 1})
    {'k': ('b',)}
    """
    kept = list(fused)
    while True:
        counted = Counter(each for _, maps in kept for each in maps)
        before, kept = kept, [one for one in kept if all(counted[m] == calls[m] for m in one[1])]
        if len(kept) == len(before):
            break
    together: dict[Any, dict[Any, None]] = {}
    layers_of: dict[Any, list[Any]] = {}
    for layer, maps in kept:
        for each in maps:
            layers_of.setdefault(each, []).append(layer)
    for layers in layers_of.values():
        merged = {one: None for layer in layers for one in together.get(layer, {layer: None})}
        together.update(dict.fromkeys(merged, merged))
    return {each: tuple(together[layers[0]]) for each, layers in layers_of.items()}
