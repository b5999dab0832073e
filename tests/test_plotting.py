"""Pictures of the learned grids and of capacities; no display is needed."""

import json
import sys

import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import CapacityMonitor
from tests.models import images, residual_network

pytest.importorskip("matplotlib", reason="pictures need matplotlib")


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


def test_learned_grids_are_drawn_as_they_are_now():
    config = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=4)
    learned = keras_qat.quantize(residual_network(), config, calibration_data=images(16))
    for width in learned.learned_widths:
        width.narrow()
    figure = keras_qat.plot_grids(learned, images(8))
    axis = next(a for a in drawn(figure) if a.get_title().startswith("conv, weights"))
    codes = learned.get_layer("conv").weight_codes()
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axis.patches[:4]}
    assert bars == {code: np.mean(codes == code) for code in np.unique(codes)}
    titles = [axis.get_title() for axis in drawn(figure)]
    assert "separable_relu6, 4 bit" in titles
    assert "stem, weights, 7.99 bit" in titles


def test_a_grid_without_integers_counts_from_its_lowest_level():
    config = keras_qat.GDNSQConfig(weight_bits=1, activation_bits=4, offset="free")
    free = keras_qat.quantize(residual_network(), config, calibration_data=images(16))
    for width in free.learned_widths:
        width.narrow()
    figure = keras_qat.plot_grids(free, images(8))
    axis = next(a for a in drawn(figure) if a.get_title().startswith("conv, weights"))
    centers = [round(bar.get_x() + bar.get_width() / 2, 3) for bar in axis.patches[:2]]
    assert centers == [0.0, 1.0]


def test_8_bits_are_a_density_with_marks_and_words(qmodel, figure):
    """The stripes of a density hold all values, and a crowded code is cut off with a word."""
    axis = next(a for a in drawn(figure) if a.get_title() == "head, weights, 8 bit")
    stairs = axis.patches[0]
    shares, edges, _ = stairs.get_data()
    assert len(shares) <= 64
    assert np.sum(shares * np.diff(edges)) == pytest.approx(1.0)
    codes = qmodel.get_layer("head").weight_codes()
    assert edges[0] < codes.min() < codes.max() < edges[-1]
    assert axis.get_xlabel().startswith("code; ")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[2:] == ["float values", "marks of the grid", "ends of the grid"]
    axis = next(a for a in drawn(figure) if a.get_title() == "stem_relu, 8 bit")
    (said,) = (text.get_text() for text in axis.texts)
    assert said.endswith("% of the values")
    shares, edges, _ = axis.patches[0].get_data()
    assert int(said.split("%")[0]) == round(100 * float((shares * np.diff(edges)).max()))


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
    with pytest.raises(ImportError, match=r'pip install "keras_qat\[plots\]"'):
        keras_qat.plot_grids(qmodel, images(4))


def capacity_tensor(kind, target, bits, capacity, learned=True):
    tensor = {"kind": kind, "target_bits": target, "learned": learned, "values": 10}
    tensor |= {"mean_bits": bits, "max_bits": bits, "bits_per_value": capacity}
    if kind == "activations":
        tensor["bits_per_example"] = [value and 10 * value for value in capacity]
    return tensor | {"saturation": [0.25, 0.125]}


@pytest.fixture
def history():
    """Two epochs of a network made up: one fixed width, one weight that diverged."""
    tensors = {
        "image/activations": capacity_tensor("activations", 8, [8.0, 8.0], [8.0, 7.5], False),
        "conv/weights": capacity_tensor("weights", 2, [9.0, 2.5], [8.0, 1.75]),
        "relu/activations": capacity_tensor("activations", 2, [8.0, 1.5], [7.0, 1.5]),
        "head/weights": capacity_tensor("weights", 4, [9.0, None], [7.0, None]),
        "head/activations": capacity_tensor("activations", 4, [9.0, 4.0], [7.0, 3.0]),
    }
    return {"epochs": [0, 1], "tensors": tensors}


def red_rows(artists):
    return [row for row, color in enumerate(artists) if tuple(color[:3]) == to_rgb("tab:red")]


def to_rgb(color):
    from matplotlib import colors

    return colors.to_rgb(color)


def test_capacity_has_a_row_for_each_tensor_in_its_color(history):
    bits, *_ = keras_qat.plot_capacity(history).axes
    labels = bits.get_yticklabels()
    assert [label.get_text() for label in labels] == list(history["tensors"])
    colors = [to_rgb(label.get_color()) for label in labels]
    blue, orange = to_rgb("tab:blue"), to_rgb("tab:orange")
    assert colors == [orange, blue, orange, blue, orange]
    low, high = bits.get_ylim()
    assert low > high  # the first layer is on top


def test_capacity_shows_bits_on_their_way_to_the_target(history):
    bits, *_ = keras_qat.plot_capacity(history).axes
    values = np.ma.filled(bits.images[0].get_array(), np.nan)
    nan = np.nan  # the fixed width, and the one that diverged
    expected = [[nan, nan], [7.0, 0.5], [6.0, 0.0], [5.0, nan], [5.0, 0.0]]
    np.testing.assert_array_equal(values, expected)
    assert bits.images[0].get_clim() == (0.0, 7.0)
    texts = [text.get_text() for text in bits.texts]
    assert texts == ["bits / target", "8.0 / 8", "2.5 / 2", "1.5 / 2", "nan / 4", "4.0 / 4"]


def test_a_curve_shows_the_accuracy(history):
    *four, _, curve = keras_qat.plot_capacity(history, accuracy=[0.5, 0.875]).axes
    np.testing.assert_array_equal(curve.lines[0].get_ydata(), [50.0, 87.5])
    assert curve.get_title() == "Accuracy, %: 87.5 % at the end"
    assert len(keras_qat.plot_capacity(history).axes) == len(four) + 1
    with pytest.raises(ValueError, match="one number for each of 2 epochs"):
        keras_qat.plot_capacity(history, accuracy=[0.5])


def test_fixed_widths_leave_the_place_to_the_capacity(history):
    for tensor in history["tensors"].values():
        tensor["learned"] = False
    bits, *_ = keras_qat.plot_capacity(history).axes
    values = np.ma.filled(bits.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(values[1], [8.0, 1.75])


def test_capacity_bars_are_the_last_epoch_and_bottlenecks_are_red(history):
    _, capacity, examples, saturation, *_ = keras_qat.plot_capacity(history).axes
    widths = [bar.get_width() for bar in capacity.patches]
    np.testing.assert_array_equal(widths, [7.5, 1.75, 1.5, np.nan, 3.0])
    np.testing.assert_array_equal(capacity.lines[0].get_xdata(), [8, 2, 2, 4, 4])
    assert red_rows(bar.get_facecolor() for bar in capacity.patches) == [1, 2, 3]
    points = examples.collections[0]
    found = np.ma.filled(points.get_offsets()[:, 0], np.nan)
    np.testing.assert_array_equal(found, [75.0, np.nan, 15.0, np.nan, 30.0])
    assert red_rows(points.get_facecolors()) == [2]
    assert [bar.get_width() for bar in saturation.patches] == [12.5] * 5


def test_a_dead_tensor_is_named_though_no_point_shows_it(history):
    history["tensors"]["relu/activations"] |= {"bits_per_value": [7.0, 0.0]}
    history["tensors"]["relu/activations"] |= {"bits_per_example": [70.0, 0.0]}
    examples = keras_qat.plot_capacity(history).axes[2]
    texts = [text for text in examples.texts if text.get_text()]
    assert [text.get_text() for text in texts] == ["75", "0", "30"]
    assert [text.get_color() for text in texts] == ["black", "tab:red", "black"]
    assert np.isnan(np.ma.filled(examples.collections[0].get_offsets()[2, 0], np.nan))


@pytest.mark.parametrize("number", [2.0, None])
def test_one_epoch_with_targets_met_or_nothing_known_draws(history, number):
    weights = history["tensors"]["conv/weights"]
    weights |= {"max_bits": [number], "bits_per_value": [number], "saturation": [0.0]}
    figure = keras_qat.plot_capacity({"epochs": [3], "tensors": {"conv/weights": weights}})
    figure.canvas.draw()
    assert figure.axes[0].images[0].get_clim() == (0.0, 1.0)  # met is white, not dark


def test_capacity_comes_from_a_monitor_its_history_or_its_file(history, tmp_path):
    monitor = CapacityMonitor(images(4))
    monitor.history = history
    monitor.save_json(tmp_path / "capacity.json")
    sources = [monitor, history, str(tmp_path / "capacity.json"), tmp_path / "capacity.json"]
    for number, source in enumerate(sources):
        keras_qat.plot_capacity(source, tmp_path / f"{number}.svg")
    pictures = [(tmp_path / f"{number}.svg").stat().st_size for number in range(4)]
    assert min(pictures) > 10_000
    assert max(pictures) - min(pictures) < 100  # but for dates, the same picture


@pytest.mark.parametrize("wrong", [3, {"epochs": [0]}, [1, 2]])
def test_what_is_no_capacity_history_is_refused(wrong, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(wrong))
    for source in (wrong, path):
        with pytest.raises(ValueError, match=r"history must be a CapacityMonitor.*Received"):
            keras_qat.plot_capacity(source)


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "wrong.json").write_text("epochs")
    with pytest.raises(ValueError, match=r"wrong\.json is not a JSON file"):
        keras_qat.plot_capacity(tmp_path / "wrong.json")
    with pytest.raises(FileNotFoundError):
        keras_qat.plot_capacity(tmp_path / "none.json")


def test_capacity_wants_an_epoch():
    with pytest.raises(ValueError, match="CapacityMonitor is empty"):
        keras_qat.plot_capacity(CapacityMonitor(images(4)))


def test_capacity_without_matplotlib_says_what_to_install(history, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="plot_capacity needs matplotlib: pip install"):
        keras_qat.plot_capacity(history)
