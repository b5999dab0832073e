"""The sliding window against loops that place every tap by hand."""

import itertools

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from keras_qat.integer.ops.window import Window

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    return Window(draw(pairs), draw(pairs), draw(st.sampled_from(["same", "valid"])), draw(pairs))


@given(windows(), st.tuples(st.integers(7, 9), st.integers(7, 9)))
def test_patches_are_what_the_taps_see(window, spatial):
    x = np.arange(1, 1 + 2 * spatial[0] * spatial[1]).reshape(1, *spatial, 2)
    patches = window.patches(x, fill=-1)
    rows, columns = window.output_size(spatial)
    assert patches.shape == (1, rows, columns, *window.size, 2)
    (top, _), (left, _) = window.pads(spatial)
    for row, column in itertools.product(range(rows), range(columns)):
        for i, j in np.ndindex(*window.size):
            y = row * window.strides[0] + i * window.dilation[0] - top
            z = column * window.strides[1] + j * window.dilation[1] - left
            inside = 0 <= y < spatial[0] and 0 <= z < spatial[1]
            expected = x[0, y, z] if inside else [-1, -1]
            np.testing.assert_array_equal(patches[0, row, column, i, j], expected)


@given(windows(), st.integers(7, 20))
def test_same_padding_covers_every_stride_and_pads_the_end_more(window, size):
    rows, _ = window.output_size((size, size))
    before, after = window.pads((size, size))[0]
    if window.padding == "same":
        assert rows == -(-size // window.strides[0])
        assert 0 <= after - before <= 1
    else:
        assert (before, after) == (0, 0)
