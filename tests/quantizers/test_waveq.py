"""WaveQ's learned width: forward pass, gradients, what it deploys."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_qat
import tflite_export
from keras_qat.quantized_layers import QuantizedKernel, quantized_kernels
from keras_qat.quantizers import DoReFaQuantizer, WaveQWeightQuantizer
from keras_qat.training.code_regularization import code_regularization
from tests.models import dense_network, points

X, Y = points(256)
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)


def built(bits=4, width=None, **options):
    quantizer = WaveQWeightQuantizer(bits, per_channel=True, **options)
    quantizer.build(KERNEL.shape)
    quantizer.calibrate_weights(KERNEL)
    if width is not None:
        quantizer.width.assign(width)
    return quantizer


@pytest.mark.parametrize("width", [1.0, 1.2, 2.0, 3.99, 4.0, 6.5, 7.0])
def test_the_forward_pass_is_dorefas_at_the_width_rounded_up(width):
    quantizer, bits = built(width=width), int(np.ceil(width))
    dorefa = DoReFaQuantizer(bits, per_channel=True)
    dorefa.build(KERNEL.shape)
    dorefa.calibrate_weights(KERNEL)
    codes = np.asarray(quantizer.codes(KERNEL))
    np.testing.assert_array_equal(codes, dorefa.codes(KERNEL))
    np.testing.assert_allclose(quantizer(KERNEL), dorefa(KERNEL), rtol=1e-6)  # two scales, float32
    np.testing.assert_array_equal(
        quantizer(KERNEL), codes.astype(np.float32) * np.asarray(quantizer.scale)
    )
    assert quantizer.learned_bits(KERNEL) == bits


class Kernel(QuantizedKernel):
    """A kernel alone."""

    def __init__(self, quantizer, values):
        self.quantizer, self.values = quantizer, values

    @property
    def weight_quantizer(self):
        return self.quantizer

    def channels_last_kernel(self):
        return self.values


def expected_loss(kernel, width, strength, price):
    squashed = np.tanh(kernel.astype(np.float64))
    t = squashed / np.abs(squashed).max(axis=(0, 1, 2))
    sine = np.sin(np.pi * (2**width - 1) * (t + 1) / 2) ** 2
    return strength * sine.mean() / 2**width + price * width


def test_the_regularization_and_its_derivative_for_the_width():
    strength, price, width = 0.7, 0.05, 2.6
    quantizer = built(width=width, code_regularization=strength, width_regularization=price)
    with tf.GradientTape() as tape:
        loss = code_regularization(Kernel(quantizer, tf.constant(KERNEL)))
    slope = tape.gradient(loss, quantizer.width.value)
    assert float(loss) == pytest.approx(expected_loss(KERNEL, width, strength, price), rel=1e-4)
    ends = [expected_loss(KERNEL, width + d, strength, price) for d in (-1e-5, 1e-5)]
    assert float(slope) == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-3)


def test_on_the_codes_of_a_whole_width_nothing_but_the_price_is_left():
    dorefa = np.linspace(-1, 1, 8)
    kernel = np.arctanh(0.9 * dorefa).reshape(8, 1).astype(np.float32)
    quantizer = WaveQWeightQuantizer(3, code_regularization=5.0, width_regularization=0.5)
    quantizer.build(kernel.shape)
    quantizer.calibrate_weights(kernel)
    loss = code_regularization(Kernel(quantizer, tf.constant(kernel)))
    assert float(loss) == pytest.approx(0.5 * 3, abs=1e-6)


def test_the_task_loss_moves_no_width():
    quantizer = built()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantizer(tf.constant(KERNEL), training=True) ** 2)
    assert tape.gradient(loss, quantizer.width.value) is None


@pytest.mark.parametrize(("wanted", "stays"), [(-5.0, 1.0), (99.0, 7.0)])
def test_a_width_stays_within_its_bounds(wanted, stays):
    quantizer = built()
    quantizer.width.assign(quantizer.width.constraint(ops.convert_to_tensor(wanted)))
    assert float(quantizer.width) == stays


def test_eight_bits_are_refused_and_say_why():
    with pytest.raises(ValueError, match=r"1 to 7 bits.*do not fit in int8\. Received: 8"):
        WaveQWeightQuantizer(8)


def trained(**options):
    keras.utils.set_random_seed(0)
    config = keras_qat.WaveQConfig(weight_bits=5, **options)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    qmodel.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    qmodel.fit(X, Y, epochs=25, verbose=0)
    return qmodel


def learned(qmodel):
    kernels = [kernel for layer in qmodel.layers for kernel in quantized_kernels(layer)]
    return {
        kernel.name: kernel.weight_quantizer.learned_bits(kernel.channels_last_kernel())
        for kernel in kernels
    }


def test_widths_fall_at_a_price_and_the_file_has_them(tmp_path):
    dear = trained(first_and_last_bits=5, width_regularization=0.2)
    free = trained(width_regularization=0.0)
    bits = learned(dear)
    assert max(bits.values()) < 5
    assert learned(free)["hidden"] > max(bits.values())
    report = tflite_export.export(dear, tmp_path / "model.tflite", samples=X)
    assert report.mismatches == 0
    assert [weight.bits for weight in report.weights] == list(bits.values())


def test_a_saved_model_keeps_its_widths(tmp_path):
    qmodel = trained(first_and_last_bits=5)
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    assert learned(loaded) == learned(qmodel)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), qmodel.predict(X, verbose=0))


def test_its_name_is_a_config():
    assert keras_qat.config.get("waveq") == keras_qat.WaveQConfig()
    with pytest.raises(ValueError, match=r"width_regularization must be a finite number, 0 or"):
        keras_qat.WaveQConfig(width_regularization=-1.0)


def test_layers_of_eight_bits_keep_them():
    qmodel = keras_qat.quantize(dense_network(), "waveq", calibration_data=X)
    assert learned(qmodel) == {"first": 8, "hidden": 7, "last": 8}
