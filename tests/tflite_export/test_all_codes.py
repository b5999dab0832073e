"""Operators of two tensors are proven on every pair of codes, in the form that the file has."""

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops
from tflite_export import ExportError, VerificationError, export
from tflite_export.proof import all_codes
from tflite_export.proof.all_codes import prove_every_pair

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
    prove_every_pair(graph, "tflm", lambda *given: seen.append(given))
    ((alone, _, _, samples),) = seen
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


def test_a_square_that_the_samples_miss_is_refused(tmp_path):
    """XNNPACK computes `x * x` by another formula than `x * y`."""
    grid = QuantParams(np.float32(0.02), -128)
    graph = network(ops.Mul, (1, 64), scale=0.3, grids=[grid])
    zeros = np.full((1, 64), -128, np.int8)
    with pytest.raises(VerificationError, match=r"differ first in tensor 'y'"):
        export(graph, tmp_path / "y.tflite", samples=zeros, verbose=False)
    assert not list(tmp_path.iterdir())
    assert export(graph, tmp_path / "y.tflite", target="tflm", verbose=False).mismatches == 0


@pytest.mark.parametrize(
    ("scale", "output"), [(2.0**-136, 2.0**-136), (2.0**126, 2.0**126), (1.0, 2.0**-19)]
)
def test_scales_that_end_a_runtime_are_refused(scale, output, tmp_path):
    grids = [QuantParams(np.float32(scale))] * 2
    graph = network(ops.Add, (1, 4), (1, 4), scale=output, grids=grids)
    for target in ("litert", "tflm"):
        with pytest.raises(ExportError, match=r"outside what"):
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
