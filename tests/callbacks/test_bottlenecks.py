"""Rankings of tensors: what comes first, and what a ranking needs."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import CapacityMonitor
from keras_qat.callbacks.bottlenecks import RANKINGS, bottlenecks, ranking_scores
from tests.callbacks.test_capacity_monitor import X, Y, look, single, waist


@pytest.fixture(scope="module")
def monitor():
    return look(waist())


def test_the_waist_is_the_bottleneck_of_an_example(monitor):
    ranked = monitor.bottlenecks(n=9, by="bits_per_example")
    assert ranked[:2] == ["narrow_relu/activations", "head/activations"]  # 2 and 3 values
    assert len(ranked) == 5  # activations only


def test_a_coarse_grid_has_the_fewest_bits_per_value():
    qmodel = waist(keras_qat.STEConfig())
    assert "again_relu/activations" not in look(qmodel).bottlenecks(n=1)
    values = keras.Model(qmodel.inputs, qmodel.get_layer("again_relu").output).predict(X, verbose=0)
    qmodel.get_layer("again_relu_quantizer").set_scale(values.max() / 8.0)
    again = qmodel.get_layer("again")
    again.weight_quantizer.set_scale(np.abs(again.layer.kernel.numpy()).max(axis=0) / 4.0)
    assert set(look(qmodel).bottlenecks(n=2)) == {"again_relu/activations", "again/weights"}


def tensor(target, *bits, learned=True, **more):
    return {"target_bits": target, "learned": learned, "mean_bits": list(bits), **more}


def test_the_area_above_the_target_by_hand():
    tensors = {
        "quick": tensor(2, 9.0, 1.5, 1.5),  # 7: what is below the target does not count
        "late": tensor(2, 9.0, 8.0, 1.5),  # 13
        "wide": tensor(8, 9.0, 9.0, 8.0),  # 2
        "fixed": tensor(2, 9.0, 9.0, 9.0, learned=False),
    }
    history = {"epochs": [0, 1, 2], "tensors": tensors}
    scores = ranking_scores(history, "area_above_target")
    assert scores == {"quick": 7.0, "late": 13.0, "wide": 2.0}
    assert bottlenecks(history, 9, "area_above_target") == ["late", "quick", "wide"]


def test_a_width_that_diverged_comes_first():
    tensors = {"late": tensor(2, 9.0, 8.0), "lost": tensor(2, 9.0, None)}
    history = {"epochs": [0, 1], "tensors": tensors}
    assert bottlenecks(history, 1, "area_above_target") == ["lost"]


def test_the_largest_sensitivity_comes_first():
    tensors = {
        "a": tensor(8, 8.0, step_sensitivity=[9.0, 1.0]),
        "b": tensor(8, 8.0, step_sensitivity=[1.0, 2.0]),
        "c": tensor(8, 8.0, step_sensitivity=[1.0, None]),
    }
    history = {"epochs": [0, 1], "tensors": tensors}
    assert bottlenecks(history, 9, "step_sensitivity") == ["c", "b", "a"]


def test_a_monitor_with_labels_records_the_sensitivity():
    qmodel = waist(keras_qat.LSQConfig())
    monitor = look(qmodel, labels=Y, batch_size=8)
    expected = keras_qat.step_sensitivity(qmodel, X, Y, batch_size=8)
    tensors = monitor.history["tensors"]
    assert {name: each["step_sensitivity"] for name, each in tensors.items()} == {
        name: [value] for name, value in expected.items()
    }
    start = monitor.history["start"]["tensors"]
    assert {name: each["step_sensitivity"] for name, each in start.items()} == expected
    first = monitor.bottlenecks(1, by="step_sensitivity")
    assert first == [max(expected, key=expected.get)]


def test_without_learned_widths_another_ranking_is_named():
    monitor = look(single())
    with pytest.raises(ValueError, match="rank with by='bits_per_value'"):
        monitor.bottlenecks(by="area_above_target")
    assert monitor.bottlenecks(by="bits_per_value")


def test_without_labels_the_way_to_pass_them_is_named(monitor):
    with pytest.raises(ValueError, match=r"CapacityMonitor\(x, labels=y\)"):
        monitor.bottlenecks(by="step_sensitivity")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"n": 0}, "1 or more"), ({"n": 1.5}, "1 or more"), ({"by": "size"}, "area_above_target")],
)
def test_rankings_of_no_kind(monitor, arguments, match):
    with pytest.raises(ValueError, match=match):
        monitor.bottlenecks(**arguments)


@pytest.mark.parametrize("by", RANKINGS)
def test_rankings_want_an_epoch(by):
    with pytest.raises(ValueError, match="no epoch yet"):
        CapacityMonitor(X).bottlenecks(by=by)
