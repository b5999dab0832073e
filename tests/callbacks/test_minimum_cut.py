"""Minimum cuts by hand, and against SciPy's maximum flow, which knows whole numbers only."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from keras_qat.callbacks.minimum_cut import Edge, minimum_cut


def test_a_chain_is_as_wide_as_its_narrowest_edge():
    chain = [Edge(i, i + 1, bits, f"{i}") for i, bits in enumerate([0.7, 0.3, 0.1, 0.2, 0.9])]
    assert minimum_cut(chain, 0, 5) == (0.1, ("2",))


def test_branches_add_up_exactly():
    widths = [0.1, 0.2, 0.7, 1e9, 1e-9]
    branches = [Edge("x", i, bits, f"{i}") for i, bits in enumerate(widths)]
    behind = [Edge(i, "y", math.inf) for i in range(len(widths))]
    found = minimum_cut([*branches, *behind], "x", "y")
    assert found == (math.fsum(widths), ("0", "1", "2", "3", "4"))


def test_a_shortcut_adds_to_the_waist():
    waist = [Edge("x", "a", 9.0, "first"), Edge("a", "b", 2.0, "waist")]
    last = Edge("b", "y", 8.0, "last")
    assert minimum_cut([*waist, last], "x", "y") == (2.0, ("waist",))
    shortcut = Edge("a", "b", 5.5, "shortcut")
    assert minimum_cut([*waist, shortcut, last], "x", "y") == (7.5, ("waist", "shortcut"))
    wide = Edge("a", "b", math.inf)
    assert minimum_cut([*waist, wide, last], "x", "y") == (8.0, ("last",))


def test_flow_that_took_a_wrong_turn_comes_back():
    """The shortest paths cross the middle; the largest flow does not."""
    pairs = {"xa": 1.0, "xb": 1.0, "ab": 1.0, "ay": 1.0, "by": 1.0}
    edges = [Edge(*pair, bits, pair) for pair, bits in pairs.items()]
    assert minimum_cut(edges, "x", "y")[0] == 2.0


def test_of_equal_cuts_the_one_nearest_to_the_source_counts():
    chain = [Edge("x", "a", 3.0, "near"), Edge("a", "y", 3.0, "far")]
    assert minimum_cut(chain, "x", "y") == (3.0, ("near",))


def test_what_is_not_connected_lets_nothing_through():
    assert minimum_cut([Edge("x", "a", 3.0, "dead end")], "x", "y") == (0.0, ())


def test_a_closed_edge_is_named():
    chain = [Edge("x", "a", 3.0, "open"), Edge("a", "y", 0.0, "closed")]
    assert minimum_cut(chain, "x", "y") == (0.0, ("closed",))


def test_without_a_finite_cut_there_is_none():
    edges = [Edge("x", "a", math.inf), Edge("a", "y", math.inf), Edge("x", "y", 1.0, "side")]
    assert minimum_cut(edges, "x", "y") == (math.inf, ())


@pytest.mark.parametrize("bits", [-1.0, math.nan])
def test_what_is_no_capacity_is_refused(bits):
    with pytest.raises(ValueError, match=r"0 or more. Received: Edge\(start='x'"):
        minimum_cut([Edge("x", "y", bits)], "x", "y")


@pytest.mark.parametrize("seed", range(60))
def test_the_flow_of_scipy(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(3, 12))
    there = rng.random((size, size)) < rng.uniform(0.2, 0.8)
    widths = rng.integers(1, 30, (size, size)) * there
    np.fill_diagonal(widths, 0)
    if seed % 2:
        widths = np.triu(widths)  # without cycles
    edges = [Edge(i, j, float(widths[i, j]), f"{i},{j}") for i, j in np.argwhere(widths)]
    found, labels = minimum_cut(edges, 0, size - 1)
    flow = maximum_flow(csr_matrix(widths.astype(np.int32)), 0, size - 1).flow_value
    assert found == flow
    rest = [edge for edge in edges if edge.label not in labels]
    assert minimum_cut(rest, 0, size - 1)[0] == 0.0  # it is a cut


def test_real_capacities_end_and_cut():
    """Residues of rounding must not keep it going."""
    rng = np.random.default_rng(0)
    size = 40
    edges = [
        Edge(i, j, float(rng.uniform(0.0, 1.0) ** 4), f"{i},{j}")
        for i in range(size)
        for j in range(size)
        if i != j and rng.random() < 0.3
    ]
    found, labels = minimum_cut(edges, 0, size - 1)
    assert found == math.fsum(edge.capacity for edge in edges if edge.label in labels)
    rest = [edge for edge in edges if edge.label not in labels]
    assert minimum_cut(rest, 0, size - 1)[0] == 0.0
