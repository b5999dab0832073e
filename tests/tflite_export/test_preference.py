"""What `weight_storage="auto"` takes by `prefer`: no other choice of storages costs less."""

import itertools

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import random_codes
from tflite_export import export, plan_memory, verify
from tflite_export.arena import preference
from tflite_export.arena.placement import buffer_bytes, buffers_of, place, structure_bytes
from tflite_export.arena.preference import PREFERENCES, TABLE_CODE_BYTES, preferred_storage
from tflite_export.file.writer import read_model, write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import target_with

TFLM = target_with("tflm", "reference")
GRID, FINE = QuantParams(np.float32(0.1)), QuantParams(np.float32(2.0**-11))


def weight(shape: tuple[int, ...], bits: int) -> ops.QuantizedArray:
    reach = max(1, 2 ** (bits - 1) - 1)
    values = np.random.default_rng(0).integers(-reach, reach + 1, shape).astype(np.int8)
    scale = np.full(shape[0], 2.0**-5, np.float32)
    return ops.QuantizedArray(values, QuantParams(scale, 0, -reach, reach, 0))


def network(
    filters: tuple[int, ...],
    bits: tuple[int, ...],
    units: int = 0,
    table: bool = False,
    states_bits: bool = True,
) -> IntegerGraph:
    """Convolutions with fewer pixels from one to the next; the last grid leaves no headroom."""
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 16, 16, 4), GRID)
    for layer, (count, each) in enumerate(zip(filters, bits, strict=True)):
        kernel = weight((count, 3, 3, builder.tensor(x).shape[3]), each)
        options = {"strides": (2, 2), "padding": "same", "weight_bits": each if states_bits else 8}
        grid = FINE if layer == len(filters) - 1 else GRID
        x = builder.add(ops.Conv2D((x,), f"y{layer}", kernel, np.zeros(count), **options), grid)
    if table:
        x = builder.add(ops.Lookup((x,), "table", np.arange(-128, 128)[::-1].astype(np.int8)), FINE)
    if units:
        x = builder.add(ops.Mean((x,), "mean"), FINE)
        head = weight((units, filters[-1]), 2)
        x = builder.add(ops.FullyConnected((x,), "head", head, np.zeros(units)), FINE)
    return builder.build((x,))


NETWORKS = {
    "early peak": network((32, 32, 32), (2, 2, 4)),
    "late peak": network((8, 48, 64), (2, 3, 4)),
    "even": network((16, 16, 16, 16), (4, 2, 4, 2)),
    "dense": network((16, 32), (1, 4), units=40),
    "function": network((16, 32), (1, 3), table=True),  # CAST, ADD and GATHER
    "few values of 8 bits": network((32, 32, 32), (2, 2, 4), states_bits=False),
    "8 bits": network((16, 64, 48), (8, 8, 2)),
}


def measured(graph, target, storages):
    """Bytes of the file, whether it has tables, and bytes of the arena."""
    stored = legalize(graph, target, storages)
    file = emit_model(stored)
    arena = buffer_bytes(place(buffers_of(file, target.kernels))) + structure_bytes(file)
    return len(write_model(file)), "lut" in stored.storage.values(), arena


def every_choice(graph, target):
    """The costs of every choice of exact storages, layer by layer."""
    linear = [op.output for op in graph.ops if isinstance(op, ops.LinearOp)]
    in_int8 = legalize(graph, target, "int8")
    integers = {name: in_int8.linear_op(name).weight.values for name in linear}
    for kinds in itertools.product(target.weight_storages, repeat=len(linear)):
        storages = dict(zip(linear, kinds, strict=True))
        stored = legalize(graph, target, storages)
        found = {name: stored.linear_op(name).weight.values for name in linear}
        if all(np.array_equal(found[name].ravel(), integers[name].ravel()) for name in linear):
            yield measured(graph, target, storages)


AROUND_A_TABLE = 64
"""Bytes around a table are estimated: alignment and shared vectors move them by so many, measured
on these networks, compact or not."""


@pytest.mark.parametrize("kernels", ["reference", "cmsis-nn-m4", "esp-nn"])
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_costs_less(monkeypatch, name, kernels):
    """Of all choices, with code of tables that costs nothing, little, and as much as it does."""
    graph, target = NETWORKS[name], target_with("tflm", kernels)
    every, room = list(every_choice(graph, target)), AROUND_A_TABLE * len(graph.ops)
    for code in (0, 800, TABLE_CODE_BYTES):
        monkeypatch.setattr(preference, "TABLE_CODE_BYTES", code)
        costs = [(size + code * tables, arena) for size, tables, arena in every]
        best = {
            "flash": min(flash for flash, _ in costs) + room,
            "ram": min(arena for _, arena in costs),
            "balanced": min(map(sum, costs)) + room,
        }
        for prefer in PREFERENCES:
            storages, stated = preferred_storage(graph, target, "auto", prefer)
            size, tables, arena = measured(graph, target, storages)
            flash = size + code * tables
            found = {"flash": flash, "ram": arena, "balanced": flash + arena}[prefer]
            assert found <= best[prefer], (code, prefer, storages)
            if stated:
                cost = stated[prefer]
                assert (cost.flash_bytes + cost.code_bytes, cost.arena_bytes) == (flash, arena)


def test_a_table_has_to_save_more_than_its_code():
    """By default the file and the code count; a given storage forces tables."""
    graph = NETWORKS["early peak"]
    storages, costs = preferred_storage(graph, TFLM, "auto", "flash")
    assert "lut" not in storages.values()
    assert costs["flash"].code_bytes == 0
    assert legalize(graph, TFLM, "lut").storage["y1"] == "lut"
    larger = network((64, 128, 64), (2, 2, 2))
    storages, costs = preferred_storage(larger, TFLM, "auto", "flash")
    assert storages["y1"] == "lut"
    assert costs["flash"].code_bytes == TABLE_CODE_BYTES
    assert costs["flash"].flash_bytes + TABLE_CODE_BYTES < costs["ram"].flash_bytes
    assert costs["ram"].arena_bytes < costs["flash"].arena_bytes


@pytest.mark.parametrize("prefer", PREFERENCES)
def test_each_choice_is_proven_and_stated(tmp_path, prefer):
    graph, path = network((64, 128, 64), (2, 2, 2)), tmp_path / "net.tflite"
    report = export(graph, path, target="tflm", prefer=prefer, verbose=False)
    assert report.mismatches == 0
    cost = report.storage_costs[prefer]
    assert cost.flash_bytes == report.file_bytes == path.stat().st_size
    tables = [each for each in report.weights if each.storage == "lut"]
    assert bool(tables) == bool(cost.code_bytes)
    assert f"prefer={prefer!r}: {cost.flash_bytes:,} bytes of flash" in report.render()
    (result,) = verify(graph, path.read_bytes(), "tflm", random_codes(graph))
    assert result.differing == 0
    plan = plan_memory(graph, compact=False, prefer=prefer)
    assert plan.flash_bytes == cost.flash_bytes
    assert plan.arena_bytes == plan.storage_costs[prefer].arena_bytes == cost.arena_bytes
    assert "prefer='ram'" in plan.render()


def test_a_file_says_its_storage_itself(tmp_path):
    """`verify` needs no word of it, and says so to those who give one."""
    graph, path = NETWORKS["late peak"], tmp_path / "net.tflite"
    export(graph, path, target="tflm", weight_storage="lut", verbose=False)
    with pytest.warns(DeprecationWarning, match="reads the storage of weights from the file"):
        verify(graph, path.read_bytes(), "tflm", random_codes(graph), "int8")
    operators = {op.code for op in read_model(path.read_bytes()).operators}
    assert "TFLM_DECODE" in operators


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefer": "speed"}, "prefer must be one of"),
        ({"prefer": "ram", "weight_storage": "lut"}, "Leave out one of the two"),
        (
            {"prefer": "ram", "target": "litert"},
            "weight_storage='auto' is 'int8'",
        ),
        ({"prefer": "balanced", "target": "ethos-u"}, "There is nothing to prefer"),
    ],
)
def test_what_cannot_be_preferred_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export(NETWORKS["even"], tmp_path / "net.tflite", **{"target": "tflm", **options})
    assert not list(tmp_path.iterdir())
