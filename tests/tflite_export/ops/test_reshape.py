"""RESHAPE end to end."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from keras_qat.integer import ops
from tests.tflite_export.graphs import input_grids, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law

pytestmark = pytest.mark.slow_beyond(1)


@pytest.mark.parametrize("target", [(24,), (6, 4), (4, 3, 2), (1, 1, 24), (2, 3, 4)])
@exact_law
@given(data=st.data())
def test_every_runtime_computes_the_graph(target, data):
    grid = data.draw(input_grids())
    assert_exact(one_op_graph(lambda _, x: ops.Reshape((x,), "y", target), (1, 2, 3, 4), grid))
