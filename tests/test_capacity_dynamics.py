"""`plot_capacity_dynamics`: what is on the picture; no display is needed."""

import json
import sys

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import CapacityMonitor

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

CUTS = [["head/activations"], ["head/activations"], ["relu/activations", "side/activations"]]
START = {
    "bits_per_mac": 10.0,
    "bits_per_weight": 10.0,
    "bits_per_activation": 9.0,
    "bits_per_example": 90.0,
    "narrowest": ["head/activations"],
    "hidden_bits_per_example": 300.0,
    "hidden_narrowest": ["relu/activations"],
}


@pytest.fixture
def history():
    """Three epochs of a network made up."""
    return {
        "epochs": [0, 1, 2],
        "tensors": {},
        "network": {
            "bits_per_mac": [8.0, 5.0, 2.5],
            "bits_per_weight": [7.0, 4.0, 2.0],
            "bits_per_activation": [9.0, 6.0, 3.0],
            "bits_per_example": [80.0, 76.0, 40.0],
            "narrowest": CUTS,
            "hidden_bits_per_example": [250.0, 150.0, 40.0],
            "hidden_narrowest": [["relu/activations"]] * 3,
        },
        "start": {"tensors": {}, "network": START},
        "targets": {"bits_per_mac": 2.5, "bits_per_weight": 2.0, "bits_per_activation": 3.0},
        "input_bits_per_example": 200.0,
    }


def lines(figure):
    """Every line with a label, by its first word or two: its `(x, y)`."""
    found = {}
    for axis in figure.axes:
        for line in axis.lines:
            found[line.get_label()] = (list(line.get_xdata()), list(line.get_ydata()))
    return found


def line(figure, start):
    (found,) = [data for label, data in lines(figure).items() if label.startswith(start)]
    return found


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_point_is_an_epoch_and_the_first_is_the_start(history):
    figure = keras_qat.plot_capacity_dynamics(history)
    network = line(figure, "capacity of the network")
    assert network == ([10.0, 8.0, 5.0, 2.5], [90.0, 80.0, 76.0, 40.0])
    hidden = line(figure, "capacity of the hidden")
    assert hidden == ([10.0, 8.0, 5.0, 2.5], [300.0, 250.0, 150.0, 40.0])
    assert line(figure, "before the first epoch") == ([10.0], [90.0])
    left, right = figure.axes[0].get_xlim()
    assert left > right  # training goes from left to right


def test_the_narrowest_tensors_are_named_where_they_change(history):
    figure = keras_qat.plot_capacity_dynamics(history)
    assert texts(figure) == ["narrowest: head", "narrowest: relu + side"]
    assert [text.xy for text in figure.axes[0].texts] == [(10.0, 90.0), (2.5, 40.0)]


def test_bounds_are_the_input_and_the_targets(history):
    figure = keras_qat.plot_capacity_dynamics(history)
    assert line(figure, "an input holds at most 200 bits")[1] == [200.0, 200.0]
    assert line(figure, "all tensors at their targets: 2.5 bits")[0] == [2.5, 2.5]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(labels) == {label for label in lines(figure) if not label.startswith("_")}


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("bits_per_weight", [10.0, 7.0, 4.0, 2.0]),
        ("bits_per_activation", [9.0, 9.0, 6.0, 3.0]),
    ],
)
def test_other_averages(history, bits, expected):
    figure = keras_qat.plot_capacity_dynamics(history, bits=bits)
    assert line(figure, "capacity of the network")[0] == expected
    assert bits.rsplit("_", 1)[1] in figure.axes[0].get_xlabel()


def kept(values, epochs=(0, 1, 2)):
    """What `fit` returns."""
    found = keras.callbacks.History()
    found.epoch, found.history = list(epochs), values
    return found


def test_accuracy_belongs_to_the_epochs(history):
    expected = ([8.0, 5.0, 2.5], [90.0, 80.0, 85.0])
    for accuracy in (
        [0.9, 0.8, 0.85],
        kept({"accuracy": [0.9, 0.8, 0.85]}),
        kept({"accuracy": [0.1, 0.1, 0.1], "val_accuracy": [0.9, 0.8, 0.85]}),
    ):
        figure = keras_qat.plot_capacity_dynamics(history, accuracy)
        x, y = line(figure, "accuracy, 85.0 % at the end")
        assert x == expected[0]
        np.testing.assert_allclose(y, expected[1], rtol=1e-12)  # 100 times
        low, high = figure.axes[1].get_ylim()
        assert 0.0 <= low < 80.0 < 90.0 < high


def test_a_history_of_the_second_fit_alone(history):
    """Epochs that another `fit` did have no accuracy."""
    figure = keras_qat.plot_capacity_dynamics(history, kept({"accuracy": [0.5]}, epochs=[2]))
    _, y = line(figure, "accuracy")
    np.testing.assert_array_equal(y, [np.nan, np.nan, 50.0])


@pytest.mark.parametrize("size", [2, 4, (3, 1)])
def test_accuracies_of_another_number_are_refused(history, size):
    with pytest.raises(ValueError, match=r"each of 3 epochs.*shape"):
        keras_qat.plot_capacity_dynamics(history, np.zeros(size))


def test_a_history_without_accuracy_names_the_way_out(history):
    with pytest.raises(ValueError, match=r"metrics=\['accuracy'\].*'loss': 3"):
        keras_qat.plot_capacity_dynamics(history, kept({"loss": [1.0, 1.0, 1.0]}))
    keras_qat.plot_capacity_dynamics(history, [0.5, 0.5, 0.5])


def test_a_validation_every_other_epoch_leaves_the_training(history):
    values = {"accuracy": [0.9, 0.8, 0.85], "val_accuracy": [0.7]}
    assert line(keras_qat.plot_capacity_dynamics(history, kept(values)), "accuracy, 85.0 %")
    with pytest.raises(ValueError, match=r"for each epoch.*3 epochs.*'val_accuracy': 1"):
        keras_qat.plot_capacity_dynamics(history, kept({"val_accuracy": [0.7]}))


def test_where_nothing_differs_the_hidden_tensors_have_no_line(history):
    history["network"]["hidden_bits_per_example"] = history["network"]["bits_per_example"]
    history["start"]["network"] = {**START, "hidden_bits_per_example": 90.0}
    labels = lines(keras_qat.plot_capacity_dynamics(history))
    assert not [label for label in labels if label.startswith("capacity of the hidden")]


def test_what_is_unknown_is_left_out(history):
    """A run that diverged, a raw input, and a history without a start."""
    history["network"]["bits_per_example"] = [80.0, None, None]
    history["input_bits_per_example"] = None
    del history["start"], history["targets"]
    figure = keras_qat.plot_capacity_dynamics(history)
    _, y = line(figure, "capacity of the network")
    np.testing.assert_array_equal(y, [80.0, np.nan, np.nan])
    assert texts(figure) == ["narrowest: head"]
    figure.canvas.draw()


def test_numbers_that_are_far_apart_get_a_logarithmic_axis(history):
    assert keras_qat.plot_capacity_dynamics(history).axes[0].get_yscale() == "linear"
    history["input_bits_per_example"] = 20_000.0
    del history["targets"]
    figure = keras_qat.plot_capacity_dynamics(history, [0.9, 0.8, 0.85])
    axis = figure.axes[0]
    figure.canvas.draw()
    assert axis.get_yscale() == "log"
    low, high = axis.get_ylim()
    assert low < 40.0 < 20_000.0 < high
    assert "10,000" in [label.get_text() for label in axis.get_yticklabels()]


def test_it_comes_from_a_monitor_its_history_or_its_file(history, tmp_path):
    monitor = CapacityMonitor(np.zeros((4, 2)))
    monitor.history = history
    monitor.save_json(tmp_path / "capacity.json")
    for number, source in enumerate([monitor, history, tmp_path / "capacity.json"]):
        keras_qat.plot_capacity_dynamics(source, path=tmp_path / f"{number}.svg")
    sizes = [(tmp_path / f"{number}.svg").stat().st_size for number in range(3)]
    assert min(sizes) > 10_000
    assert max(sizes) - min(sizes) < 100  # but for dates, the same picture


def test_an_older_history_names_the_way_out(tmp_path):
    """As an earlier release wrote it: `plot_capacity` still draws it."""
    tensor = {"kind": "weights", "target_bits": 2, "learned": True, "values": 4}
    numbers = ("mean_bits", "max_bits", "step", "low", "high", "saturation", "bits_per_value")
    old = {"epochs": [0], "tensors": {"a/weights": tensor | {key: [1.0] for key in numbers}}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match="plot_capacity draws it"):
        keras_qat.plot_capacity_dynamics(tmp_path / "old.json")
    assert keras_qat.plot_capacity(tmp_path / "old.json").axes


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (({"epochs": [], "tensors": {}},), "CapacityMonitor is empty"),
        ((3,), "history must be a CapacityMonitor"),
    ],
)
def test_what_is_no_history_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        keras_qat.plot_capacity_dynamics(*arguments)


def test_unknown_bits_are_refused(history):
    with pytest.raises(ValueError, match=r"bits_per_mac.*Received: 'bits'"):
        keras_qat.plot_capacity_dynamics(history, bits="bits")


def test_without_matplotlib_it_says_what_to_install(history, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="plot_capacity_dynamics needs matplotlib"):
        keras_qat.plot_capacity_dynamics(history)


def test_names_of_the_package_stay():
    from keras_qat.plotting import plot_capacity, plot_capacity_dynamics, plot_grids

    assert keras_qat.plot_capacity is plot_capacity
    assert keras_qat.plot_grids is plot_grids
    assert keras_qat.plot_capacity_dynamics is plot_capacity_dynamics
