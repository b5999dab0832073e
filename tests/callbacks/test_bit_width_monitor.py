"""`BitWidthMonitor`: the widths that the penalty sees, over the batches of a run."""

import json

import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import BitWidthMonitor, GDNSQSchedule
from tests.callbacks.test_gdnsq_schedule import fit, new_model

pytestmark = pytest.mark.slow_beyond(1)


def widths(qmodel):
    return {
        name: np.asarray(width.widths())
        for width in qmodel.learned_widths
        for name, each in qmodel.named_quantizers.items()
        if each is width.quantizer
    }


def test_it_records_every_width_from_the_start_on():
    qmodel, monitor = new_model(), BitWidthMonitor(every=3)
    start = widths(qmodel)
    fit(qmodel, GDNSQSchedule(verbose=0), monitor)
    batches, tensors = monitor.history["batches"], monitor.history["tensors"]
    assert batches[:5] == [0, 3, 6, 8, 11]  # an epoch has 8
    assert set(tensors) == set(start) == set(widths(qmodel))
    for name, tensor in tensors.items():
        assert len(tensor["mean_bits"]) == len(tensor["max_bits"]) == len(batches)
        # A width that starts at its target is held at once, which rounds it to a level.
        assert tensor["mean_bits"][0] == pytest.approx(float(np.mean(start[name])), abs=0.01)
        last = widths(qmodel)[name]
        assert tensor["max_bits"][-1] == pytest.approx(float(np.max(last)))
        assert tensor["target_bits"] in (2, 8)


def test_a_run_that_goes_on_extends_it(tmp_path):
    qmodel, monitor = new_model(), BitWidthMonitor(every=4)
    schedule = GDNSQSchedule(verbose=0, assist=False)
    fit(qmodel, schedule, monitor)
    whole = monitor.history["batches"][:]
    monitor.history["batches"] = whole[: whole.index(80) + 1]
    for tensor in monitor.history["tensors"].values():
        for key in ("mean_bits", "max_bits"):
            del tensor[key][len(monitor.history["batches"]) :]
    fit(qmodel, GDNSQSchedule(verbose=0), monitor, initial_epoch=9)
    assert monitor.history["batches"][: len(whole)] == whole
    assert {len(t["max_bits"]) for t in monitor.history["tensors"].values()} == {len(whole)}
    monitor.save_json(tmp_path / "widths.json")
    assert json.loads((tmp_path / "widths.json").read_text()) == monitor.history
    figure = keras_qat.plot_bit_widths(tmp_path / "widths.json", tmp_path / "widths.png")
    assert len(figure.axes) == 3  # weights, activations, the colors
    assert (tmp_path / "widths.png").stat().st_size > 10_000


def test_steps_that_run_together_are_recorded_at_their_end():
    """Eight batches in an epoch, four at a time: the third is seen after the fourth."""
    qmodel, monitor = new_model(steps_per_execution=4), BitWidthMonitor(every=3)
    fit(qmodel, GDNSQSchedule(verbose=0), monitor)
    assert monitor.history["batches"][:5] == [0, 4, 8, 12, 16]


def test_what_cannot_be_recorded_or_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="every must be a whole number"):
        BitWidthMonitor(0)
    with pytest.raises(ValueError, match="learns its bit widths"):
        fit(new_model(config="lsq"), BitWidthMonitor(), epochs=1)
    with pytest.raises(ValueError, match="history of the BitWidthMonitor is empty"):
        keras_qat.plot_bit_widths(BitWidthMonitor())
    with pytest.raises(ValueError, match=r"must be a BitWidthMonitor.*Received: int"):
        keras_qat.plot_bit_widths(3)
    (tmp_path / "not.json").write_text("no JSON")
    with pytest.raises(ValueError, match="not a JSON file of a BitWidthMonitor"):
        keras_qat.plot_bit_widths(tmp_path / "not.json")
