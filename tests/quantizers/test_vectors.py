"""Golden vectors: section names as in the file (`lsq/*`)."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_qat.quantizers import Grid
from keras_qat.quantizers.fake_quantize import learned_step_size
from keras_qat.quantizers.grid import round_to_codes

VECTORS = np.load(pathlib.Path(__file__).parents[1] / "golden" / "gdnsq_vectors.npz")
LSQ_CASES = sorted({key.split("/")[1] for key in VECTORS.files if key.startswith("lsq/")})


def close(actual, expected):
    """The vectors' own tolerance for keys without an error estimate."""
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", LSQ_CASES)
def test_lsq(case, jit):
    vector = {
        name: VECTORS[f"lsq/{case}/{name}"]
        for name in ("x", "s", "Qn", "Qp", "g", "s_init", "q", "x_hat", "dx", "grad_scale", "ds")
    }
    grid = Grid(-int(vector["Qn"]), int(vector["Qp"]))

    def step(x, scale, upstream):
        with tf.GradientTape() as tape:
            tape.watch([x, scale])
            output = learned_step_size(x, scale, grid, float(vector["grad_scale"]))
            loss = tf.reduce_sum(output * upstream)
        return output, *tape.gradient(loss, [x, scale])

    step = tf.function(step, jit_compile=True) if jit else step
    x, scale = tf.constant(vector["x"]), tf.constant(vector["s"])
    output, dx, dscale = step(x, scale, tf.constant(vector["g"]))
    np.testing.assert_array_equal(round_to_codes(x / scale, grid), vector["q"])
    close(output, vector["x_hat"])
    close(dx, vector["dx"])
    close(dscale, vector["ds"])
    papers_start = 2.0 * np.mean(np.abs(vector["x"])) / np.sqrt(grid.positive_codes)
    close(papers_start, vector["s_init"])


def test_all_lsq_cases_are_here():
    assert len(LSQ_CASES) == 5
