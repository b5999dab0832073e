"""DEQUANTIZE, a network in float and QUANTIZE: exact where the arithmetic inside is."""

import hypothesis.strategies as st
from hypothesis import given

from keras_qat.integer import IntegerGraph
from tests.tflite_export.float_networks import difference_graph
from tests.tflite_export.graphs import (
    DEFAULT_SCALES,
    input_grids,
    log_uniform,
    output_grids,
    random_codes,
)
from tests.tflite_export.harness import SAMPLES, exact_law
from tflite_export import verify
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target


@st.composite
def difference_graphs(draw: st.DrawFn) -> IntegerGraph:
    left, right = draw(input_grids()), draw(input_grids())
    output = draw(output_grids("linear", draw(DEFAULT_SCALES)))
    return difference_graph(draw(log_uniform(-2, 2)), left, right, output)


@exact_law
@given(difference_graphs())
def test_runtimes_round_as_their_profiles_say(graph):
    """Sums of two numbers are the same in every order, and many lie on ties."""
    data = write_model(emit_model(legalize(graph, get_target("litert"))))
    for result in verify(graph, data, "litert", random_codes(graph, samples=SAMPLES)):
        assert result.differing == 0
        assert [tensor.name for tensor in result.tensors] == ["part", "pool"]
