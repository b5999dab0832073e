"""What a user reads after a training that diverged."""

import numpy as np
import pytest

import keras_qat
import tflite_export
from tests.reliability.tiny import X, new_model

DIVERGED = r"DivergenceMonitor\(\)"
CONFIG = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2)


def spoiled(name, variable, value):
    """A model at its targets, with one value in a variable of a quantizer or of its kernel."""
    qmodel = new_model(CONFIG)
    for width in qmodel.learned_widths:
        width.hold(refit=True)
    owner = qmodel.get_layer(name)
    owner = owner.layer if variable == "kernel" else getattr(owner, "weight_quantizer", owner)
    found = getattr(owner, variable)
    found.assign(np.full(found.shape, value))
    return qmodel


@pytest.mark.parametrize(
    ("name", "variable", "value", "message"),
    [
        ("first", "kernel", 1e30, "Layer 'first' holds values up to 1e[+]30 in 'kernel'"),
        (
            "first",
            "_logarithms",
            -200.0,
            "grid of 'first' has the logarithms .* -60 to 60",
        ),
        ("first_relu_quantizer", "_logarithms", np.nan, "'first_relu_quantizer' holds NaN"),
        ("first_relu_quantizer", "_logarithms", 90.0, "grid of 'first_relu_quantizer' has the log"),
        ("first_relu_quantizer", "_logarithms", 50.0, "'first_relu' is rescaled by .*diverged"),
    ],
)
def test_export_says_that_training_diverged_and_where(name, variable, value, message, tmp_path):
    qmodel = spoiled(name, variable, value)
    with pytest.raises(ValueError, match=f"(?s){message}.*{DIVERGED}"):
        tflite_export.export(qmodel, tmp_path / "net.tflite", samples=X, verbose=False)
    assert not list(tmp_path.iterdir())


def test_codes_of_a_grid_that_is_nan_are_refused_by_its_name():
    qmodel = spoiled("first_relu_quantizer", "_logarithms", np.nan)
    with pytest.raises(ValueError, match=f"(?s)grid of 'first_relu_quantizer' .*nan.*{DIVERGED}"):
        qmodel.layer_codes(X)
