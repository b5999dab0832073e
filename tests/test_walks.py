"""Walks of our own over a graph nest no calls, and visit every tensor once."""

import inspect
import sys

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.deep_graphs import room_for_depth
from keras_qat.integer import GraphBuilder, QuantParams, ops
from keras_qat.quantization.bit_width_policy import BitWidthPolicy
from keras_qat.quantization.ruled_graph import RuledGraph
from keras_qat.quantization.uneven_ranges import _Finder
from tflite_export.proof import uneven_ranges

layers = keras.layers

DEPTH = 200
ROOM = 60  # for what Keras and NumPy do in one step of a walk


def with_little_room(function, *arguments):
    """Calls a function where only few calls may be inside another."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + ROOM)
    try:
        return function(*arguments)
    finally:
        sys.setrecursionlimit(before)


def ruled(inputs, x):
    with room_for_depth():
        graph = RuledGraph(keras.Model(inputs, x), lambda name: False)
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=3)
    return graph, config, BitWidthPolicy(graph, config, {}, {})


@pytest.mark.parametrize("end", ["Dense", "Add"])
def test_the_readers_of_an_activation_are_found_behind_any_number_of_layers(end):
    inputs = keras.Input((4, 4, 2))
    start = x = layers.ReLU()(layers.Conv2D(2, 3, padding="same")(inputs))
    for _ in range(DEPTH):
        x = layers.MaxPooling2D(1)(x)
    ends = {"Dense": lambda x: layers.Dense(2)(x), "Add": lambda x: layers.Add()([x, inputs])}
    _, config, policy = ruled(inputs, layers.Dense(2)(ends[end](x)))
    found = with_little_room(policy.activation_bits, start, config, False)
    assert found == {"Dense": config.activation_bits, "Add": config.add_bits}[end]


def test_every_tensor_of_a_graph_of_diamonds_is_visited_once(monkeypatch):
    """Half of the paths come together in each of 30 places: a billion paths."""
    inputs = keras.Input((4, 4, 2))
    start = x = layers.ReLU()(layers.Conv2D(2, 3, padding="same")(inputs))
    for _ in range(30):
        x = layers.Maximum()([layers.MaxPooling2D(1)(x), layers.Dropout(0.1)(x)])
    graph, config, policy = ruled(inputs, layers.Dense(2)(x))
    true, asked = graph.readers, []

    def readers(tensor):
        asked.append(id(tensor))
        assert len(asked) < 1000
        return true(tensor)

    monkeypatch.setattr(graph, "readers", readers)
    assert policy.activation_bits(start, config, False) == config.activation_bits
    assert len(asked) == len(set(asked)) == 1 + 3 * 30


def test_the_weights_of_columns_are_found_behind_any_number_of_layers():
    inputs = x = keras.Input((3,))
    for number in range(DEPTH):
        x = layers.Rescaling(2.0 if number == 7 else 1.0)(layers.Dropout(0.1)(x))
    dense, other = layers.Dense(2), layers.Dense(2)
    x = dense(layers.Concatenate()([x, other(x)]))
    graph, *_ = ruled(inputs, x)
    kernel = np.random.default_rng(0).normal(size=dense.kernel.shape)
    kernel[:3] *= 10.0
    dense.kernel.assign(kernel)
    found = with_little_room(_Finder(graph, [])._gains, graph.model.inputs[0])
    first = np.sqrt(np.sum(np.square(np.float32(kernel[:3])), axis=1))
    beside = np.sqrt(np.sum(np.square(other.kernel.numpy()), axis=1))
    np.testing.assert_allclose(found, 2.0 * np.maximum(first, beside), rtol=1e-5)


def test_the_weights_of_columns_of_a_file_are_found_behind_any_number_of_ops():
    builder, grid = GraphBuilder(), QuantParams(np.float32(0.1))
    x = builder.add_input("x", (1, 6), grid)
    for number in range(DEPTH):
        shape = (1, 6) if number % 2 == 0 else (6,)
        x = builder.add(ops.Reshape((x,), f"y{number}", shape), grid)
    values = np.arange(1, 13).reshape(2, 6).astype(np.int8)
    weight = ops.QuantizedArray(values, QuantParams(np.ones(2, np.float32), 0, -127, 127, 0))
    builder.add(ops.FullyConnected((x,), "z", weight, np.zeros(2)), QuantParams(np.float32(10)))
    found = with_little_room(uneven_ranges._gains, builder.build(("z",)), "x")
    np.testing.assert_allclose(found, np.sqrt(np.sum(np.square(np.float64(values)), axis=0)))
