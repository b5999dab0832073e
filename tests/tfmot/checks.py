"""What holds of every network that comes from TFMOT, whoever trained it."""

import numpy as np

import tflite_export
from tests.tfmot.examples import SHAPES, accuracy, answers, examples, interpreter_of

POOLED = {"residual"}
"""Networks in which TFMOT has a range of its own behind a pooling."""


def grids_in(path):
    """The scale and the zero point of every activation of a file."""
    details = interpreter_of(path).get_tensor_details()
    return {
        (float(f"{scale:.5g}"), zero_point)
        for detail in details
        for scale, zero_point in [detail["quantization"]]
        if detail["dtype"] is np.int8 and detail["quantization_parameters"]["scales"].size == 1
    }


def check_grids(qmodel, path):
    """Every grid of an activation is one of the file's: the same scale, the same zero point."""
    found = {
        (float(f"{float(quantizer.scale):.5g}"), -128 - quantizer.grid.qmin)
        for name, quantizer in qmodel.named_quantizers.items()
        if name.endswith("/activations")
    }
    assert len(found) >= 4
    assert found <= grids_in(path)


def check_file(name, qmodel, theirs, tmp_path):
    """The exported file answers as the model does, and as TFMOT's own converted file."""
    x, y = examples(SHAPES[name])
    ours = tmp_path / f"{name}.tflite"
    report = tflite_export.export(qmodel, ours, samples=x[:128], verbose=False)
    assert report.mismatches == 0
    codes, expected = answers(ours, x), answers(theirs, x)
    assert accuracy(expected, y) > 70.0
    for outputs in (codes, qmodel.predict(x, verbose=0)):
        assert abs(accuracy(outputs, y) - accuracy(expected, y)) <= 0.2
    if name not in POOLED:  # else TFMOT's file rounds once more, behind the pooling
        assert np.mean(codes != expected) < 1e-3
