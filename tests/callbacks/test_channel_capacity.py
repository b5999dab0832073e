"""Channels of quantizers against numbers worked out by hand, NumPy and the forward pass."""

import numpy as np
import pytest
from keras import ops

from keras_qat.callbacks.channel_capacity import Measurement, channel_capacity, channel_of
from keras_qat.quantizers import (
    GDNSQActivationQuantizer,
    GDNSQWeightQuantizer,
    Grid,
    LSQWeightQuantizer,
    STEActivationQuantizer,
    STEWeightQuantizer,
)


@pytest.mark.parametrize(
    ("variance", "step", "levels", "bits"),
    [
        (1.0 / 12.0, 1.0, 256, 0.5),  # signal and noise alike: log2(2) / 2
        (63.0 * 0.25 / 12.0, 0.5, 256, 3.0),  # 63 times the noise: log2(64) / 2
        (1.0, 0.1, 256, 5.1150),  # log2(1201) / 2
        (1.0, 0.1, 16, 4.0),  # 16 levels tell no more
        (0.0, 1.0, 256, 0.0),
        (9.0, 1.0, 1, 0.0),  # one level tells nothing
    ],
)
def test_capacity_by_hand(variance, step, levels, bits):
    assert channel_capacity(variance, step, levels) == pytest.approx(bits, abs=5e-5)


@pytest.mark.parametrize("bad", [(-1.0, 1.0, 4), (1.0, 0.0, 4), (1.0, 1.0, 0)])
def test_capacity_of_what_is_no_channel(bad):
    with pytest.raises(ValueError, match="positive step"):
        channel_capacity(*bad)


def built(quantizer, scale, shape=(6,)):
    quantizer.build(shape)
    quantizer.set_scale(scale)
    return quantizer


@pytest.mark.parametrize(
    "quantizer",
    [
        built(STEActivationQuantizer(Grid.for_activations(3, signed=True)), 0.25),
        built(STEWeightQuantizer(Grid.for_weights(1)), 0.5),  # {-1, +1}: a step is two codes
        built(LSQWeightQuantizer(Grid.for_weights(8)), 2.0**-6),
        built(GDNSQActivationQuantizer(3, signed=True), 0.25),
        built(GDNSQActivationQuantizer(3, signed=False), 0.25),
        built(GDNSQActivationQuantizer(3, signed=True, offset="free"), 0.25),
    ],
    ids=lambda q: q.name,
)
def test_a_channel_is_the_grid_of_the_forward_pass(quantizer):
    channel = channel_of(quantizer)
    values = np.unique(ops.convert_to_numpy(quantizer(np.linspace(-9.0, 9.0, 9001))))
    assert channel.levels == len(values)
    assert (channel.low, channel.high) == (values[0], values[-1])
    np.testing.assert_allclose(np.diff(values), channel.step, rtol=1e-5)
    assert channel.bits == quantizer.bits


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("offset", ["snapped", "free"])
def test_a_channel_of_weights_is_the_grid_of_the_forward_pass(bits, offset):
    quantizer = GDNSQWeightQuantizer(bits, per_channel=True, offset=offset)
    kernel = np.linspace([-1.2, 0.1], [1.2, 0.5], 4001, dtype=np.float32)
    quantizer.build(kernel.shape)
    quantizer._logarithms.assign([-2.0, -3.0])
    channel, values = channel_of(quantizer, kernel), ops.convert_to_numpy(quantizer(kernel))
    for index in range(2):
        found = np.unique(values[:, index])
        low, high = channel.low[index], channel.high[index]
        assert channel.levels[index] >= len(found)  # levels down to 0 have no weight here
        assert low - 1e-6 <= found[0]
        assert found[-1] == pytest.approx(high, rel=1e-6)
        np.testing.assert_allclose(np.diff(found), channel.step[index], rtol=1e-3)
    assert values[0, 0] == pytest.approx(channel.low[0])
    np.testing.assert_allclose(channel.bits, ops.convert_to_numpy(quantizer.bit_width(kernel)))


def test_a_channel_of_weights_needs_them():
    with pytest.raises(ValueError, match="pass the kernel"):
        channel_of(built(GDNSQWeightQuantizer(2), 0.5))


def test_held_levels_cut_weights_off():
    quantizer = built(GDNSQWeightQuantizer(1), 0.125)  # half steps of 1/8: steps of 1/4
    kernel = np.float32([-1.0, -0.3, 0.0, 0.2, 0.3, 1.0])
    measured = Measurement(channel_of(quantizer, kernel))
    measured.add(kernel)
    assert measured.record()["saturation"] == 0.0
    quantizer.hold(kernel)
    channel = channel_of(quantizer, kernel)
    measured = Measurement(channel)
    measured.add(kernel)
    assert (channel.low, channel.high, channel.levels) == (-0.125, 0.125, 2)
    assert measured.record()["saturation"] == 4 / 6  # those beyond 0.25


def test_statistics_against_numpy_in_batches_and_channels():
    quantizer = STEWeightQuantizer(Grid.for_weights(2), per_channel=True)
    scale = np.float32([0.3, 0.9, 2.0])
    built(quantizer, scale, (5, 3))
    values = np.random.default_rng(1).normal(1.0, 1.5, size=(40, 5, 3)).astype(np.float32)
    measured = Measurement(channel_of(quantizer))
    for batch in np.split(values, [16, 32]):
        measured.add(batch)
    found = measured.record()
    clipped = np.clip(values.astype(np.float64), -2.0 * scale, scale)
    assert found["saturation"] == np.mean((values < -2.0 * scale) | (values > scale))
    assert 0.2 < found["saturation"] < 0.8
    expected = np.mean(
        np.minimum(0.5 * np.log2(1.0 + 12.0 * clipped.var(axis=(0, 1)) / scale**2), 2.0)
    )
    assert found["bits_per_value"] == pytest.approx(expected, rel=1e-6)
    assert found["step"] == pytest.approx(scale.mean())
    assert (found["low"], found["high"]) == pytest.approx((-2.0 * scale.mean(), scale.mean()))
