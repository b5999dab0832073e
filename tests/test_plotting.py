"""Pictures of the learned grids; no display is needed."""

import sys

import numpy as np
import pytest

import keras_qat
from tests.models import images, residual_network

pytest.importorskip("matplotlib", reason="plot_grids draws with matplotlib")


@pytest.fixture(scope="module")
def qmodel():
    config = keras_qat.LSQConfig(weight_bits=2, activation_bits=4)
    return keras_qat.quantize(residual_network(), config, calibration_data=images(16))


@pytest.fixture(scope="module")
def figure(qmodel):
    return keras_qat.plot_grids(qmodel, images(8))


def drawn(figure):
    return [axis for axis in figure.axes if axis.axison]


def test_every_tensor_on_a_learned_grid_has_a_titled_panel(qmodel, figure):
    titles = [axis.get_title() for axis in drawn(figure)]
    assert titles[:5] == [
        "stem, weights, 8 bit",
        "conv, weights, 2 bit",
        "separable_depthwise, weights, 2 bit",
        "separable, weights, 2 bit",
        "head, weights, 8 bit",
    ]
    names = [title.rsplit(",", 1)[0] for title in titles[5:]]
    assert names == list(qmodel.layer_codes(images(1)))
    assert "separable_relu6, 4 bit" in titles


def test_the_bars_are_the_shares_of_the_codes(qmodel, figure):
    axis = next(a for a in drawn(figure) if a.get_title() == "conv, weights, 2 bit")
    bars = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in axis.containers[0]}
    codes = qmodel.get_layer("conv").weight_codes()
    assert len(bars) == 4
    for code, share in bars.items():
        assert share == np.mean(codes == round(code))


def test_the_picture_can_be_written_without_a_display(figure, tmp_path):
    figure.savefig(tmp_path / "grids.png", dpi=40)
    assert (tmp_path / "grids.png").stat().st_size > 10_000


def test_the_model_is_left_as_it_is(qmodel):
    before = qmodel.get_weights()
    keras_qat.plot_grids(qmodel, images(4))
    for now, then in zip(qmodel.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_without_matplotlib_it_says_what_to_install(qmodel, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        keras_qat.plot_grids(qmodel, images(4))
