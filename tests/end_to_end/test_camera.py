"""From bytes of a camera to a file that reads them: samples of every form, inputs in uint8."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
import tflite_export

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

layers = keras.layers

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 6, 6, 3), dtype=np.uint8)
PIXELS[0, 0, 0, :2] = 0, 255
LABELS = np.arange(64) % 4


class Frames(keras.utils.PyDataset):
    """Four batches with their labels."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        part = slice(16 * index, 16 * (index + 1))
        return PIXELS[part], LABELS[part]


FORMS = {
    "labels": lambda: (PIXELS, LABELS),
    "dict": lambda: ({"image": PIXELS}, LABELS),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices((PIXELS, LABELS)).batch(24),
    "py_dataset": lambda: Frames(),
    "generator": lambda: ((PIXELS[i : i + 32], LABELS[i : i + 32]) for i in (0, 32)),
}


@pytest.fixture(scope="module")
def qmodel():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, layers.Dense(4, name="scores")(layers.Flatten()(x)))
    found = keras_qat.quantize(model, calibration_data=(PIXELS, LABELS))
    found.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return found


def raw_answers(path, frames):
    """What LiteRT answers to the very bytes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    run = interpreter.get_signature_runner()
    return np.concatenate([run(image=frame[None])["scores"] for frame in frames])


def test_bytes_of_a_camera_are_the_input(qmodel, tmp_path):
    path = tmp_path / "camera.tflite"
    dtypes = {"image": "uint8", "scores": "float32"}
    report = tflite_export.export(
        qmodel, path, io_dtype=dtypes, samples=(PIXELS, LABELS), verbose=False
    )
    assert report.mismatches == 0
    answers = raw_answers(path, PIXELS)
    np.testing.assert_array_equal(answers, tflite_export.predict(path, PIXELS))
    np.testing.assert_array_equal(answers, qmodel.predict(PIXELS, verbose=0))


@pytest.mark.parametrize("form", FORMS)
def test_samples_of_every_form_are_the_same_samples(qmodel, form, tmp_path):
    report = tflite_export.export(
        qmodel, tmp_path / "m.tflite", samples=FORMS[form](), verbose=False
    )
    assert [each.samples for each in report.verifications] == [64, 64]
    expected = np.mean(qmodel.predict(PIXELS, verbose=0).argmax(axis=-1) == LABELS)
    assert report.worth.of_trained == expected


def test_batches_of_unlike_shapes_are_refused(qmodel, tmp_path):
    batches = (PIXELS[:2, :size] for size in (6, 5))
    with pytest.raises(ValueError, match="for the input 'image' have unlike shapes"):
        tflite_export.export(qmodel, tmp_path / "m.tflite", samples=batches, verbose=False)


def test_no_batches_are_refused(qmodel, tmp_path):
    with pytest.raises(ValueError, match=r"samples holds no samples. Received: list_iterator"):
        tflite_export.export(qmodel, tmp_path / "m.tflite", samples=iter([]), verbose=False)
