"""A square as `x * x` may be one that XNNPACK rounds otherwise; the message names the way out."""

import keras
import numpy as np
import pytest

import keras_qat
from tflite_export import VerificationError, export

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")


def squared(function):
    """A model whose input and output have scales on which XNNPACK's own square errs."""
    x = np.linspace(0, 5.1, 64 * 6, dtype=np.float32).reshape(64, 6)
    inputs = keras.Input((6,))
    model = keras_qat.quantize(keras.Model(inputs, function(inputs)), calibration_data=x)
    for variable in model.variables:
        if variable.name == "calibrated_scale":
            variable.assign(0.02 if "input" in variable.path else 0.3)
    return model, x


def test_a_product_of_a_tensor_with_itself_names_the_way_out(tmp_path):
    model, x = squared(lambda x: x * x)
    with pytest.raises(VerificationError, match=r"Write keras\.ops\.square\(x\)"):
        export(model, tmp_path / "y.tflite", samples=x, verbose=False)


def test_the_way_out_is_a_table(tmp_path):
    model, x = squared(keras.ops.square)
    report = export(model, tmp_path / "y.tflite", samples=x, verbose=False)
    assert report.mismatches == 0
    assert "GATHER" in {operator.code for operator in report.operators}
