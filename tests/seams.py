"""The E2 and E3 seams: every integer op against the Keras model, and files against the graph."""

import dataclasses
from collections.abc import Callable

import numpy as np

import tflite_export
from keras_qat.integer import IntegerGraph, add_headroom, ops, run
from keras_qat.integer.fixed_point import RoundingProfile, get_profile
from tflite_export.legal.legalize import legalize
from tflite_export.proof.comparison import with_moved_integers
from tflite_export.targets import get_target


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one tensor is from the Keras model's.

    Attributes:
        name: its name.
        flip_rate: the share of its elements that differ.
        largest: the largest difference, in steps.
        beyond_ties: how many elements differ where float32 decides; see `op_differences`.
    """

    name: str
    flip_rate: float
    largest: int
    beyond_ties: int


def op_differences(
    graph: IntegerGraph, codes: dict[str, np.ndarray], profile: str = "xnnpack"
) -> list[Difference]:
    """Each op that yields a tensor Keras quantizes, run on Keras' integers, against Keras' own.

    A sequence of the model may be an image of one row in the graph. Tensors between (a RESHAPE, the
    op before a MAXIMUM) are computed from what is known.

    A sum of float32 numbers depends on their order, which the processor chooses. So where a result
    is within `_TIE` of half way between two codes, either of them is right (law E2).
    """
    assert profile != "tflm", "it rounds twice, and has no flips to excuse: see `target_flips`"
    codes = {
        name: each.reshape(each.shape[0], *graph.tensors[name].shape[1:])
        for name, each in codes.items()
        if name in graph.tensors
    }
    for op in reversed(graph.ops):  # what a RESHAPE reads are Keras' own integers, too
        if isinstance(op, ops.Reshape) and op.output in codes:
            source, shape = op.inputs[0], graph.tensors[op.inputs[0]].shape
            codes.setdefault(source, codes[op.output].reshape(-1, *shape[1:]))
    known = dict(codes)
    found = []
    for op in graph.ops:
        operands = [ops.QuantizedArray(known[n], graph.tensors[n].qparams) for n in op.inputs]
        grid = graph.tensors[op.output].qparams
        values = op.evaluate(operands, grid, get_profile(profile))
        if isinstance(op, ops.Reshape) and op.inputs[0] in codes:
            known[op.output] = values  # compared where its input is made
        elif op.output in codes:
            distance = np.abs(values.astype(int) - codes[op.output])
            name = op.output.removesuffix("/flat")
            beyond = distance != 0
            for moved in _AROUND_TIES if beyond.any() else ():
                either = op.evaluate(operands, grid, moved(get_profile(profile)))
                beyond &= either != codes[op.output]
            flips, largest = np.mean(distance != 0), int(distance.max())
            found.append(Difference(name, flips, largest, int(np.count_nonzero(beyond))))
        else:
            known[op.output] = values
    return found


_TIE = 2.0**-12
"""How near to a tie, in steps, float32 sums of up to 255 steps are no longer sure."""


def _moved(by: float) -> Callable[[RoundingProfile], RoundingProfile]:
    """A profile whose accumulators are larger by so many steps before they are rounded."""

    def rescaled(accumulator, rescale):
        return np.rint(accumulator * rescale.real_multiplier() + by).astype(np.int64)

    kinds = ("conv", "depthwise_conv", "fully_connected", "mul", "transpose_conv")
    return lambda profile: dataclasses.replace(profile, **dict.fromkeys(kinds, rescaled))


_AROUND_TIES = (_moved(-_TIE), _moved(_TIE))


class RoundsOnce:
    """A trained model that cannot compute as a target: it states its integers, and rounds once."""

    def __init__(self, qmodel):
        self._qmodel = qmodel
        self.output_kinds = qmodel.output_kinds

    def to_integer(self) -> IntegerGraph:
        return self._qmodel.to_integer()

    def layer_codes(self, x):
        return self._qmodel.layer_codes(x)


def target_flips(qmodel, x, target: str, weight_storage: str = "auto") -> dict[str, int]:
    """How many codes of each layer a file's target computes otherwise than the model, end to end.

    Layers without a difference are left out.
    """
    stored = legalize(qmodel.to_integer(), get_target(target), weight_storage)
    stated = qmodel.layer_codes(x)
    graph, codes = stored.graph, with_moved_integers(stored.graph, stated)
    profile = get_target(target).default_profile
    on_target = run(graph, {n: codes[n] for n in graph.inputs}, profile, keep_all=True)
    found = {
        op.output: int(np.count_nonzero(on_target[op.output] != codes[op.output]))
        for op in graph.ops
        if op.output in stated
    }
    assert found, "nothing was compared"
    return {name: flips for name, flips in found.items() if flips}


def assert_no_flip_and_no_mismatch(qmodel, x: np.ndarray, path) -> None:
    """Every layer computes Keras' own integers, and both targets' files those of the graph."""
    graph = add_headroom(qmodel.to_integer())
    differences = op_differences(graph, qmodel.layer_codes(x))
    assert {each.beyond_ties for each in differences} == {0}
    assert max(each.flip_rate for each in differences) < 1e-3
    for target in ("litert", "tflm"):
        assert_no_mismatch(qmodel, x, target, path)


def assert_no_mismatch(
    model, x, target: str, path, weight_storage: str = "auto"
) -> tflite_export.Report:
    """The file for a target computes the integers of the graph, however far those are from Keras'.

    Weights that no training chose leave no clear winners, and flips have a seam of their own.
    """
    report = tflite_export.export(
        model,
        path,
        target=target,
        weight_storage=weight_storage,
        samples=x,
        max_flip_rate=1.0,
        min_argmax_agreement=0.0,
        verbose=False,
    )
    assert report.mismatches == 0
    return report
