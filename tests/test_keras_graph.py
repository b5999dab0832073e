"""Walking and replaying the graph of a model."""

import keras
import numpy as np
import pytest

from keras_qat.keras_graph import consumers, input_name, layer_name, nodes, rebuild, replay
from tests.models import images, residual_network
from tests.untouched import untouched

layers = keras.layers


def call_as_is(node, args, kwargs):
    return node.operation(*args, **kwargs)


def vectors(seed=0):
    return np.random.default_rng(seed).normal(size=(8, 4)).astype(np.float32)


def sequential():
    return keras.Sequential(
        [
            keras.Input((4,), name="x"),
            layers.Dense(5, activation="relu", name="a"),
            layers.BatchNormalization(name="b"),
            layers.Dense(2, name="c"),
        ]
    )


def shared_twice():
    inputs = keras.Input((4,), name="x")
    dense, other = layers.Dense(4, name="dense"), layers.Dense(4, name="other")
    return keras.Model(inputs, dense(other(dense(inputs))))


def raw_operations():
    inputs = keras.Input((4,), name="x")
    y = layers.Dense(4, name="dense")(inputs)
    return keras.Model(inputs, keras.ops.concatenate([y + inputs, 2.0 * y], axis=-1))


def dictionaries():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    total = layers.Add(name="total")([left, layers.Dense(4, name="dense")(right)])
    return keras.Model(
        {"right": right, "left": left},
        {"total": total, "head": layers.Dense(2, name="head")(total)},
    )


@pytest.mark.parametrize("make", [sequential, shared_twice, raw_operations])
def test_replay_is_the_identity(make):
    model, x = make(), vectors()
    (replayed,) = replay(model, [keras.ops.convert_to_tensor(x)], call_as_is)
    np.testing.assert_array_equal(replayed, model(x))


def test_replay_of_a_residual_network_is_the_identity():
    model, x = residual_network(), images(4)
    (replayed,) = replay(model, [keras.ops.convert_to_tensor(x)], call_as_is)
    np.testing.assert_array_equal(replayed, model(x))


@pytest.mark.parametrize("make", [residual_network, sequential, shared_twice, dictionaries])
def test_every_call_comes_after_what_it_reads(make):
    model = make()
    known = {id(tensor) for tensor in model.inputs}
    for node in nodes(model):
        assert known.issuperset(id(tensor) for tensor in node.inputs)
        known |= {id(tensor) for tensor in node.outputs}
    assert known.issuperset(id(tensor) for tensor in model.outputs)


def test_calls_of_a_shared_layer_are_counted():
    found = [(node.operation.name, node.call_index) for node in nodes(shared_twice())]
    assert found == [("dense", 0), ("other", 0), ("dense", 1)]


def test_only_the_calls_of_this_model_are_seen():
    model = sequential()
    model.get_layer("c")(keras.Input((5,)))  # the layer is called once more, elsewhere
    assert [node.operation.name for node in nodes(model)] == ["a", "b", "c"]


def test_rebuild_keeps_names_and_structures_and_leaves_the_model_alone():
    model = dictionaries()
    x = {"left": vectors(1), "right": vectors(2)}
    copies = {}

    def call_copy(node, args, kwargs):
        layer = node.operation
        if layer.name not in copies:
            copies[layer.name] = type(layer).from_config(layer.get_config())
        return copies[layer.name](*args, **kwargs)

    expected = model(x)
    config, weights = model.to_json(), model.get_weights()
    rebuilt = rebuild(model, call_copy)
    rebuilt.set_weights(weights)
    assert [input_name(tensor) for tensor in rebuilt.inputs] == ["left", "right"]
    assert rebuilt.name == model.name
    outputs = rebuilt(x)
    assert set(outputs) == {"total", "head"}
    for name, value in outputs.items():
        np.testing.assert_array_equal(value, expected[name])
    assert model.to_json() == config


def test_rebuild_keeps_dtypes_and_fixed_batch_sizes_of_inputs():
    inputs = keras.Input(batch_shape=(3, 4), dtype="int32", name="ids")
    rebuilt = rebuild(keras.Model(inputs, keras.ops.cast(inputs, "float32")), call_as_is)
    assert rebuilt.inputs[0].shape == (3, 4)
    assert rebuilt.inputs[0].dtype == "int32"


def test_rebuild_shares_what_the_model_shares():
    model, x = shared_twice(), vectors()
    with untouched(model, x):
        copies = {node.operation.name: layers.Dense(4) for node in nodes(model)}
        rebuilt = rebuild(model, lambda node, args, kwargs: copies[node.operation.name](*args))
        for name, copy in copies.items():
            copy.set_weights(model.get_layer(name).get_weights())
        np.testing.assert_array_equal(rebuilt(x), model(x))
    assert len(rebuilt.weights) == len(model.weights) == 4


def test_arguments_come_as_they_were_given_the_first_one_by_position():
    inputs = keras.Input((4,))
    y = layers.Dropout(0.5)(inputs=inputs, training=True)
    (node,) = nodes(keras.Model(inputs, y))
    assert node.fill_in({id(inputs): "value"}) == (("value",), {"training": True})


def test_consumers_name_every_reader_and_the_outputs():
    model = dictionaries()
    readers = consumers(model)
    by_name = {layer_name(tensor): tensor for node in nodes(model) for tensor in node.outputs}
    found = readers[id(by_name["total"])]
    assert len(found) == 2
    assert None in found
    assert [node.operation.name for node in readers[id(by_name["dense"])]] == ["total"]


def test_a_tensor_read_twice_by_one_call_has_two_readers():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Add()([inputs, inputs]))
    assert len(consumers(model)[id(model.inputs[0])]) == 2


def test_a_sequential_model_without_input_shape_says_what_to_do():
    model = keras.Sequential([layers.Dense(2)], name="late")
    with pytest.raises(ValueError, match=r"'late' has no input shape yet. Start it with"):
        list(nodes(model))


def test_a_subclassed_model_says_what_to_do():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"(?s)must be Functional or Sequential.*Subclassed"):
        list(nodes(Subclassed()))
