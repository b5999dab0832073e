"""Laws of `IntegerGraph` and its builder."""

import dataclasses

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, IntegerGraph, IntegerTensor, QuantParams, ops

GRID = QuantParams(np.float32(0.1))


def chain() -> IntegerGraph:
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 4), GRID)
    y = builder.add(ops.Maximum((x,), "y", 0), GRID)
    z = builder.add(ops.Reshape((y,), "z", (2, 2)), GRID)
    return builder.build((z,))


def test_the_builder_infers_shapes():
    graph = chain()
    assert [op.output for op in graph.ops] == ["y", "z"]
    assert graph.tensors["z"].shape == (1, 2, 2)
    assert graph.validate() is graph


def test_a_tensor_must_be_written_before_it_is_read():
    graph = dataclasses.replace(chain(), ops=chain().ops[::-1])
    with pytest.raises(ValueError, match="Op 'z' reads 'y'"):
        graph.validate()


def test_a_tensor_is_written_once():
    graph = chain()
    with pytest.raises(ValueError, match="'y' is written twice"):
        dataclasses.replace(graph, ops=(graph.ops[0], *graph.ops)).validate()


def test_an_output_must_be_written():
    with pytest.raises(ValueError, match="output 'nowhere' is never written"):
        dataclasses.replace(chain(), outputs=("nowhere",)).validate()


def test_a_stated_shape_must_be_the_inferred_one():
    graph = chain()
    tensors = {**graph.tensors, "z": IntegerTensor("z", (1, 5), GRID)}
    with pytest.raises(ValueError, match="states shape"):
        dataclasses.replace(graph, tensors=tensors).validate()


def test_activations_fit_in_int8():
    graph = chain()
    wide = IntegerTensor("x", (1, 4), QuantParams(np.float32(1), 0, 0, 255))
    with pytest.raises(ValueError, match="'x' does not fit in int8"):
        dataclasses.replace(graph, tensors={**graph.tensors, "x": wide}).validate()


def _dense(features: int, bias: float) -> GraphBuilder:
    weight = ops.QuantizedArray(
        np.full((1, features), 127, np.int8),
        QuantParams(np.array([2.0**-20], np.float32), 0, -127, 127, 0),
    )
    builder = GraphBuilder()
    x = builder.add_input("x", (1, features), QuantParams(np.float32(2.0**-10), -128))
    builder.add(ops.FullyConnected((x,), "y", weight, np.array([bias])), GRID)
    return builder


def test_the_accumulator_fits_in_int32():
    assert _dense(60_000, 0.0).build(("y",)).ops
    with pytest.raises(ValueError, match="'y': its accumulator"):
        _dense(70_000, 0.0).build(("y",))


def test_the_bias_fits_in_int32():
    for bias in (3.0, -3.0, np.nan):
        with pytest.raises(ValueError, match="'y': the bias of channel 0"):
            _dense(1, bias).build(("y",))


def test_add_needs_equal_shapes():
    builder = GraphBuilder()
    left = builder.add_input("left", (1, 2), GRID)
    right = builder.add_input("right", (1, 3), GRID)
    with pytest.raises(ValueError, match=r"Received: \(1, 2\) and \(1, 3\)"):
        builder.add(ops.Add((left, right), "y"), GRID)


def test_reshape_keeps_the_size():
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 4), GRID)
    with pytest.raises(ValueError, match="sizes differ"):
        builder.add(ops.Reshape((x,), "y", (3,)), GRID)


def test_an_integer_op_cannot_read_values_on_no_grid():
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 4), QuantParams(np.float32(1)), "float32")
    y = builder.add(ops.Maximum((x,), "y", bound=0), QuantParams(np.float32(1)))
    with pytest.raises(ValueError, match=r"Op 'y' \(Maximum\) needs int8 tensors\. .*\['x'\]"):
        builder.build((y,))


def test_a_tensor_on_no_grid_holds_its_values():
    grid = QuantParams(np.float32(0.5))
    on_grid, words = (IntegerTensor("x", (1, 2), grid, dtype) for dtype in ("int8", "int32"))
    assert on_grid.quantize([1.0, -2.0]).tolist() == [2, -4]
    assert words.quantize([700.0, 3.0]).tolist() == [700, 3]
    np.testing.assert_array_equal(words.dequantize(np.int32([700])), [700])


def _product(features, weights=6, **options):
    builder = GraphBuilder()
    x = builder.add_input("x", (1, features), QuantParams(np.float32(0.1)))
    grid = QuantParams(np.full(4, 0.01, np.float32), 0, -127, 127, 0)
    kernel = ops.QuantizedArray(np.ones((4, weights), np.int8), grid)
    op = ops.FullyConnected((x,), "y", kernel, np.zeros(4), **options)
    return builder.build((builder.add(op, QuantParams(np.float32(0.1))),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "Tensor 'x': sizes must be positive"),
        ({"features": 5}, r"weights of shape \(4, 6\) do not fit an input of 5 features"),
        ({"features": 6, "activation": "linerr"}, "activation must be .*Received: 'linerr'"),
        ({"features": 6, "weight_bits": "x"}, "weight_bits must be int from 1 to 8"),
        ({"features": 6, "weight_bits": 9}, "weight_bits must be int from 1 to 8"),
    ],
)
def test_fields_and_sizes_are_checked(options, message):
    assert _product(6)
    with pytest.raises(ValueError, match=message):
        _product(**options)


def test_a_window_larger_than_its_image_is_refused():
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 2, 2, 1), QuantParams(np.float32(0.1)))
    grid = QuantParams(np.full(1, 0.01, np.float32), 0, -127, 127, 0)
    kernel = ops.QuantizedArray(np.ones((1, 7, 7, 1), np.int8), grid)
    y = builder.add(ops.Conv2D((x,), "y", kernel, np.zeros(1)), QuantParams(np.float32(0.1)))
    with pytest.raises(ValueError, match="Tensor 'y': sizes must be positive"):
        builder.build((y,))
