"""What users saved keeps working: golden files load, and compute what they computed.

Codes, integers and the outputs of integer files are equal everywhere. Float outputs, those of a
file with a float part, and one more step of training are equal to the last bit on the versions and
the processor recorded beside the file.
"""

import json

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.integer import load_graph, run
from tests.golden.make_models import FOLDER, IN_FLOAT, compiled, models, step, versions

pytestmark = pytest.mark.slow_beyond(1)

NAMES = sorted(models())
EXPORTED = [name for name in NAMES if name != "gdnsq_learning"]


def release(version):
    """(3, 15) of "3.15.1"."""
    return tuple(int(part) for part in version.split(".")[:2])


def load(folder):
    """The saved model, where Keras is at least the release that saved it: older ones need not."""
    made_with = json.loads((folder / "made_with.json").read_text())["keras"]
    if release(made_with) > release(keras.__version__):
        pytest.skip(f"saved by Keras {made_with}, and Keras {keras.__version__} is older")
    return keras_qat.load_model(folder / "model.keras")


@pytest.fixture(params=NAMES)
def golden(request):
    folder = FOLDER / request.param
    return folder, compiled(load(folder)), np.load(folder / "values.npz")


def same_machine(folder):
    made_with = json.loads((folder / "made_with.json").read_text())
    return {"vectors": "avx512f", **made_with} == versions()  # the first ones do not record it


def test_a_model_loads_with_its_codes(golden):
    folder, qmodel, values = golden
    codes = qmodel.layer_codes(values["inputs"])
    assert sorted(f"codes/{name}" for name in codes) == sorted(
        name for name in values.files if name.startswith("codes/")
    )
    for name, found in codes.items():
        expected = values[f"codes/{name}"]
        in_float = not np.issubdtype(expected.dtype, np.integer)  # of layers without a grid
        tolerance = 1e-4 if in_float and not same_machine(folder) else 0.0
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=name)


def test_float_outputs_and_a_step_of_training(golden):
    folder, qmodel, values = golden
    tolerance = 0.0 if same_machine(folder) else 1e-4  # float32 sums in another order
    outputs = qmodel.predict(values["inputs"], verbose=0)
    np.testing.assert_allclose(outputs, values["outputs"], rtol=tolerance, atol=tolerance)
    expected = [values[name] for name in sorted(values.files) if name.startswith("stepped/")]
    for found, wanted in zip(step(qmodel), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", EXPORTED)
def test_a_saved_graph_is_what_the_model_states_and_computes(name):
    values = np.load(FOLDER / name / "values.npz")
    graph = load_graph(FOLDER / name / "graph.npz")
    stated = load(FOLDER / name).to_integer()
    inputs = {each: values[f"codes/{each}"] for each in graph.inputs}
    for output in graph.outputs:
        expected = run(graph, inputs, "xnnpack")[output]
        np.testing.assert_array_equal(run(stated, inputs, "xnnpack")[output], expected)


@pytest.mark.parametrize("target", ["litert", "tflm"])
@pytest.mark.parametrize("name", EXPORTED)
def test_a_file_answers_as_it_did(name, target):
    path = FOLDER / name / f"{target}.tflite"
    if not path.exists():
        assert name in IN_FLOAT
        assert target == "tflm"
        return
    values = np.load(FOLDER / name / "values.npz")
    found = tflite_export.predict(path, values["inputs"], runtime=target)
    if name in IN_FLOAT and not same_machine(FOLDER / name):
        # Float kernels of another processor sum in another order, at most one code is another.
        if name == "float_part":
            assert np.mean(found != values[target]) <= 0.01
        else:
            np.testing.assert_allclose(found, values[target], rtol=1e-4, atol=1e-4)
    else:
        np.testing.assert_array_equal(found, values[target])
