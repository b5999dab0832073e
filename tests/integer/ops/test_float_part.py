"""A network in float between two grids, in NumPy but for the network itself."""

import sys

import numpy as np
import pytest

from keras_qat.integer import PROFILES, QuantParams, load_graph, ops, run, save_graph
from keras_qat.integer.own_files import note_as_own
from tests.tflite_export.float_networks import difference_graph, weighted_graph

LEFT, RIGHT = (QuantParams(np.float32(0.5), zero_point=zero) for zero in (3, -7))
OUTPUT = QuantParams(np.float32(1.0), zero_point=1)
GRAPH = difference_graph(0.5, LEFT, RIGHT, OUTPUT)


def codes(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-128, 128, (5, 3, 3, 2), dtype=np.int8) for name in GRAPH.inputs}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_op_is_the_network_between_two_grids(profile):
    inputs = codes()
    left, right = (grid.dequantize(inputs[n]) for n, grid in (("left", LEFT), ("right", RIGHT)))
    exact = 0.5 * left.astype(np.float64) - right
    ties = np.sign(exact) * np.floor(np.abs(exact) + 0.5)  # away from zero
    steps = np.rint(exact) if profile.startswith("xnnpack") else ties
    found = run(GRAPH, inputs, profile, keep_all=True)["part"]
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, np.clip(steps + 1, -128, 127))
    assert np.any(ties != np.rint(exact))


def test_a_graph_with_a_part_is_saved(tmp_path):
    save_graph(GRAPH, tmp_path / "net.npz")
    loaded = load_graph(tmp_path / "net.npz")
    part = loaded.ops[0]
    assert isinstance(part, ops.FloatPart)
    assert (part.layers, part.target_shape) == (("mine", "yours"), (3, 3, 2))
    np.testing.assert_array_equal(run(loaded, codes())["pool"], run(GRAPH, codes())["pool"])


def test_ops_read_what_is_given_in_the_place_of_what_is_computed():
    other = np.full((5, 3, 3, 2), 9, np.int8)
    inputs = codes()
    found = run(GRAPH, inputs, keep_all=True, given={"part": other}, batch_size=2)
    assert np.all(found["pool"] == 9)
    np.testing.assert_array_equal(found["part"], run(GRAPH, inputs, keep_all=True)["part"])


def test_without_litert_the_error_says_what_to_install(monkeypatch):
    (part,) = (op for op in GRAPH.ops if isinstance(op, ops.FloatPart))
    note_as_own(part.file.tobytes())  # so no worker process runs it
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match=r"'mine', 'yours'.* run in LiteRT: pip install"):
        run(GRAPH, codes())


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_weights_are_inputs_of_the_network(profile, per_channel):
    graph = weighted_graph(per_channel=per_channel)
    (part,) = graph.ops
    table, kernel, _ = (weight.dequantized().astype(np.float64) for weight in part.weights)
    x = np.random.default_rng(0).integers(0, 5, (7, 3), dtype=np.int32)
    exact = table[x] @ kernel / float(graph.tensors["part"].qparams.scale)
    found = run(graph, {"x": x}, profile)["part"]
    assert np.all(np.abs(found - exact) <= 0.5 + 1e-4)


def test_quantized_weights_are_saved_with_their_part(tmp_path):
    graph = weighted_graph()
    save_graph(graph, tmp_path / "net.npz")
    (part,), (again,) = graph.ops, load_graph(tmp_path / "net.npz").ops
    for weight, loaded in zip(part.weights, again.weights, strict=True):
        assert (loaded.name, loaded.bits) == (weight.name, weight.bits)
        assert loaded.array.qparams == weight.array.qparams
        np.testing.assert_array_equal(loaded.array.values, weight.array.values)
