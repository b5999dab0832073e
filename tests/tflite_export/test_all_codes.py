"""Elementwise operators are proven on every code or pair of codes, in the form of the file."""

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops
from tests.tflite_export.graphs import one_op_graph
from tflite_export import ExportError, VerificationError, export
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.proof import all_codes
from tflite_export.proof.all_codes import prove_every_code

GRIDS = [QuantParams(np.float32(0.1), 3, -100, 127), QuantParams(np.float32(0.07), 112, 112, 127)]
FORMS = [
    ((1, 4, 4, 8), (1, 4, 4, 8)),
    ((1, 4, 4, 8), (1, 1, 1, 8)),
    ((1, 1, 1, 8), (1, 4, 4, 8)),
    ((1, 4, 4, 8), (1, 4, 4, 1)),
    ((1, 1, 1, 8), (1, 4, 4, 1)),
    ((1, 1), (1, 8)),
    ((1, 8), (1, 1)),
    ((1, 1), (1, 1)),
]


def network(op, *shapes, scale=0.12, grids=GRIDS):
    """One op; with a single shape it reads one tensor twice."""
    builder = GraphBuilder()
    pairs = zip("ab", shapes, grids, strict=False)
    names = [builder.add_input(name, shape, grid) for name, shape, grid in pairs]
    made = op((names[0], names[-1]), "y")
    return builder.build((builder.add(made, QuantParams(np.float32(scale))),))


@pytest.fixture
def nothing_is_proven(monkeypatch):
    monkeypatch.setattr(all_codes, "_PROVEN", set())


@pytest.mark.parametrize("shapes", FORMS)
def test_the_inputs_hold_every_pair_and_keep_the_form(shapes, nothing_is_proven):
    graph, seen = network(ops.Add, *shapes), []
    prove_every_code(StoredGraph(graph), ["tflm"], lambda *given: seen.append(given))
    ((_, alone, _, _, samples),) = seen
    a, b = np.broadcast_arrays(samples["a"], samples["b"])
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    assert len(pairs) == GRIDS[0].levels * GRIDS[1].levels
    for name, shape in zip("ab", shapes, strict=True):
        found = alone.tensors[name].shape
        assert shapes[0] == shapes[1] or [n > 1 for n in found] == [n > 1 for n in shape]


@pytest.mark.parametrize("shapes", FORMS)
@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_sums_and_products_of_every_form_are_proven(shapes, target, tmp_path, nothing_is_proven):
    for op in (ops.Add, ops.Sub, ops.Mul):
        graph = network(op, *shapes)
        assert export(graph, tmp_path / "y.tflite", target=target, verbose=False).mismatches == 0


def slopes(*shape):
    values = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
    return ops.QuantizedArray(values, QuantParams(np.array(0.004, np.float32), 0, -127, 127))


OF_ONE = {
    "prelu_of_channels": lambda x, y: ops.PReLU(x, y, slopes(1, 1, 3)),
    "prelu_of_pixels": lambda x, y: ops.PReLU(x, y, slopes(4, 5, 3)),
    "maximum": lambda x, y: ops.Maximum(x, y, -20),
    "lookup": lambda x, y: ops.Lookup(x, y, np.arange(-128, 128)[::-1].astype(np.int8)),
}


@pytest.mark.parametrize("name", OF_ONE)
def test_operators_of_one_tensor_run_on_every_code(name, tmp_path, nothing_is_proven):
    shape = (1, 4, 5, 3)
    high = QuantParams(GRIDS[0].scale, 3, -20, 127)
    grid = {"maximum": high, "lookup": GRIDS[0]}.get(name, QuantParams(np.float32(0.1)))
    grid = QuantParams(grid.scale) if name == "lookup" else grid
    graph = one_op_graph(lambda _, x: OF_ONE[name]((x,), "y"), shape, GRIDS[0], grid)
    seen = []
    prove_every_code(StoredGraph(graph), ["tflm"], lambda *given: seen.append(given))
    ((_, alone, _, _, samples),) = seen
    codes = samples["x"]
    places = codes.reshape(len(codes), -1).T if "prelu" in name else codes.reshape(1, -1)
    assert all(sorted(each) == list(range(-100, 128)) for each in places)
    met = (1, 2, 2, 3) if name == "prelu_of_channels" else shape
    assert "prelu" not in name or alone.tensors["x"].shape == met
    for target in ("litert", "tflm"):
        assert export(graph, tmp_path / "y.tflite", target=target, verbose=False).mismatches == 0


def test_a_square_that_the_samples_miss_is_refused(tmp_path):
    """XNNPACK computes `x * x` by another formula than `x * y`."""
    grid = QuantParams(np.float32(0.02), -128)
    graph = network(ops.Mul, (1, 64), scale=0.3, grids=[grid])
    zeros = np.full((1, 64), -128, np.int8)
    said = r"differ first in tensor 'y'.*Write keras\.ops\.square\(x\) instead of x \* x"
    with pytest.raises(VerificationError, match=said):
        export(graph, tmp_path / "y.tflite", samples=zeros, verbose=False)
    assert not list(tmp_path.iterdir())
    assert export(graph, tmp_path / "y.tflite", target="tflm", verbose=False).mismatches == 0


@pytest.mark.parametrize(
    ("scale", "output"),
    [(2.0**-136, 2.0**-136), (2.0**126, 2.0**126), (1.0, 2.0**-19), (2.0**108, 2.0**107)],
)
def test_scales_that_end_a_runtime_are_refused(scale, output, tmp_path):
    grids = [QuantParams(np.float32(scale))] * 2
    graph = network(ops.Sub, (1, 4), (1, 4), scale=output, grids=grids)
    for target in ("litert", "tflm"):
        with pytest.raises(ExportError, match=r"outside what"):
            export(graph, tmp_path / "y.tflite", target=target, verbose=False)


def test_a_ratio_just_below_the_limit_of_tflm_is_proven(tmp_path):
    grids = [QuantParams(np.float32(1))] * 2
    for op in (ops.Add, ops.Sub):
        graph = network(op, (1, 4), (1, 4), scale=2.0**-18.99, grids=grids)
        report = export(graph, tmp_path / "y.tflite", target="tflm", verbose=False)
        assert report.mismatches == 0


@pytest.mark.parametrize("smallest", [2.0**-120, 2.0**-130])
def test_weights_on_a_scale_that_float32_states_coarsely_are_refused(smallest, tmp_path):
    """Headroom divides it further, and XNNPACK takes no scale below 2**-126."""
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 4), QuantParams(np.float32(2.0**98)))
    grid = QuantParams(np.array([2.0**-98, smallest], np.float32), 0, -127, 127, 0)
    weight = ops.QuantizedArray(np.ones((2, 4), np.int8), grid)
    op = ops.FullyConnected((x,), "layer", weight, np.zeros(2))
    graph = builder.build((builder.add(op, QuantParams(np.float32(1))),))
    for target in ("litert", "tflm"):
        with pytest.raises(ExportError, match=r"'layer' have a scale of .* below what runtimes"):
            export(graph, tmp_path / "y.tflite", target=target, verbose=False)


def test_a_multiplier_that_float32_rounds_up_to_the_limit_is_refused(tmp_path):
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 4), QuantParams(np.float32(21.023334503173828)))
    output = QuantParams(np.float32(86.77954864501953))
    scale = np.float32(255.99999956 * float(output.scale) / 21.023334503173828)
    grid = QuantParams(np.full(1, scale), 0, -127, 127, 0)
    weight = ops.QuantizedArray(np.ones((1, 4), np.int8), grid)
    y = builder.add(ops.FullyConnected((x,), "y", weight, np.zeros(1)), output)
    with pytest.raises(ExportError, match=r"rescaled by 256, outside what"):
        export(builder.build((y,)), tmp_path / "y.tflite", verbose=False)
