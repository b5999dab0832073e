"""A new integer op is a dataclass, an `OpExport`, and one line in each of two tables.

This one, SPACE_TO_DEPTH, is in none of them: the tests add it for a while, and then everything that
the package does with ops has to work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from keras_qat.integer import (
    GraphBuilder,
    IntegerGraph,
    QuantParams,
    load_graph,
    ops,
    run,
    save_graph,
)
from tflite_export import ExportError, export, plan_memory, predict, write_micro
from tflite_export.ops.emission import Emission, file_operator
from tflite_export.ops.grids import check_same_grid
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport, no_constants
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.ops.table import OP_EXPORTS
from tflite_export.targets import TARGETS

# What would be a file of keras_qat/integer/ops.


@dataclasses.dataclass(frozen=True, eq=False)
class SpaceToDepth(ops.IntegerOp):
    """Blocks of pixels become channels."""

    block: int

    def output_shape(self, shapes: Sequence[ops.Shape]) -> ops.Shape:
        ((batch, height, width, channels),) = shapes
        return (batch, height // self.block, width // self.block, channels * self.block**2)

    def evaluate(self, inputs, output, profile):
        x = inputs[0].values
        batch, height, width, channels = self.output_shape([x.shape])
        blocks = x.reshape(batch, height, self.block, width, self.block, x.shape[3])
        return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


# What would be a file of tflite_export/ops.


def emit(op: SpaceToDepth, graph: IntegerGraph) -> Emission:
    fields = {"blockSize": op.block}
    operator = file_operator(
        "SPACE_TO_DEPTH", 2, op.inputs, op.output, "SpaceToDepthOptions", fields
    )
    return Emission((), operator)


def two_rows(operator, file) -> Sequence[int]:
    """Scratch that the real kernel does not have, to see it counted."""
    return (100, 2000)


OPERATOR = OperatorType(
    "SPACE_TO_DEPTH",
    MicroKernel(resolver="AddSpaceToDepth", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)
SPACE_TO_DEPTH = OpExport(
    emit=emit,
    check=check_same_grid,
    check_constants=no_constants,
    operators=(OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=True,
)


def with_operator(**changes) -> OpExport:
    """The entry with another cost in the arena."""
    micro = dataclasses.replace(OPERATOR.micro, **changes)
    return dataclasses.replace(SPACE_TO_DEPTH, operators=(OperatorType(OPERATOR.code, micro),))


# The two lines.


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.setitem(ops.OPS, "SpaceToDepth", SpaceToDepth)
    monkeypatch.setitem(OP_EXPORTS, SpaceToDepth, SPACE_TO_DEPTH)


def network() -> IntegerGraph:
    """The op behind a convolution, so that something is quantized and packed, too."""
    builder = GraphBuilder()
    grid = QuantParams(np.float32(0.1))
    x = builder.add_input("image", (1, 8, 8, 3), grid)
    values = (np.arange(2 * 3 * 3 * 3) % 3 - 1).astype(np.int8).reshape(2, 3, 3, 3)
    scale = QuantParams(np.full(2, 2.0**-5, np.float32), 0, -1, 1, 0)
    weight, bias = ops.QuantizedArray(values, scale), np.ones(2)
    options = {"padding": "same", "weight_bits": 2}
    x = builder.add(ops.Conv2D((x,), "conv", weight, bias, **options), grid)
    return builder.build((builder.add(SpaceToDepth((x,), "blocks", 2), grid),))


def shifted_model(graph: IntegerGraph):
    """A trained model that states no codes of the new op: they are those of its input, moved."""

    class Model:
        def to_integer(self):
            return graph

        def layer_codes(self, x):
            inputs = {"image": graph.tensors["image"].quantize(x)}
            values = run(graph, inputs, "xnnpack", keep_all=True)
            return {name: values[name] for name in ("image", "conv")}

    return Model()


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("target", TARGETS)
def test_it_is_exported_proven_and_reported(target, tmp_path):
    path = tmp_path / "net.tflite"
    report = export(network(), path, target=target, verbose=False)
    assert report.mismatches == 0
    assert [each.code for each in report.operators][-1] == "SPACE_TO_DEPTH"
    assert "SPACE_TO_DEPTH  2" in report.render()
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 3))
    assert predict(path, x, runtime=TARGETS[target].family).shape == (5, 4, 4, 8)


@pytest.mark.usefixtures("tables")
def test_it_is_compared_with_a_trained_model(tmp_path):
    report = export(shifted_model(network()), tmp_path / "net.tflite", verbose=False)
    assert report.comparison.flip_rate == 0.0
    assert report.comparison.argmax_agreement == 1.0


@pytest.mark.usefixtures("tables")
def test_its_memory_is_planned():
    plan = plan_memory(network())
    assert plan.operators[-1] == "SPACE_TO_DEPTH blocks"
    assert plan.arena_bytes == pytest.approx(plan.measured_arena_bytes, rel=0.1)


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    ("changes", "structure", "scratch"),
    [({"structure_bytes": 40}, 40, []), ({"scratch": two_rows}, 0, [112, 2000])],
)
def test_its_cost_is_what_its_entry_says(monkeypatch, changes, structure, scratch):
    free = plan_memory(network())
    monkeypatch.setitem(OP_EXPORTS, SpaceToDepth, with_operator(**changes))
    plan = plan_memory(network())
    assert plan.structure_bytes - free.structure_bytes == structure
    assert sorted(each.size for each in plan.buffers if each.kind == "scratch") == scratch


@pytest.mark.usefixtures("tables")
def test_its_firmware_has_its_operator(tmp_path):
    write_micro(network(), tmp_path, verbose=False)
    assert "resolver.AddSpaceToDepth()" in (tmp_path / "model_ops.h").read_text()


@pytest.mark.usefixtures("tables")
def test_its_graph_is_saved_and_loaded(tmp_path):
    save_graph(network(), tmp_path / "net.npz")
    loaded = load_graph(tmp_path / "net.npz").ops[-1]
    assert (type(loaded), loaded.block) == (SpaceToDepth, 2)


@pytest.mark.usefixtures("tables")
def test_its_own_check_is_asked(tmp_path):
    graph = network()
    other = dataclasses.replace(graph.tensors["blocks"], qparams=QuantParams(np.float32(0.2)))
    graph = dataclasses.replace(graph, tensors={**graph.tensors, "blocks": other})
    with pytest.raises(ExportError, match="SpaceToDepth 'blocks' keeps the scale"):
        export(graph, tmp_path / "net.tflite", verbose=False)


def test_without_its_line_it_is_refused(tmp_path):
    with pytest.raises(ExportError, match="does not run the op of 'blocks'"):
        export(network(), tmp_path / "net.tflite", verbose=False)
    with pytest.raises(ExportError, match="does not run the op of 'blocks'"):
        plan_memory(network())
