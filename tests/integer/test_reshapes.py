"""RESHAPE ops that a graph can do without: the same integers with fewer ops."""

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops, run
from keras_qat.integer.reshapes import without_needless_reshapes
from tests.tflite_export.graphs import random_codes, small_network

GRID = QuantParams(np.float32(0.1))


class Chain(GraphBuilder):
    """A builder of short graphs whose tensors share one grid."""

    def image(self, name="x", shape=(1, 1, 6, 4)):
        return self.add_input(name, shape, GRID)

    def reshaped(self, source, name, shape):
        return self.add(ops.Reshape((source,), name, shape), GRID)

    def clamped(self, source, name):
        return self.add(ops.Maximum((source,), name, bound=-3), GRID)

    def pooled(self, source, name):
        return self.add(ops.MaxPool2D((source,), name, (1, 2), (1, 2)), GRID)

    def dense(self, source, name, features, units=3):
        weight = QuantParams(np.full(units, 0.1, np.float32), 0, -1, 1, 0)
        values = np.ones((units, features), np.int8)
        op = ops.FullyConnected(
            (source,), name, ops.QuantizedArray(values, weight), np.zeros(units)
        )
        return self.add(op, GRID)


def simplified(builder, *outputs):
    """The graph without needless RESHAPE ops, which yields what it yielded before."""
    graph = builder.build(outputs)
    found = without_needless_reshapes(graph)
    codes = random_codes(graph)
    expected, actual = (run(each, codes, keep_all=True) for each in (graph, found))
    assert found.outputs == graph.outputs
    for name in set(actual) & set(expected):
        shape = expected[name].shape if name in outputs else actual[name].shape
        np.testing.assert_array_equal(actual[name].reshape(shape), expected[name].reshape(shape))
    return found


def kinds(graph):
    return [type(op).__name__ for op in graph.ops]


def test_a_reshape_of_a_reshape_is_one():
    chain = Chain()
    x = chain.reshaped(chain.image(), "a", (24,))
    graph = simplified(chain, chain.reshaped(x, "y", (3, 8)))
    assert [(op.inputs, op.output) for op in graph.ops] == [(("x",), "y")]


def test_a_reshape_to_the_shape_before_is_none():
    chain = Chain()
    x = chain.reshaped(chain.pooled(chain.image(), "a/flat"), "a", (3, 4))
    graph = simplified(chain, chain.pooled(chain.reshaped(x, "b/image", (1, 3, 4)), "y"))
    assert kinds(graph) == ["MaxPool2D", "MaxPool2D"]
    assert graph.ops[0].output == "a"  # the layer's name


def test_an_output_keeps_its_shape_and_its_name():
    chain = Chain()
    x = chain.reshaped(chain.pooled(chain.image(), "y/flat"), "y", (3, 4))
    graph = simplified(chain, x)
    assert [op.output for op in graph.ops] == ["y/flat", "y"]
    assert graph.tensors["y"].shape == (1, 3, 4)


def test_a_sequence_that_two_read_is_reshaped_for_one():
    chain = Chain()
    x = chain.reshaped(chain.pooled(chain.image(), "a/flat"), "a", (3, 4))
    pooled = chain.pooled(chain.reshaped(x, "b/image", (1, 3, 4)), "b")
    flat = chain.reshaped(x, "flat", (12,))
    graph = simplified(chain, pooled, chain.dense(flat, "y", 12))
    assert kinds(graph) == ["MaxPool2D", "MaxPool2D", "Reshape", "FullyConnected"]


def test_it_moves_behind_what_computes_in_any_shape():
    """A residual block over sequences: one RESHAPE at its end, instead of four."""
    chain = Chain()
    x = chain.reshaped(chain.image(), "x_sequence", (6, 4))
    a = chain.reshaped(
        chain.clamped(chain.reshaped(x, "a/image", (1, 6, 4)), "a/flat"), "a", (6, 4)
    )
    y = chain.add(ops.Add((x, a), "sum"), GRID)
    y = chain.dense(chain.clamped(y, "relu"), "dense", 4)
    y = chain.pooled(chain.reshaped(y, "b/image", (1, 6, 3)), "b/flat")
    graph = simplified(chain, chain.reshaped(y, "b", (3, 3)))
    assert kinds(graph) == ["Maximum", "Add", "Maximum", "FullyConnected", "MaxPool2D", "Reshape"]
    assert [op.output for op in graph.ops] == ["a", "sum", "relu", "dense", "b/flat", "b"]


@pytest.mark.parametrize("shape", [(24,), (3, 8)])
def test_a_matrix_product_keeps_its_features(shape):
    chain = Chain()
    x = chain.reshaped(chain.pooled(chain.image(shape=(1, 1, 12, 4)), "p"), "flat", shape)
    graph = simplified(chain, chain.dense(x, "y", shape[-1]))
    assert kinds(graph) == ["MaxPool2D", "Reshape", "FullyConnected"]


def test_an_addition_of_unlike_shapes_stays_where_it_is():
    chain = Chain()
    left = chain.reshaped(chain.image("left", (1, 1, 6, 4)), "a", (24,))
    right = chain.reshaped(chain.image("right", (1, 6, 1, 4)), "b", (24,))
    graph = simplified(chain, chain.add(ops.Add((left, right), "y"), GRID))
    assert kinds(graph) == ["Reshape", "Reshape", "Add"]


def test_a_graph_without_needless_ones_stays_as_it_is():
    graph = small_network()
    found = without_needless_reshapes(graph)
    assert [(op.inputs, op.output) for op in found.ops] == [
        (op.inputs, op.output) for op in graph.ops
    ]
