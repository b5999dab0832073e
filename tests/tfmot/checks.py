"""What holds of every network that comes from TFMOT, whoever trained it."""

import numpy as np

import tflite_export
from tests.tfmot.examples import SHAPES, accuracy, answers, examples, interpreter_of

POOLED = {"residual"}
"""Networks in which TFMOT has a range of its own behind a pooling."""

_SUMS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_MOST_TIES = 2
"""One code at a tie is rare, so two are already unlikely, and more are a defect."""


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


def constants_of(path):
    """Kernel and bias of each operator that sums, one row for each channel."""
    interpreter = interpreter_of(path)
    interpreter.allocate_tensors()
    for operator in interpreter._get_ops_details():
        if operator["op_name"] in _SUMS:
            kernel, bias = (interpreter.get_tensor(each) for each in operator["inputs"][1:3])
            last = operator["op_name"] == "DEPTHWISE_CONV_2D"
            rows = np.moveaxis(kernel, -1 if last else 0, 0).reshape(bias.size, -1)
            yield rows.astype(int), bias.astype(int)


def units_apart(ours, theirs):
    """How far each constant of our file is from the one of TFMOT's, in units of the finer grid.

    Where every kernel code of a channel is small, our file has the codes and the bias twice or
    four times as large, and the scale as much smaller.
    """
    for (kernel, bias), (their_kernel, their_bias) in zip(
        constants_of(ours), constants_of(theirs), strict=True
    ):
        factor = np.abs(kernel).max(axis=1) / np.maximum(np.abs(their_kernel).max(axis=1), 1)
        factor = 2 ** np.rint(np.log2(np.maximum(factor, 1))).astype(int)
        yield (kernel - factor[:, None] * their_kernel).ravel()
        yield bias - factor * their_bias


def check_file(name, qmodel, theirs, tmp_path):
    """The exported file answers as the model does, and as TFMOT's own converted file.

    Both compute kernels and biases in float32, in another order of operations. A value that lies
    at a tie is then one code away. That is rare.
    """
    x, y = examples(SHAPES[name])
    ours = tmp_path / f"{name}.tflite"
    report = tflite_export.export(qmodel, ours, samples=x[:128], verbose=False)
    assert report.mismatches == 0
    codes, expected = answers(ours, x), answers(theirs, x)
    assert accuracy(expected, y) > 70.0
    for outputs in (codes, qmodel.predict(x, verbose=0)):
        assert abs(accuracy(outputs, y) - accuracy(expected, y)) <= 0.2
    if name in POOLED:  # TFMOT's file rounds once more, behind the pooling
        return
    apart = np.concatenate(list(units_apart(ours, theirs)))
    assert np.abs(apart).max() <= 1
    assert np.count_nonzero(apart) <= _MOST_TIES
    if not apart.any():
        np.testing.assert_array_equal(codes, expected)
