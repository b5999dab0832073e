"""`DiscretizationMonitor`: rounding and clipping apart, for the quantizers of any method."""

import json

import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import DiscretizationMonitor, PEGESchedule
from tests.callbacks.test_pege_schedule import X, fit, new_model

pytestmark = pytest.mark.slow_beyond(1)

LOW = {"weight_bits": 2, "activation_bits": 2}


@pytest.mark.parametrize(
    "config",
    [keras_qat.STEConfig, keras_qat.LSQConfig, keras_qat.PEGEConfig, keras_qat.DoReFaConfig],
)
def test_the_parts_add_up_to_the_distance_of_values_and_codes(config):
    """Of every kernel: `mean((w - w_hat)**2)` in ranges."""
    qmodel, monitor = new_model(config(**LOW)), DiscretizationMonitor(X[:40], every=4)
    schedules = [PEGESchedule()] if config is keras_qat.PEGEConfig else []
    fit(qmodel, *schedules, monitor, epochs=1)
    assert monitor.history["batches"] == [0, 4, 8]
    for name, site in qmodel.quantizer_sites().items():
        tensor = monitor.history["tensors"][name]
        assert min(tensor["rounding"]) > 0.0
        if site.kernel is None:
            assert tensor["kind"] == "activations"
            continue
        kernel = np.asarray(site.quantizer.prepare(site.kernel.channels_last_kernel()))
        grid, scale = site.quantizer.grid, np.asarray(site.quantizer.scale)
        rounded = np.asarray(site.quantizer.codes(site.kernel.channels_last_kernel())) * scale
        distance = np.mean(np.square((kernel - rounded) / (scale * (grid.qmax - grid.qmin))))
        found = tensor["rounding"][-1] + tensor["clipping"][-1]
        assert found == pytest.approx(distance, rel=1e-4)  # float32


def test_the_share_of_pege_is_recorded_and_drawn(tmp_path):
    monitors = {}
    for title, config in (
        ("LSQ", keras_qat.LSQConfig(**LOW)),
        ("PEGE", keras_qat.PEGEConfig(**LOW)),
    ):
        qmodel, monitors[title] = new_model(config), DiscretizationMonitor(X[:40], every=2)
        schedules = [PEGESchedule("linear", 1.0)] if title == "PEGE" else []
        fit(qmodel, *schedules, monitors[title], epochs=2)
    assert set(monitors["LSQ"].history["replaced_share"]) == {1.0}
    shares = monitors["PEGE"].history["replaced_share"]
    # A record after k batches has the share of batch k, which is the share of k - 1 done batches.
    assert shares == pytest.approx(
        [0.0, *((k - 1) / 16 for k in (2, 4, 6, 8, 10, 12, 14)), 15 / 16]
    )
    monitors["PEGE"].save_json(tmp_path / "pege.json")
    history = json.loads((tmp_path / "pege.json").read_text())
    assert history == monitors["PEGE"].history
    for drawn in (monitors, {"one": history}, tmp_path / "pege.json"):
        figure = keras_qat.plot_replacement(drawn, tmp_path / "errors.png")
        runs = len(drawn) if isinstance(drawn, dict) else 1
        assert len(figure.axes) == 3 * runs + 1  # and the colors


def test_what_cannot_be_recorded_or_drawn_is_refused():
    with pytest.raises(ValueError, match="needs a few input samples"):
        DiscretizationMonitor(None)
    with pytest.raises(ValueError, match="every must be a whole number"):
        DiscretizationMonitor(X, every=True)
    with pytest.raises(ValueError, match="cannot run its data"):
        fit(new_model(), PEGESchedule(), DiscretizationMonitor(X[:, :3]), epochs=1)
    with pytest.raises(ValueError, match="history of the DiscretizationMonitor is empty"):
        keras_qat.plot_replacement(DiscretizationMonitor(X))
    with pytest.raises(ValueError, match=r"must be a DiscretizationMonitor.*Received: list"):
        keras_qat.plot_replacement({"LSQ": []})
