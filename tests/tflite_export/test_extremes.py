"""Every proof runs each layer where its sums are lowest and highest, whatever the samples are."""

import dataclasses

import numpy as np
import pytest

from keras_qat.integer import PROFILES, GraphBuilder, QuantParams, ops, run
from keras_qat.integer.accumulators import accumulator_range
from tests.tflite_export.graphs import small_network
from tflite_export import ExportError, VerificationError, export
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.ops import linear
from tflite_export.proof import extremes, verification
from tflite_export.proof.extremes import prove_extremes

INPUT = QuantParams(np.float32(0.1), 3, -100, 127)
OUTPUT = QuantParams(np.float32(0.1))
GENERATOR = np.random.default_rng(0)


def weights(*shape, axis=0):
    values = GENERATOR.integers(-127, 128, shape).astype(np.int8)
    grid = QuantParams(np.full(shape[axis], 2.0**-9, np.float32), 0, -127, 127, axis)
    return ops.QuantizedArray(values, grid)


def linear_network(make, shape, *weight_shape, axis=0, **options):
    builder = GraphBuilder()
    x = builder.add_input("x", shape, INPUT)
    weight, bias = weights(*weight_shape, axis=axis), GENERATOR.normal(size=weight_shape[axis])
    y = builder.add(make((x,), "layer", weight, bias, **options), OUTPUT)
    return builder.build((y,))


NETWORKS = {
    "dense": (ops.FullyConnected, (1, 9), 5, 9),
    "dense_of_rows": (ops.FullyConnected, (1, 3, 9), 5, 9),
    "many_channels": (ops.FullyConnected, (1, 700), 150, 700),
    "convolution": (ops.Conv2D, (1, 9, 8, 3), 5, 3, 2, 3),
    "groups": (ops.Conv2D, (1, 9, 8, 6), 4, 3, 2, 3),
    "depthwise": (ops.DepthwiseConv2D, (1, 9, 8, 3), 1, 3, 2, 6),
    "transposed": (ops.TransposeConv2D, (1, 4, 4, 3), 5, 3, 2, 3),
}
OPTIONS = {
    "convolution": {"strides": (2, 1), "padding": "same", "dilation": (1, 2)},
    "depthwise": {"axis": 3, "padding": "same"},
    "transposed": {"output_size": (6, 5)},
}


def accumulators(graph, samples):
    """The least and the largest accumulator of every channel over samples."""
    found = []

    def keep(accumulator, rescale):
        found.append(np.asarray(accumulator).reshape(-1, accumulator.shape[-1]))
        return accumulator

    kinds = ("conv", "depthwise_conv", "fully_connected", "transpose_conv")
    run(graph, samples, dataclasses.replace(PROFILES["tflm"], **dict.fromkeys(kinds, keep)))
    together = np.concatenate(found)
    return together.min(axis=0), together.max(axis=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_accumulator_is_driven_to_both_its_ends(name, tmp_path):
    graph = linear_network(*NETWORKS[name], **OPTIONS.get(name, {}))
    lowest, highest = accumulator_range(graph.ops[0], graph)
    seen = []
    prove_extremes(StoredGraph(graph), ["tflm"], lambda *given: seen.append(given))
    ends = [accumulators(alone, samples) for _, alone, _, _, samples in seen]
    np.testing.assert_array_equal(np.concatenate([low for low, _ in ends]), lowest)
    np.testing.assert_array_equal(np.concatenate([high for _, high in ends]), highest)
    for target in ("litert", "tflm"):
        assert export(graph, tmp_path / "y.tflite", target=target, verbose=False).mismatches == 0


def test_each_kind_of_pixel_of_an_enlarged_image_is_driven():
    """With strides of 2 a pixel sees a quarter of the window, and there are four kinds."""
    graph = linear_network(
        *(ops.TransposeConv2D, (1, 4, 4, 3), 5, 4, 3, 3), strides=(2, 2), output_size=(10, 9)
    )
    (op,) = graph.ops
    seen = []
    prove_extremes(StoredGraph(graph), ["tflm"], lambda *given: seen.append(given))
    ((_, alone, _, _, samples),) = seen
    found = accumulators(alone, samples)[1]
    bias, reach = op.integer_bias(INPUT.scale), (INPUT.qmin - 3, INPUT.qmax - 3)
    for channel, weight in enumerate(op.weight.values.astype(int)):
        seen_by = [weight[row::2, column::2] for row in (0, 1) for column in (0, 1)]
        ends = [np.maximum(each * reach[0], each * reach[1]).sum() for each in seen_by]
        assert found[channel] == max(ends) + bias[channel]


def test_sums_of_pixels_and_softmax_run_at_the_ends_too():
    seen = []
    prove_extremes(StoredGraph(small_network()), ["tflm"], lambda *given: seen.append(given))
    names = {alone.ops[0].output for _, alone, *_ in seen}
    assert {"average_pool", "mean", "probabilities", "conv", "depthwise", "logits"} <= names
    for _, alone, _, _, samples in seen:
        (name,) = alone.inputs
        grid, codes = alone.tensors[name].qparams, samples[name].reshape(len(samples[name]), -1)
        assert np.any(np.all(codes == grid.qmin, axis=1))
        assert np.any(np.all(codes == grid.qmax, axis=1))


def two_layers():
    """The second layer leaves int32 where its inputs follow the signs of its weights."""
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 4), QuantParams(np.float32(1), -128))
    one = QuantParams(np.ones(1000, np.float32), 0, -127, 127, 0)
    spread = ops.QuantizedArray(np.ones((1000, 4), np.int8), one)
    grid = QuantParams(np.float32(1), -128)
    h = builder.add(ops.FullyConnected((x,), "first", spread, np.zeros(1000)), grid)
    signs = np.where(np.arange(1000) % 2, 127, -127).astype(np.int8)
    large = QuantParams(np.full(2, 200, np.float32), 0, -127, 127, 0)
    weight = ops.QuantizedArray(np.stack([signs, signs]), large)
    y = builder.add(ops.FullyConnected((h,), "second", weight, np.zeros(2)), grid)
    return builder.build((y,))


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_a_layer_whose_rescaled_sums_can_leave_int32_is_refused(target, tmp_path):
    with pytest.raises(ExportError, match=r"'second' has an accumulator of up to .* out of int32"):
        export(two_layers(), tmp_path / "y.tflite", target=target, verbose=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_an_inner_layer_that_wraps_is_named(target, tmp_path, monkeypatch):
    """Legality refuses it before. The proof would find it without legality, on any samples."""
    monkeypatch.setattr(linear, "leaves_int32", lambda largest, *_: np.zeros(largest.shape, bool))
    with pytest.raises(VerificationError, match=r"'second'"):
        export(two_layers(), tmp_path / "y.tflite", target=target, verbose=False)
    assert not list(tmp_path.iterdir())


def test_a_runtime_that_fails_in_an_inner_layer_alone_is_found(tmp_path, monkeypatch):
    """It is wrong only where 'expand' yields more than it ever does inside the network."""
    true, seen = verification.run_tflm, []

    def wrong(data, file, inputs):
        found = true(data, file, inputs)
        if "expand" in found and "image" in file.inputs:
            seen.append(found["expand"].max())
        elif "expand" in found and "average_pool" in file.inputs:
            found["expand"] -= found["expand"] > max(seen)
        return found

    monkeypatch.setattr(verification, "run_tflm", wrong)
    with pytest.raises(VerificationError, match=r"first in tensor 'expand'"):
        export(small_network(), tmp_path / "y.tflite", target="tflm", verbose=False)
    assert len(seen) == 2


def test_the_whole_network_runs_at_the_ends_of_its_inputs():
    graph = small_network()
    codes = extremes.extreme_inputs(graph)["image"].reshape(-1, 9 * 8 * 3)
    assert {(int(row.min()), int(row.max())) for row in codes} >= {(-128, -128), (127, 127)}
    turns = np.abs(np.diff(codes.astype(int), axis=1)).min(axis=1) == 255
    assert np.count_nonzero(turns) == 2
    alone = [np.sort(np.unique(row, return_counts=True)[1]).tolist() for row in codes]
    assert alone.count([1, 9 * 8 * 3 - 1]) == 4
