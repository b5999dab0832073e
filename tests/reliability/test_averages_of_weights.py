"""Averages of weights: what an optimizer remembers follows grids that are changed by hand."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import GDNSQSchedule
from keras_qat.keras_optimizer_slots import rescale_memory, restart_averages
from keras_qat.training.changes_by_hand import followed_by
from tests.models import dense_network, points

optimizers = keras.optimizers
BY_GRADIENTS = {
    "SGD": lambda: optimizers.SGD(0.1, momentum=0.9),
    "RMSprop": lambda: optimizers.RMSprop(0.1, momentum=0.5, centered=True, epsilon=0.0),
    "Adam": lambda: optimizers.Adam(0.1, amsgrad=True),
    "AdamW": lambda: optimizers.AdamW(0.1, gradient_accumulation_steps=2),
    "Nadam": lambda: optimizers.Nadam(0.1),
    "Adamax": lambda: optimizers.Adamax(0.1),
    "Adagrad": lambda: optimizers.Adagrad(0.1, initial_accumulator_value=0.0),
    "Adafactor": lambda: optimizers.Adafactor(0.1, epsilon_1=0.0),
    "Lion": lambda: optimizers.Lion(0.1),
    "Lamb": lambda: optimizers.Lamb(0.1),
    "Muon": lambda: optimizers.Muon(0.1),
    "RAdam": lambda: keras_qat.optimizers.RAdam(0.1),
    "scaled": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.1), initial_scale=1.0),
}
GRADIENTS = np.float32([[0.5, -1.0], [0.25, 2.0], [-3.0, 1.0]])


def remembered(optimizer):
    """What it remembers of variables, by name, without its counters and its learning rate."""
    return {each.path.rsplit("/", 1)[1]: each for each in optimizer.variables if each.shape == (2,)}


def trained(make, unit):
    """The optimizer of a variable in a unit, after a few gradients."""
    optimizer, variable = make(), keras.Variable([1.0, 2.0], name="logs")
    variable.assign(np.float32([1.0, 2.0]) / unit)
    for gradient in GRADIENTS:
        optimizer.apply([keras.ops.convert_to_tensor(gradient * unit)], [variable])
    return optimizer, variable


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="eager steps of any optimizer")
@pytest.mark.parametrize("name", BY_GRADIENTS)
def test_memory_of_gradients_in_a_new_unit_is_that_of_this_unit(name):
    (one, _), (eighth, variable) = (trained(BY_GRADIENTS[name], unit) for unit in (1.0, 8.0))
    variable.assign(8.0 * np.asarray(variable))
    rescale_memory(eighth, variable, 8.0)
    expected, found = remembered(one), remembered(eighth)
    assert expected
    assert found.keys() == expected.keys()
    for key, then in expected.items():
        np.testing.assert_allclose(found[key], then, rtol=1e-4, atol=1e-9, err_msg=key)


def test_averages_take_the_new_unit_and_start_anew_on_demand():
    optimizer, variable = trained(lambda: optimizers.SGD(0.0, use_ema=True), 8.0)
    rescale_memory(optimizer, variable, 8.0)
    (average,) = remembered(optimizer).values()
    np.testing.assert_array_equal(average, [1.0, 2.0])
    restart_averages(optimizer, variable)
    np.testing.assert_array_equal(average, [0.125, 0.25])
    restart_averages(optimizer, keras.Variable([5.0, 5.0]))  # which it does not train
    np.testing.assert_array_equal(average, [0.125, 0.25])


X, Y = points(64)
CONFIG = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2, start_bits=8)
AVERAGE = {"use_ema": True, "ema_momentum": 0.99}


def compiled(model):
    model.compile(
        optimizers.Adam(5e-3, **AVERAGE), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


class StepsOfAverages(keras.callbacks.Callback):
    """How far the averaged steps are from the trained ones, in octaves, after each epoch."""

    def __init__(self):
        super().__init__()
        self.octaves = []

    def on_epoch_end(self, epoch, logs=None):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        optimizer = self.model.optimizer
        averages = {
            id(each): average
            for each, average in zip(
                optimizer._trainable_variables,
                optimizer._model_variables_moving_average,
                strict=True,
            )
        }
        logarithms = [width.quantizer._logarithms for width in self.model.learned_widths]
        rates = [float(width.quantizer.rate.value) for width in self.model.learned_widths]
        self.octaves.append(
            max(
                float(np.max(np.abs(np.asarray(each) - np.asarray(averages[id(each)])))) * rate
                for each, rate in zip(logarithms, rates, strict=True)
            )
        )


@pytest.mark.slow_beyond(4)
def test_a_model_of_averages_is_on_the_grids_that_are_held():
    keras.utils.set_random_seed(0)
    float_model = compiled(dense_network())
    schedule, steps = GDNSQSchedule(verbose=0, anneal=None), StepsOfAverages()

    def accuracies(model, epochs, *callbacks):
        """The accuracy that the last epoch logs for the averages, and the accuracy that is left."""
        swap = keras.callbacks.SwapEMAWeights()
        data = {"x": X, "y": Y, "validation_data": (X, Y), "batch_size": 4, "verbose": 0}
        history = model.fit(**data, epochs=epochs, callbacks=[*callbacks, swap]).history
        return history["val_accuracy"][-1], model.evaluate(X, Y, verbose=0)[1]

    logged, left = accuracies(float_model, 20)
    assert left == pytest.approx(logged)
    qmodel = compiled(keras_qat.quantize(float_model, CONFIG, calibration_data=X))
    logged, left = accuracies(qmodel, 22, schedule, steps)
    arrived = schedule.targets_met_at // 16 + 1
    assert arrived < 18
    assert max(steps.octaves[arrived:]) < 0.5, steps.octaves
    assert left == pytest.approx(logged)
    assert left > 0.85


def test_ranges_that_are_widened_by_hand_widen_their_averages():
    qmodel = compiled(keras_qat.quantize(dense_network(), CONFIG, calibration_data=X))
    qmodel.optimizer.build(qmodel.trainable_variables)
    quantizer = next(each.quantizer for each in qmodel.learned_widths if each.layer is None)
    (average,) = [
        average
        for each, average in zip(
            qmodel.optimizer._trainable_variables,
            qmodel.optimizer._model_variables_moving_average,
            strict=True,
        )
        if each is quantizer._logarithms
    ]
    with followed_by(qmodel.optimizer, [quantizer]):
        quantizer.widen(4.0)
    np.testing.assert_array_equal(average, quantizer._logarithms)
