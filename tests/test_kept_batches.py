"""What calibration keeps of data in batches: the same numbers, in memory that does not grow."""

import errno
import tracemalloc
import weakref

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat import kept_batches
from keras_qat.input_batches import CalibrationData
from keras_qat.kept_batches import KeptBatches
from tests.models import images, randomize

layers = keras.layers

LIMIT = 2**18
SIZES = (64, 64, 3)


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch):
    monkeypatch.setattr(kept_batches, "IN_MEMORY", LIMIT)


def network():
    inputs = keras.Input(SIZES, name="image")
    x = layers.Conv2D(4, 3, strides=4, activation="relu", name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="second")(x))
    return randomize(
        keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))
    )


def made(count, living=None, dtype=np.float32):
    """Batches of 4 images, 192 KiB each in float32, and references that tell which still live."""
    for number in range(count):
        batch = np.random.default_rng(number).normal(0, 50, (4, *SIZES)).astype(dtype)
        if living is not None:
            living.append(weakref.ref(batch))
        yield batch
        del batch


@pytest.mark.parametrize("in_memory", [1, 100, 10**9])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.bool_])
def test_batches_come_back_as_they_were_as_often_as_they_are_asked_for(in_memory, dtype):
    numbers = np.random.default_rng(0)
    batches = [
        [numbers.integers(0, 200, (size, 3)).astype(dtype), np.asfortranarray(np.ones((size, 2)))]
        for size in (1, 5, 2)
    ]
    kept = KeptBatches(iter(batches), in_memory)
    assert len(kept) == 3
    early = iter(kept)
    next(early)
    for _ in range(2):  # also while another reader is half way
        for found, given in zip(kept, batches, strict=True):
            for pair in zip(found, given, strict=True):
                np.testing.assert_array_equal(*pair)
                assert pair[0].dtype == pair[1].dtype
    np.testing.assert_array_equal(next(early)[0], batches[1][0])


def test_quantize_keeps_no_batch_of_a_generator():
    living = []
    kept_at_once = []

    def watched():
        for batch in made(12, living):
            kept_at_once.append(sum(ref() is not None for ref in living))
            yield batch

    assert keras_qat.quantize(network(), calibration_data=watched(), calibration_batches=12)
    assert len(living) == 12
    assert max(kept_at_once) <= 2, "the batch that is read, and the one before"


def peak_of_quantize(count):
    model, data = network(), made(count)
    tracemalloc.start()
    try:
        keras_qat.quantize(model, "ste", calibration_data=data, calibration_batches=count)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("nothing_is_compiled")
def test_the_memory_of_quantize_does_not_grow_with_the_number_of_batches():
    peak_of_quantize(4)  # what is made once
    few, many = peak_of_quantize(4), peak_of_quantize(40)
    assert many - few < 2 * LIMIT, (few, many)  # 36 more batches are 6.75 MiB


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
def test_grids_are_the_same_bit_by_bit_however_the_samples_come(dtype):
    model = network()
    x = images(160, SIZES).astype(dtype)
    batches = (x[start : start + 64] for start in range(0, len(x), 64))
    expected = keras_qat.quantize(model, calibration_data=x)
    actual = keras_qat.quantize(model, calibration_data=batches)
    for found, wanted in zip(actual.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(found, wanted, err_msg=wanted.path)


def test_of_data_in_arrays_nothing_is_copied():
    x = np.arange(10**6, dtype=np.uint8).reshape(1000, 1000)
    model = keras.Sequential([keras.Input((1000,)), layers.Dense(1)])
    tracemalloc.start()
    try:
        data = CalibrationData(model, x)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes, "one batch of 64 in float32"
    finally:
        tracemalloc.stop()
    assert sum(len(batch[0]) for batch in data) == 1000
    assert {array.dtype for batch in data for array in batch} == {np.dtype("float32")}
    floats = x.astype(np.float32)
    assert all(np.shares_memory(array, floats) for (array,) in CalibrationData(model, floats))


def test_types_that_no_file_states_are_kept_as_float32():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    x = np.float32([[1.5, -2.0]])
    for given in (x.astype(object), x.astype("float64"), keras.ops.cast(x, "bfloat16")):
        data = CalibrationData(model, iter([given]))
        assert isinstance(data._batches, KeptBatches)
        np.testing.assert_array_equal(next(iter(data))[0], x)
        assert list(data.signed_inputs().values()) == [True]


def test_a_full_disk_says_what_to_do(monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with pytest.raises(OSError, match=r"fill the folder of temporary files.*calibration_batches=n"):
        keras_qat.quantize(model, calibration_data=iter([np.ones((1, 2))]))
