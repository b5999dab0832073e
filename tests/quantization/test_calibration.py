"""Starting scales from data."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
from keras_qat.input_batches import CalibrationData
from keras_qat.quantization import calibration
from keras_qat.quantization.calibration import activation_ranges
from keras_qat.quantizers import Grid
from keras_qat.quantizers.initial_scale import (
    Histogram,
    least_error_scale,
    least_error_weight_scale,
    range_scale,
)

pytestmark = pytest.mark.slow_beyond(1)

layers = keras.layers

GRIDS = {
    **{f"weights_{bits}": Grid.for_weights(bits) for bits in range(1, 9)},
    **{f"signed_{bits}": Grid.for_activations(bits, True) for bits in range(1, 9)},
    **{f"unsigned_{bits}": Grid.for_activations(bits, False) for bits in range(1, 9)},
}


def one_input():
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, layers.Dense(3, name="dense")(inputs))


def two_inputs():
    right, left = keras.Input((4,), name="right"), keras.Input((2,), name="left")
    return keras.Model([right, left], [layers.Dense(3)(right), layers.Dense(3)(left)])


def histogram_of(values, bins=2048):
    counts, edges = np.histogram(values, bins=bins)
    return Histogram((edges[:-1] + edges[1:]) / 2, counts, float(values.min()), float(values.max()))


def squared_error(values, scale, grid):
    position = (np.clip(values / scale, grid.qmin, grid.qmax) - grid.qmin) / grid.step
    rounded = (np.rint(position) * grid.step + grid.qmin) * scale
    return float(np.mean((rounded - values) ** 2))


def activation_histograms(model, tensors, data):
    ranges = activation_ranges(model, tensors, data)
    return calibration.activation_histograms(model, tensors, ranges, data)


def samples_of(data):
    return [np.concatenate(parts) for parts in zip(*data, strict=True)]


class Batches(keras.utils.PyDataset):
    """Batches of 40 by their index; endless if there are no arrays."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    @property
    def num_batches(self):
        return -(-len(self.arrays[0]) // 40) if self.arrays else None

    def __getitem__(self, index):
        parts = tuple(array[40 * index : 40 * (index + 1)] for array in self.arrays)
        return parts if len(parts) > 1 else parts[0]


X = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
WAYS = {
    "array": lambda: X,
    "tensor": lambda: tf.constant(X),
    "list": lambda: [X],
    "list_of_samples": lambda: list(X),
    "samples_and_labels": lambda: (X, X[:, 0]),
    "samples_labels_and_weights": lambda: ({"x": X}, X[:, 0], X[:, 1]),
    "py_dataset": lambda: Batches(X),
    "py_dataset_with_labels": lambda: Batches(X, X[:, 0]),
    "dict": lambda: {"x": X},
    "generator": lambda: (X[i : i + 30] for i in range(0, 150, 30)),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(X).batch(40),
    "dataset_with_labels": lambda: tf.data.Dataset.from_tensor_slices((X, X[:, 0])).batch(40),
    "dataset_of_dicts": lambda: tf.data.Dataset.from_tensor_slices({"x": X}).batch(40),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_give_samples_gives_the_same_samples(way):
    (samples,) = samples_of(CalibrationData(one_input(), WAYS[way]()))
    np.testing.assert_array_equal(samples, X)


@pytest.mark.parametrize(
    "way", ["list", "dict", "batches", "tuple", "labelled tuple", "labelled dict", "dataset"]
)
def test_several_inputs(way):
    model, left = two_inputs(), X[:, :2] - 10.0
    data = {
        "list": [X, left],
        "dict": {"left": left, "right": X},
        "tuple": (X, left),
        "labelled tuple": ((X, left), X[:, 0]),
        "labelled dict": ({"left": left, "right": X}, X[:, 0]),
        "dataset": tf.data.Dataset.from_tensor_slices(((X, left), X[:, 0])).batch(40),
        "batches": ({"left": left[i : i + 50], "right": X[i : i + 50]} for i in (0, 50, 100)),
    }
    found = samples_of(CalibrationData(model, data[way]))
    np.testing.assert_array_equal(found[0], X)
    np.testing.assert_array_equal(found[1], left)


def test_signs_are_those_of_all_samples():
    left = np.abs(X[:, :2])
    left[-1, -1] = -1e-6
    data = CalibrationData(two_inputs(), [np.abs(X), left])
    assert data.signed_inputs() == {"right": False, "left": True}


WRONG = {
    "nothing": (None, "needs calibration_data"),
    "no samples": (X[:0], "holds no samples"),
    "no batches": (iter([]), "holds no samples"),
    "an empty batch": (iter([X[:0]]), "must have shape"),
    "another rank": (X[:, :, None], r"input 'x' must have shape \(None, 4\). Received: \(64, 4, 1"),
    "another size": (X[:, :3], r"must have shape \(None, 4\). Received: \(64, 3\)"),
    "NaN": (np.where(X > 2, np.nan, X), "'x' holds NaN or infinity"),
    "infinity": (np.where(X > 2, np.inf, X), "'x' holds NaN or infinity"),
    "beyond float32": (X.astype(np.float64) * 1e300, "'x' holds NaN or infinity"),
    "another name": ({"y": X}, r"inputs are \['x'\]. Received: \['y'\]"),
    "two arrays in a list": ([X, X], r"has 1 inputs: \['x'\].*for 2. Pass a list in the order"),
    "a list of samples of unlike sizes": ([*X, X[0, :2]], "samples stacked into one array"),
    "labels without samples": ((None, X[:, 0]), r"Received: calibration_data=\(None, labels\)"),
    "words": (np.array([["a"] * 4]), "must be numbers. Received: <U1"),
    "complex numbers": (X + 1j, "must be numbers. Received: complex"),
    "a number": (3.0, "Received: float"),
    "an array of one number": (np.float32(3.0), r"must have shape \(None, 4\). Received: \(\)"),
    "a word": ("x.npy", "Received: str"),
    "nothing in a list": ([None], r"must have shape \(None, 4\). Received: \(\)"),
    "an empty list": ([], "has 1 inputs.*for 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_data_that_does_not_fit_is_refused(name):
    data, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        CalibrationData(one_input(), data)


def test_inputs_of_different_counts_are_refused():
    with pytest.raises(ValueError, match=r"\['right', 'left'\] need equally many samples"):
        CalibrationData(two_inputs(), [X[:20], X[:10, :2]])


@pytest.mark.parametrize("name", GRIDS)
def test_the_least_error_beats_the_full_range(name):
    grid = GRIDS[name]
    values = np.random.default_rng(0).laplace(size=20_000)
    values = values if grid.qmin < 0 else np.abs(values)
    histogram = histogram_of(values)
    best = squared_error(values, least_error_scale(histogram, grid), grid)
    full = squared_error(values, range_scale(histogram, grid), grid)
    assert best < full


@pytest.mark.parametrize("name", GRIDS)
def test_the_least_error_scale_is_near_the_true_optimum(name):
    grid = GRIDS[name]
    values = np.random.default_rng(1).normal(size=5_000)
    values = values if grid.qmin < 0 else np.abs(values)
    found = squared_error(values, least_error_scale(histogram_of(values), grid), grid)
    full = float(range_scale(histogram_of(values), grid))
    best = min(squared_error(values, full * f, grid) for f in np.linspace(0.005, 1.0, 800))
    # The candidates are 1 % of the full range apart, and a histogram stands for the values.
    assert found <= 1.02 * best


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", [name for name in GRIDS if name.startswith("weights")])
def test_weight_scales_beat_the_full_range(name, per_channel):
    grid = GRIDS[name]
    rng = np.random.default_rng(0)
    kernel = (rng.laplace(size=(3, 3, 16, 5)) * 10.0 ** np.arange(-2, 3)).astype(np.float32)
    found = least_error_weight_scale(kernel, grid, per_channel)
    assert found.shape == ((5,) if per_channel else ())
    assert found.dtype == np.float32
    for channel, best in enumerate(np.broadcast_to(found, (5,))):
        values = kernel[..., channel] if per_channel else kernel
        full = np.float32(max(values.max() / grid.qmax, values.min() / grid.qmin))
        found_error, full_error = (squared_error(values, s, grid) for s in (best, full))
        assert found_error < full_error or (grid.bits > 4 and found_error == full_error)


def test_one_bit_weights_start_at_their_mean_magnitude():
    """The closed form of the least error for {-s, +s}; candidates are 1 % of the maximum apart."""
    kernel = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    found = least_error_weight_scale(kernel, Grid.for_weights(1), True)
    np.testing.assert_allclose(
        found, np.abs(kernel).mean(axis=0), atol=0.006 * np.abs(kernel).max()
    )


@pytest.mark.parametrize("name", GRIDS)
def test_what_is_all_zero_gets_a_positive_scale(name):
    grid = GRIDS[name]
    zeros = histogram_of(np.zeros(10))
    assert least_error_scale(zeros, grid) > 0
    assert range_scale(zeros, grid) == 1.0
    kernel = np.stack([np.zeros(6), np.ones(6)], axis=-1)
    scale = least_error_weight_scale(kernel, grid, True) if grid.qmin < 0 else np.ones(2)
    assert np.all(np.isfinite(scale) & (scale > 0))


@pytest.mark.parametrize("value", [3.0, -3.0])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_constant_is_represented(bits, value):
    model = one_input()
    model.get_layer("dense").set_weights([np.zeros((4, 3)), np.full(3, value)])
    (histogram,) = activation_histograms(model, model.outputs, CalibrationData(model, X))
    assert (histogram.low, histogram.high) == (value, value)
    grid = Grid.for_activations(bits, signed=value < 0)
    scale = least_error_scale(histogram, grid)
    # Half a step of the grid, or of the histogram's bins.
    assert squared_error(np.array([value]), scale, grid) <= (0.5 * scale) ** 2


def test_images_of_bytes_are_on_a_grid_of_step_one():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 4)).astype(np.uint8)
    pixels[0, :2] = 0, 255
    model = one_input()
    data = CalibrationData(model, pixels)
    (histogram,) = activation_histograms(model, model.inputs, data)
    grid = Grid.for_activations(8, signed=data.signed_inputs()["x"])
    assert range_scale(histogram, grid) == np.float32(1.0)


def test_a_signed_range_reaches_both_ends():
    histogram = Histogram(None, None, -2.0, 1.0)
    grid = Grid.for_activations(8, signed=True)
    assert range_scale(histogram, grid) == np.float32(2.0 / 128)
    assert range_scale(Histogram(None, None, -1.0, 2.0), grid) == np.float32(2.0 / 127)


def test_histograms_count_every_value_in_its_exact_range():
    model = one_input()
    tensors = [*model.inputs, *model.outputs]
    first, second = activation_histograms(model, tensors, CalibrationData(model, X))
    outputs = model(X).numpy()
    for histogram, values in ((first, X), (second, outputs)):
        assert (histogram.low, histogram.high) == (values.min(), values.max())
        assert histogram.counts.sum() == values.size
        # Each value is counted within half a bin of itself.
        width = (histogram.high - histogram.low) / 2048
        mean = histogram.counts @ histogram.centers / values.size
        assert abs(mean - values.mean()) < 0.5 * width


def test_two_passes_hold_one_batch_at_a_time(monkeypatch):
    seen = []
    original = calibration._values_of

    def watched(*arguments):
        for values in original(*arguments):
            seen.append(len(values[0]))
            yield values

    monkeypatch.setattr(calibration, "_values_of", watched)
    model = one_input()
    activation_histograms(model, model.outputs, CalibrationData(model, X))
    assert seen == 2 * [64, 64, 22]


def test_the_batch_size_does_not_matter():
    model = one_input()
    one_by_one = CalibrationData(model, tf.data.Dataset.from_tensor_slices(X).batch(1))
    (small,) = activation_histograms(model, model.inputs, one_by_one)
    (large,) = activation_histograms(model, model.inputs, CalibrationData(model, iter([X])))
    np.testing.assert_array_equal(small.counts, large.counts)
    assert (small.low, small.high) == (large.low, large.high)


def test_values_that_are_not_finite_inside_the_network_name_the_layer():
    model = one_input()
    model.get_layer("dense").set_weights([np.ones((4, 3)), np.array([0.0, np.inf, 0.0])])
    with pytest.raises(ValueError, match="'dense' yields values that are not finite"):
        activation_histograms(model, model.outputs, CalibrationData(model, X))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="The weights hold NaN or infinity"):
        least_error_weight_scale(np.array([[1.0, value]]), Grid.for_weights(4), True)


def test_an_endless_dataset_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    dataset = tf.data.Dataset.from_tensor_slices(np.ones((8, 2), np.float32)).batch(4)
    assert len(list(CalibrationData(model, dataset))) == 2
    with pytest.raises(ValueError, match=r"repeats without end.*dataset.take\(8\)"):
        CalibrationData(model, dataset.repeat())
    assert len(list(CalibrationData(model, dataset.repeat().take(8)))) == 8
    with pytest.raises(ValueError, match=r"\(sequence\[index\] for index in range\(8\)\)"):
        CalibrationData(model, Batches())
    sequence = Batches(np.ones((320, 2), np.float32))
    assert len(list(CalibrationData(model, (sequence[index] for index in range(8))))) == 8


def test_the_ranges_are_those_of_all_batches():
    model = keras.Sequential([keras.Input((2,)), layers.Rescaling(-2.0, name="twice")])
    batches = [np.float32([[1, 2]]), np.float32([[-3, 0.5]])]
    data = CalibrationData(model, iter(batches))
    assert activation_ranges(model, [model.get_layer("twice").output], data).tolist() == [[-4, 6]]


def _endless():
    while True:
        yield np.ones((4, 2), np.float32)


def _small():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def test_data_that_does_not_tell_its_length_ends_after_100_batches_with_a_warning():
    with pytest.warns(UserWarning, match=r"did not end within 100 batches.*calibration_batches=n"):
        keras_qat.quantize(_small(), calibration_data=_endless())
    spec = tf.TensorSpec((4, 2))
    dataset = tf.data.Dataset.from_generator(_endless, output_signature=spec)
    with pytest.warns(UserWarning, match="did not end within 100 batches"):
        assert len(list(CalibrationData(_small(), dataset))) == 100
    exactly = itertools.islice(_endless(), 100)
    assert keras_qat.quantize(_small(), calibration_data=exactly)


def test_a_number_of_batches_may_be_given():
    taken = []

    def batches():
        for batch in _endless():
            taken.append(batch)
            yield batch

    keras_qat.quantize(_small(), calibration_data=batches(), calibration_batches=120)
    assert len(taken) == 120
    dataset = tf.data.Dataset.from_tensors(np.ones((4, 2), np.float32)).repeat()
    keras_qat.plan(_small(), calibration_data=dataset, calibration_batches=2)


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (_endless(), 0, "calibration_batches must be a whole number from 1 on"),
        (_endless(), 1.5, "calibration_batches must be a whole number from 1 on"),
        (np.ones((4, 2)), 3, "counts batches of a dataset or a generator. Received: ndarray"),
    ],
)
def test_batches_that_cannot_be_counted_are_refused(data, count, message):
    with pytest.raises(ValueError, match=message):
        keras_qat.quantize(_small(), calibration_data=data, calibration_batches=count)
