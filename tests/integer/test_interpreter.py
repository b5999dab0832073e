"""The interpreter: batching, what it keeps, what it refuses."""

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops, run
from tests.tflite_export.graphs import random_codes, small_network


def test_batches_do_not_change_results():
    graph = small_network()
    codes = random_codes(graph, samples=7)
    whole = run(graph, codes, keep_all=True)
    parts = run(graph, codes, keep_all=True, batch_size=3)
    assert set(whole) == set(graph.tensors)
    for name, values in whole.items():
        assert values.dtype == np.int8
        assert values.shape == (7, *graph.tensors[name].shape[1:])
        np.testing.assert_array_equal(parts[name], values)


def test_only_outputs_are_returned_by_default():
    graph = small_network()
    assert set(run(graph, random_codes(graph))) == set(graph.outputs)


def test_one_input_may_be_passed_bare():
    graph = small_network()
    codes = random_codes(graph)
    bare, named = run(graph, codes["image"]), run(graph, codes)
    for name in graph.outputs:
        np.testing.assert_array_equal(bare[name], named[name])


def test_an_empty_batch_gives_an_empty_result():
    graph = small_network()
    result = run(graph, np.zeros((0, 9, 8, 3), np.int8))
    assert result["mean"].shape == (0, 5)


@pytest.mark.parametrize("profile", ["tflm", "litert_ref", "xnnpack"])
def test_values_stay_on_their_stated_grids(profile):
    graph = small_network()
    values = run(graph, random_codes(graph, samples=16), profile, keep_all=True)
    for name, array in values.items():
        grid = graph.tensors[name].qparams
        assert array.min() >= grid.qmin, name
        assert array.max() <= grid.qmax, name


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "The graph's inputs are"),
        ({"image": np.zeros((1, 9, 8, 3), np.int8), "more": 0}, "Received: \\['image', 'more'\\]"),
        (np.zeros((1, 9, 8, 3), np.int32), "Received: int32"),
        (np.zeros((1, 8, 9, 3), np.int8), "Received: int8 of shape \\(1, 8, 9, 3\\)"),
    ],
)
def test_wrong_inputs_are_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        run(small_network(), inputs)


def test_several_inputs_need_names_and_one_batch_size():
    builder = GraphBuilder()
    grid = QuantParams(np.float32(0.1))
    names = tuple(builder.add_input(name, (1, 2), grid) for name in ("left", "right"))
    graph = builder.build((builder.add(ops.Add(names, "y"), grid),))
    with pytest.raises(ValueError, match="The graph has several inputs"):
        run(graph, np.zeros((1, 2), np.int8))
    with pytest.raises(ValueError, match="one batch size"):
        run(graph, {"left": np.zeros((1, 2), np.int8), "right": np.zeros((2, 2), np.int8)})
