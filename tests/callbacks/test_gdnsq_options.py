"""The options of `GDNSQSchedule`: what is done by hand, and what happens after arrival."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import GDNSQSchedule
from tests.callbacks.test_gdnsq_schedule import BATCHES, EPOCHS, OPTIMIZERS, fit, new_model

pytestmark = pytest.mark.slow_beyond(1)


def trained(qmodel, epochs=EPOCHS, **options):
    """The history of a run with these options of the schedule, and the schedule."""
    schedule = GDNSQSchedule(verbose=0, **options)
    return fit(qmodel, schedule, epochs=epochs), schedule


def test_without_help_nothing_is_narrowed_or_refitted():
    """With Adam the penalty alone brings all widths to their targets, with tiny steps none."""
    helped, _ = trained(new_model())
    assert sum(helped["assisted_widths"]) > 0
    assert max(helped["refit_octaves"]) > 0.0
    qmodel = new_model()
    alone, _ = trained(qmodel, assist=False, refit=False)
    assert set(alone["assisted_widths"]) == {0}
    assert set(alone["refit_octaves"]) == {0.0}
    assert alone["mean_weight_bits"][-1] < alone["mean_weight_bits"][0]
    assert qmodel.meets_targets()
    stuck = new_model(OPTIMIZERS["slow_sgd"]())
    trained(stuck, assist=False)
    assert not stuck.meets_targets()


def test_after_arrival_levels_are_held_or_the_penalty_goes_on():
    held, free = new_model(), new_model()
    trained(held)
    _, schedule = trained(free, after_arrival="penalty")
    for qmodel, holds in ((held, True), (free, False)):
        assert {width.quantizer.holds for width in qmodel.learned_widths} == {holds}
        assert {float(width.quantizer.rate) for width in qmodel.learned_widths} == {1.0}
        assert (float(qmodel.bit_width_penalty.temperature) == 0.0) == holds
    assert schedule.targets_met_at is not None
    assert free.meets_targets()


@pytest.mark.parametrize(("anneal", "last"), [(None, 1e-3), ("cosine", 0.0), ("exponential", None)])
def test_the_rate_falls_as_told(anneal, last):
    qmodel, seen = new_model(), []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(float(qmodel.optimizer.learning_rate))
    )
    schedule = GDNSQSchedule(verbose=0, anneal=anneal)
    fit(qmodel, schedule, record)
    if last is None:
        since = BATCHES - schedule.targets_met_at
        last = 1e-3 * 0.9985 ** (since - 1)
    assert seen[-1] == pytest.approx(last, rel=2e-3, abs=1e-6)  # the last batch still learns


def test_a_start_at_the_target_is_held_from_the_first_batch():
    """No gradual scaling: no width is above its target, and nothing is ever narrowed."""
    config = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2, start_bits=2)
    qmodel = new_model(config=config)
    history, schedule = trained(qmodel, epochs=4)
    assert schedule.targets_met_at == 0
    assert history["max_weight_bits"][0] == 8.0  # the last layer has 8 bits
    assert set(history["assisted_widths"]) == {0}
    assert all(width.quantizer.holds for width in qmodel.learned_widths)


def test_an_exponent_of_two_also_arrives():
    qmodel = new_model()
    trained(qmodel, exponent=2)
    assert float(qmodel.bit_width_penalty.exponent) == 2.0
    assert qmodel.meets_targets()


def test_fewer_levels_are_filled_or_kept():
    """Of a model whose activations arrive with three levels for a target of four."""
    for fewer_levels, levels_of in (("fill", 4.0), ("keep", 3.0)):
        qmodel = new_model()
        widths = [width for width in qmodel.learned_widths if width.layer is None]
        for width in widths:
            if width.target == 2:
                width.quantizer._divide_into(np.log2(3.0))
        trained(qmodel, fewer_levels=fewer_levels, epochs=29)
        found = {float(w.quantizer.levels()) for w in widths if w.target == 2}
        assert found == {levels_of}


@pytest.mark.parametrize(
    ("option", "value"),
    [("anneal", "linear"), ("after_arrival", "stop"), ("exponent", 3), ("fewer_levels", "drop")],
)
def test_an_option_that_is_not_allowed_is_named(option, value):
    with pytest.raises(ValueError, match=f"The {option} must be one of .* Received: {value!r}"):
        GDNSQSchedule(**{option: value})


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            raise KeyboardInterrupt


def test_compile_ends_a_run_that_was_interrupted_in_its_first_epoch():
    qmodel = new_model()
    with pytest.raises(KeyboardInterrupt):
        fit(qmodel, [GDNSQSchedule(verbose=0), Interrupt()])
    assert float(qmodel.bit_width_penalty.mean_loss_count) > 1.0
    qmodel.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    schedule = GDNSQSchedule(verbose=0, anneal=None)
    fit(qmodel, schedule)
    assert qmodel.bit_width_penalty.kept_plan().learning_rate == pytest.approx(2e-3)
    assert float(qmodel.bit_width_penalty.mean_loss_count) == BATCHES + 1.0  # begun anew


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_not_finite_are_named(value):
    qmodel = new_model()
    layer = next(each for each in qmodel.layers if hasattr(each, "layer"))
    kernel = np.array(layer.layer.kernel.numpy())
    kernel.flat[:2] = value
    layer.layer.kernel.assign(kernel)
    with pytest.raises(ValueError, match=rf"Layer '{layer.name}' holds NaN or infinity in 2 of"):
        fit(qmodel, GDNSQSchedule(verbose=0))


def test_a_learning_rate_that_is_not_finite_is_refused():
    qmodel = new_model(keras.optimizers.Adam(float("inf")))
    with pytest.raises(ValueError, match="by a learning rate above 0"):
        fit(qmodel, GDNSQSchedule(verbose=0))
