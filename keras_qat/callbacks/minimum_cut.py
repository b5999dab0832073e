"""The minimum cut of a directed graph, exact for capacities that are real numbers."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Hashable, Iterable
from typing import NamedTuple


class Edge(NamedTuple):
    """A directed edge; `label` is what a cut through it is called."""

    start: Hashable
    end: Hashable
    capacity: float
    label: str = ""


def minimum_cut(
    edges: Iterable[Edge], source: Hashable, sink: Hashable
) -> tuple[float, tuple[str, ...]]:
    """The edges with the smallest total capacity without which no path leads to the sink.

    It is also the largest flow from the source to the sink (Ford and Fulkerson 1956). Shortest
    augmenting paths find it (Edmonds and Karp 1972), after at most `vertices * edges` of them for
    any real capacities. `scipy.sparse.csgraph.maximum_flow` takes whole numbers only, and would
    need SciPy to train a model.

    Args:
        edges: the edges. Parallel edges add up. A capacity may be infinite.
        source: the vertex from which flow starts.
        sink: the vertex where it ends.

    Returns:
        The sum of the capacities in the cut, rounded once, and the labels of its edges in the order
        of `edges`. Of several smallest cuts, the one nearest to the source. Infinity and no labels
        if every cut has an infinite edge.

    Raises:
        ValueError: a capacity that is negative or NaN.

    >>> chain = [Edge("x", "a", 8.0, "wide"), Edge("a", "y", 2.5, "narrow")]
    >>> minimum_cut(chain, "x", "y")
    (2.5, ('narrow',))
    >>> minimum_cut([*chain, Edge("x", "y", 4.0, "shortcut")], "x", "y")
    (6.5, ('narrow', 'shortcut'))
    """
    edges = list(edges)
    left: dict[Hashable, dict[Hashable, float]] = defaultdict(dict)
    for edge in edges:
        if not edge.capacity >= 0.0:
            raise ValueError(f"A capacity must be 0 or more. Received: {edge}")
        left[edge.start][edge.end] = left[edge.start].get(edge.end, 0.0) + edge.capacity
        left[edge.end].setdefault(edge.start, 0.0)
    reached = _reached(left, source)
    while sink in reached:
        path = [sink]
        while path[-1] != source:
            path.append(reached[path[-1]])
        steps = [(start, end) for end, start in itertools.pairwise(path)]
        flow = min(left[start][end] for start, end in steps)
        if flow == math.inf:
            return math.inf, ()
        for start, end in steps:
            left[start][end] -= flow
            left[end][start] += flow
        reached = _reached(left, source)
    cut = [edge for edge in edges if edge.start in reached and edge.end not in reached]
    return math.fsum(edge.capacity for edge in cut), tuple(edge.label for edge in cut)


def _reached(
    left: dict[Hashable, dict[Hashable, float]], source: Hashable
) -> dict[Hashable, Hashable]:
    """Every vertex that flow can still reach, and the vertex before it on a shortest path."""
    before: dict[Hashable, Hashable] = {source: source}
    queue = deque([source])
    while queue:
        start = queue.popleft()
        for end, capacity in left[start].items():
            if capacity > 0.0 and end not in before:
                before[end] = start
                queue.append(end)
    return before
