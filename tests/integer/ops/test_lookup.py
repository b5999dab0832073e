"""A table of 256 values in NumPy: which entry is read, and which tables are refused."""

import numpy as np
import pytest

from keras_qat.integer import PROFILES, GraphBuilder, QuantParams, load_graph, ops, run, save_graph

GRID = QuantParams(np.float32(0.5), zero_point=3)
EVERY_CODE = np.arange(-128, 128, dtype=np.int8)
TABLE = np.random.default_rng(0).permutation(EVERY_CODE)


def lookup_graph(table: np.ndarray, grid: QuantParams = GRID):
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 256), GRID)
    return builder.build((builder.add(ops.Lookup((x,), "y", table), grid),))


@pytest.mark.parametrize("profile", PROFILES)
def test_entry_0_belongs_to_the_lowest_code(profile):
    codes = np.stack([EVERY_CODE, EVERY_CODE[::-1]])
    values = run(lookup_graph(TABLE), {"x": codes}, profile)["y"]
    np.testing.assert_array_equal(values, [TABLE, TABLE[::-1]])
    assert values.dtype == np.int8


def test_a_graph_with_a_table_is_saved(tmp_path):
    save_graph(lookup_graph(TABLE), tmp_path / "net.npz")
    (op,) = load_graph(tmp_path / "net.npz").ops
    assert isinstance(op, ops.Lookup)
    assert op.table.dtype == np.int8
    np.testing.assert_array_equal(op.table, TABLE)


@pytest.mark.parametrize("table", [TABLE[:255], TABLE.astype(np.int32), TABLE.reshape(16, 16)])
def test_another_size_or_type_is_refused(table):
    with pytest.raises(ValueError, match=r"table of 'y' needs 256 int8 values\. Received"):
        ops.Lookup(("x",), "y", table)


@pytest.mark.parametrize("grid", [QuantParams(1.0, qmin=-127), QuantParams(1.0, qmax=126)])
def test_a_table_beyond_its_grid_is_refused(grid):
    with pytest.raises(ValueError, match=r"leaves its grid.* Received: entries from -128 to 127"):
        lookup_graph(TABLE, grid)
