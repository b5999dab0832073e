"""The memory plan: no two live buffers overlap, and TFLM takes what is planned, within 10 %."""

import json
import os
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import small_network
from tflite_export import plan_memory, plot_memory
from tflite_export.arena.placement import Buffer, buffers_of, place
from tflite_export.file import runtimes
from tflite_export.file.runtimes import measure_arena
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target

pytestmark = pytest.mark.slow_beyond(1)

TFLM = get_target("tflm")
GRID = QuantParams(np.float32(0.1))
every_storage = pytest.mark.parametrize("storage", ["int8", "int4", "lut", "auto"])


def weight(shape: tuple[int, ...], axis: int, bits: int) -> ops.QuantizedArray:
    reach = max(1, 2 ** (bits - 1) - 1)
    values = np.random.default_rng(0).integers(-reach, reach + 1, shape).astype(np.int8)
    scale = np.full(shape[axis], 2.0**-5, np.float32)
    return ops.QuantizedArray(values, QuantParams(scale, 0, -reach, reach, axis))


def residual_network(bits: int, channels: int = 16) -> IntegerGraph:
    """Three stages of a residual network with a Dense layer at its end."""
    builder = GraphBuilder()
    x = builder.add_input("image", (1, 32, 32, 3), GRID)

    def convolve(x: str, name: str, size: int, filters: int, stride: int) -> str:
        inner = builder.tensor(x).shape[3]
        kernel = weight((filters, size, size, inner), 0, bits)
        bias = np.zeros(filters)
        options = {"strides": (stride, stride), "padding": "same", "weight_bits": bits}
        return builder.add(ops.Conv2D((x,), name, kernel, bias, **options), GRID)

    x = convolve(x, "first", 3, channels, 1)
    for stage in range(3):
        filters, stride = channels << stage, 1 if stage == 0 else 2
        y = convolve(x, f"a{stage}", 3, filters, stride)
        y = convolve(y, f"b{stage}", 3, filters, 1)
        short = x if stage == 0 else convolve(x, f"short{stage}", 1, filters, stride)
        x = builder.add(ops.Add((y, short), f"sum{stage}"), GRID)
    x = builder.add(ops.Mean((x,), "mean"), GRID)
    head = weight((10, channels << 2), 0, bits)
    return builder.build((builder.add(ops.FullyConnected((x,), "y", head, np.zeros(10)), GRID),))


def separable_network(bits: int) -> IntegerGraph:
    builder = GraphBuilder()
    x = builder.add_input("image", (1, 24, 24, 8), GRID)
    for block, filters in enumerate((16, 32, 64)):
        inner = builder.tensor(x).shape[3]
        kernel = weight((1, 3, 3, inner), 3, bits)
        depthwise = ops.DepthwiseConv2D(
            (x,), f"d{block}", kernel, np.zeros(inner), strides=(2, 2), weight_bits=bits
        )
        x = builder.add(depthwise, GRID)
        kernel = weight((filters, 1, 1, inner), 0, bits)
        point = ops.Conv2D((x,), f"p{block}", kernel, np.zeros(filters), weight_bits=bits)
        x = builder.add(point, GRID)
    x = builder.add(ops.MaxPool2D((x,), "pool", (2, 2), (2, 2)), GRID)
    return builder.build((builder.add(ops.Reshape((x,), "y", (64,)), GRID),))


def arithmetic_network() -> IntegerGraph:
    """Gates of squeeze-and-excite, and differences: many small operators on small tensors."""
    builder = GraphBuilder()
    x = builder.add_input("image", (1, 8, 8, 4), GRID)
    gate = builder.add_input("gate", (1, 1, 1, 4), GRID)
    for step in range(12):
        kind = ops.Mul if step % 2 else ops.Sub
        x = builder.add(kind((x, gate), f"y{step}"), GRID)
    return builder.build((x,))


def decoder(bits: int) -> IntegerGraph:
    builder = GraphBuilder()
    x = builder.add_input("code", (1, 4, 4, 32), GRID)
    for block, filters in enumerate((16, 8, 4)):
        _, height, width, inner = builder.tensor(x).shape
        kernel = weight((filters, 3, 3, inner), 0, bits)
        options = {"strides": (2, 2), "padding": "same", "weight_bits": bits}
        size = (2 * height, 2 * width)
        op = ops.TransposeConv2D(
            (x,), f"t{block}", kernel, np.zeros(filters), output_size=size, **options
        )
        x = builder.add(op, GRID)
    return builder.build((x,))


NETWORKS = {
    "arithmetic": arithmetic_network(),
    "decoder": decoder(3),
    "residual": residual_network(2),
    "wide": residual_network(4, channels=24),
    "separable": separable_network(3),
    "small": small_network(),
}


@every_storage
@pytest.mark.parametrize("name", NETWORKS)
def test_the_arena_is_estimated_within_a_percent(name, storage):
    """Small ones within 192 bytes, which the runtime loses to the alignment of its structures."""
    plan = plan_memory(NETWORKS[name], storage)
    assert plan.arena_bytes == pytest.approx(plan.measured_arena_bytes, rel=0.01, abs=192)


@every_storage
def test_flash_is_the_file(storage):
    graph = NETWORKS["residual"]
    plan = plan_memory(graph, storage)
    data = write_model(emit_model(legalize(graph, TFLM, storage), compact=True))
    assert plan.flash_bytes == len(data)
    weights = sum(w.weight_bytes + w.table_bytes + w.bias_bytes for w in plan.weights)
    assert 0 < plan.overhead_bytes == len(data) - weights
    bits = {w.name: w.bits for w in plan.weights}
    assert set(bits.values()) == {2, 8}  # the last layer states none
    assert plan.floor_bytes == sum(w.elements * bits[w.name] for w in plan.weights) // 8


def test_weights_of_two_bits_take_a_quarter():
    plan = plan_memory(NETWORKS["residual"], "lut")
    for layer in plan.weights[:-1]:
        assert layer.weight_bytes == layer.elements * 2 // 8
        assert layer.storage == "lut"
        assert layer.table_bytes == 16 + 3 * layer.bias_bytes // 4  # -1, 0 and 1 a channel


buffer_lists = st.lists(
    st.builds(
        lambda size, first, length: Buffer("buffer", 16 * size, first, first + length),
        st.integers(1, 40),
        st.integers(0, 12),
        st.integers(0, 6),
    ),
    max_size=14,
)


@given(buffer_lists)
def test_no_two_live_buffers_overlap(buffers):
    placed = place(buffers)
    assert sorted((b.size, b.first, b.last) for b in placed) == sorted(
        (b.size, b.first, b.last) for b in buffers
    )
    for index, one in enumerate(placed):
        for other in placed[index + 1 :]:
            apart = one.offset + one.size <= other.offset or other.offset + other.size <= one.offset
            assert apart or not one.meets(other)


@given(buffer_lists)
def test_the_arena_is_no_smaller_than_what_lives_at_once(buffers):
    top = max((b.offset + b.size for b in place(buffers)), default=0)
    alive = [sum(b.size for b in buffers if b.first <= t <= b.last) for t in range(20)]
    assert max(alive) <= top <= sum(b.size for b in buffers)


def test_a_branch_keeps_its_tensor_alive():
    file = emit_model(legalize(NETWORKS["residual"], TFLM, "int8"))
    lifetimes = {b.name: (b.first, b.last) for b in buffers_of(file)}
    assert lifetimes["image"] == (0, 0)
    assert lifetimes["first"] == (0, 3)  # convolutions 1 and 2, then the sum
    assert lifetimes["y"][1] == len(file.operators) - 1


def test_decoded_weights_live_for_one_operator():
    file = emit_model(legalize(NETWORKS["residual"], TFLM, "lut"))
    lifetimes = {b.name: (b.first, b.last) for b in buffers_of(file)}
    assert lifetimes["a0/weight"] == (2, 3)


def test_the_plan_is_written_for_people_and_programs(tmp_path):
    plan = plan_memory(NETWORKS["separable"])
    text = plan.render()
    assert f"Flash: {plan.flash_bytes:,} bytes" in text
    assert f"RAM: {plan.arena_bytes:,} bytes of arena" in text
    assert f"took {plan.measured_arena_bytes:,} bytes here" in text
    plan.save_json(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["arena_bytes"] == plan.arena_bytes
    assert content["weights"][0]["name"] == "d0"


def test_without_tflm_the_plan_is_an_estimate(monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    plan = plan_memory(NETWORKS["separable"])
    assert plan.measured_arena_bytes is None
    assert "Not measured" in plan.render()


def test_standard_error_is_given_back(capfd):
    file = emit_model(legalize(NETWORKS["separable"], TFLM), compact=True)
    assert measure_arena(write_model(file), file) > 0
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_a_runtime_that_says_nothing_is_an_error(monkeypatch):
    file = emit_model(legalize(NETWORKS["separable"], TFLM), compact=True)
    monkeypatch.setattr(runtimes, "standard_error", lambda call: "nothing")
    with pytest.raises(RuntimeError, match=r"did not state its arena\. Received: 'nothing'"):
        measure_arena(write_model(file), file)


def test_the_plan_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra keras_qat[plots] is not installed")
    plot_memory(plan_memory(NETWORKS["small"], "int4"), tmp_path / "plan.svg")
    drawn = (tmp_path / "plan.svg").read_text()
    assert "<svg" in drawn
    # Every buffer is named, be it inside its box or beside it.
    plan = plan_memory(NETWORKS["small"], "int4")
    assert [each.name for each in plan.buffers if f"{each.name} -->" not in drawn] == []


def test_what_is_no_network_is_refused():
    with pytest.raises(ValueError, match="model must be an IntegerGraph"):
        plan_memory("model.keras")


def test_the_code_that_reads_tables_is_counted():
    """A small network loses by tables, a large one gains."""
    small, large = (residual_network(2, channels) for channels in (8, 32))
    for graph, word in ((small, "less"), (large, "more")):
        plan, plain = plan_memory(graph, "lut"), plan_memory(graph, "int8")
        assert plan.as_int8 == (plain.flash_bytes, plain.arena_bytes)
        more = plain.flash_bytes - plan.flash_bytes - plan.table_code_bytes
        assert f"{abs(more):,} bytes {word} flash in all" in " ".join(plan.render().split())
    assert (plain.table_code_bytes, plain.as_int8) == (0, None)
