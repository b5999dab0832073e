"""Learned bit widths, from a float model to a proven file."""

import os

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.callbacks import GDNSQSchedule
from keras_qat.errors import LoweringError
from keras_qat.integer import ops
from tests.models import depthwise_network, images, residual_network

pytestmark = pytest.mark.slow_beyond(1)

X, SMALL = images(48), images(64, (8, 8, 3))
WIDTHS = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (8, 8)]
# Keras' float32 sums against exact ones: values within about 1e-6 steps of a tie.
LARGEST_FLIP_RATE = 1e-4


def residual(weight_bits, activation_bits):
    config = keras_qat.GDNSQConfig(weight_bits=weight_bits, activation_bits=activation_bits)
    return keras_qat.quantize(residual_network(), config, calibration_data=X)


def two_bits_everywhere(**options):
    bits = {"weight_bits": 2, "activation_bits": 2, "first_and_last_bits": 2}
    config = keras_qat.GDNSQConfig(**bits, **options)
    return keras_qat.quantize(depthwise_network(), config, calibration_data=SMALL)


def narrow(qmodel, bits=None):
    for width in qmodel.learned_widths:
        width.narrow(bits)


def as_after_training(qmodel):
    """Targets met and held, steps and ranges at no round number."""
    narrow(qmodel)
    rng = np.random.default_rng(0)
    for width in qmodel.learned_widths:
        width.hold()
        for variable in width.quantizer.trainable_variables:
            reach = 0.1 if variable.name == "offset" else 0.3
            variable.assign(variable + rng.uniform(-reach, reach, variable.shape))
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))


@pytest.fixture(scope="module", params=WIDTHS, ids=lambda bits: f"w{bits[0]}a{bits[1]}")
def case(request):
    keras.utils.set_random_seed(0)
    qmodel = residual(*request.param)
    assert not qmodel.meets_targets()
    as_after_training(qmodel)
    assert qmodel.meets_targets()
    return request.param, qmodel


def most_levels(op):
    """Different integers in the channel that has the most."""
    channels = np.moveaxis(op.weight.values, op.channel_axis, 0)
    return max(len(np.unique(channel)) for channel in channels)


def check_levels(graph, report, weight_bits, activation_bits):
    """The file has no more levels than the targets allow: 8 bits for the ends and for an Add."""
    found = [op for op in graph.ops if isinstance(op, ops.LinearOp)]
    assert len(found) == len(report.weights) == 5
    for op, line in zip(found, report.weights, strict=True):
        bits = 8 if op.output.split("/")[0] in ("stem_relu", "head_linear") else weight_bits
        assert most_levels(op) <= 2**bits
        assert line.bits == op.weight_bits <= bits
    for name in ("separable_depthwise", "separable_relu6"):
        assert graph.tensors[name].qparams.levels <= 2**activation_bits
    assert all(tensor.qparams.levels <= 256 for tensor in graph.tensors.values())


def test_the_file_computes_the_learned_integers(case, tmp_path):
    bits, qmodel = case
    report = tflite_export.export(qmodel, tmp_path / "model.tflite", samples=X, verbose=False)
    assert [result.runtime for result in report.verifications] == [
        "LiteRT reference kernels",
        "LiteRT default (XNNPACK)",
    ]
    assert report.mismatches == 0
    assert report.compared_elements > 300_000
    assert report.comparison.flip_rate < LARGEST_FLIP_RATE
    assert report.comparison.argmax_agreement == 1.0
    check_levels(qmodel.to_integer(), report, *bits)


@pytest.fixture(scope="module")
def trained():
    """Brought to 2 bits by `fit`, from 8: 200 batches."""
    keras.utils.set_random_seed(0)
    qmodel = two_bits_everywhere(start_bits=8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(keras.optimizers.Adam(2e-3), loss)
    schedule = GDNSQSchedule(arrive_by=0.8, verbose=0)
    labels = np.arange(len(SMALL)) % 5
    qmodel.fit(SMALL, labels, batch_size=16, epochs=50, verbose=0, callbacks=[schedule])
    assert schedule.targets_met_at is not None
    return qmodel


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_what_fit_brought_to_its_targets_is_proven(trained, target, tmp_path):
    path = tmp_path / "model.tflite"
    assert trained.meets_targets()
    report = tflite_export.export(trained, path, target=target, samples=SMALL, verbose=False)
    assert report.mismatches == 0
    for op in trained.to_integer().ops:
        assert not isinstance(op, ops.LinearOp) or most_levels(op) <= 4
    if target == "litert":
        assert report.comparison.flip_rate < LARGEST_FLIP_RATE
        assert report.comparison.argmax_agreement == 1.0
        outputs = trained.predict(SMALL, verbose=0)
        np.testing.assert_array_equal(tflite_export.predict(path, SMALL), outputs)
        assert len(np.unique(outputs)) <= 4


@pytest.mark.slow
def test_a_saved_model_exports_the_same_bytes(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    assert loaded.meets_targets()
    paths = [tmp_path / "before.tflite", tmp_path / "after.tflite"]
    for qmodel, path in zip((trained, loaded), paths, strict=True):
        tflite_export.export(qmodel.to_integer(), path, verify=False, verbose=False)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def assert_refused(qmodel, folder, match):
    with pytest.raises(LoweringError, match=match):
        tflite_export.export(qmodel, folder / "model.tflite", verbose=False)
    assert os.listdir(folder) == []


def test_a_free_offset_is_refused_with_what_to_do(tmp_path):
    qmodel = two_bits_everywhere(offset="free")
    narrow(qmodel)
    assert qmodel.meets_targets()
    assert_refused(qmodel, tmp_path, r"'conv' has a free offset.*Train with offset=\"snapped\"")


def test_widths_that_int8_does_not_hold_are_refused_with_what_to_do(tmp_path):
    qmodel = two_bits_everywhere()
    learned = r"learned 102\d levels \(10\.0 bits\).*target is 2 bits: train on with .*Schedule"
    assert_refused(qmodel, tmp_path, f"layer 'conv' have {learned}")
    *activations, last = [width for width in qmodel.learned_widths if width.layer is None]
    for width in qmodel.learned_widths:
        if width.layer is not None:
            width.narrow()
    assert_refused(qmodel, tmp_path, f"'conv_relu_quantizer' has {learned}")
    for width in activations:
        width.narrow()
    assert_refused(qmodel, tmp_path, f"'{last.name}' has {learned}")


def test_widths_above_target_that_int8_holds_are_exported_as_what_they_are(tmp_path):
    qmodel = two_bits_everywhere()
    narrow(qmodel, bits=5)
    assert not qmodel.meets_targets()
    report = tflite_export.export(qmodel, tmp_path / "model.tflite", samples=SMALL, verbose=False)
    assert report.mismatches == 0
    assert report.comparison.flip_rate < LARGEST_FLIP_RATE
    assert [weights.bits for weights in report.weights] == [5, 5, 5]
