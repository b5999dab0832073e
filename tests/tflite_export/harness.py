"""The one harness of every end-to-end op test: NumPy against the runtimes, without tolerance."""

import itertools

from hypothesis import HealthCheck, settings

from keras_qat.integer import IntegerGraph
from keras_qat.integer.headroom import add_headroom
from tests.tflite_export.graphs import random_codes
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.file.writer import write_model
from tflite_export.legal.legality import check_legal, here
from tflite_export.legal.legalize import with_channel_scales
from tflite_export.ops.emit_model import emit_model
from tflite_export.proof.verification import verify_runtime
from tflite_export.targets import TARGETS

SAMPLES = 4
HERE = ("tflm", "litert_ref", here(TARGETS["litert"]))
"""The rounding of every runtime on this machine."""

exact_law = settings(
    deadline=None,
    max_examples=3 * settings.default.max_examples,  # 90; EXAMPLES says how many
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
"""Settings of every property test that runs interpreters: reproducible, and no stop watch."""


def assert_exact(graph: IntegerGraph, seed: int = 0, samples: int = SAMPLES) -> None:
    """All runtimes compute every tensor of the graph exactly, with and without headroom."""
    inputs = random_codes(graph, seed, samples)
    for target in TARGETS.values():
        stated = with_channel_scales(graph, target)
        check_legal(stated, target)
        profiles = [each for each in HERE if (each == "tflm") == (target.name == "tflm")]
        for version in (stated, add_headroom(stated)):
            forms = [emit_model(StoredGraph(version))]
            if target.name == "tflm":
                forms.append(emit_model(StoredGraph(version), compact=True))
            for profile, form in itertools.product(profiles, forms):
                result = verify_runtime(version, write_model(form), form, profile, inputs)
                assert {t.name: t.differing for t in result.tensors if t.differing} == {}, result
                assert len(result.tensors) == len(graph.ops)
