"""Schedules: sections `sched` and `pege/sched` of the golden vectors, and laws over all."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_qat import schedules
from keras_qat.schedules import (
    AnnealingState,
    Constant,
    Cosine,
    Exponential,
    Linear,
    Logarithmic,
    Piecewise,
    TemperatureAnnealing,
)
from tests.golden_vectors import Case, cases

RAMPS = [Linear, Cosine, Logarithmic, Exponential]
EXAMPLES = [
    Constant(2.0),
    Linear(8.0, 2.0, 100),
    Cosine(1.0, 0.0, 100),
    Logarithmic(0.0, 1.0, 100, kappa=3.0),
    Exponential(0.0, 1.0, 100, kappa=99.0),
    Piecewise((10, 30), (0.0, Linear(0.0, 1.0, 20), Constant(0.1))),
    TemperatureAnnealing(0.01, warmup=7, anneal=0.99),
]
numbers = st.floats(-100, 100)
every_ramp = pytest.mark.parametrize("ramp", RAMPS)
every_example = pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda s: type(s).__name__)


@pytest.mark.parametrize("name", cases("sched"))
def test_sched(name):
    case = Case("sched", name)
    schedule = TemperatureAnnealing(
        float(case["lr0"]),
        warmup=int(case["warmup"]),
        anneal=float(case["scale_anneal"]),
        decay=float(case["scale_lr"]),
        rate=float(case["scale_t"]),
    )
    per_epoch, state, rates, temperatures = int(case["batches_per_epoch"]), AnnealingState(), [], []
    converged = False
    for converged_then in case["converged_at_epoch_end"]:
        for _ in range(per_epoch):
            rates.append(schedule.learning_rate_at(state))
            temperatures.append(schedule.temperature_at(state))
            state = schedule.advance(state, converged)
        converged = bool(converged_then)
    tolerance = {"rtol": 1e-6, "atol": 0.0}
    case.check("lr_used", np.array(rates), **tolerance | {"atol": 1e-12})
    case.check("t_used", np.array(temperatures), **tolerance | {"atol": 1e-12})
    case.check("lr_final", np.float64(schedule.learning_rate_at(state)), **tolerance)
    case.check("t_final", np.float64(schedule.temperature_at(state)), **tolerance)
    case.finish()


def test_all_sched_cases_are_here():
    assert len(cases("sched")) == 2


def test_pege_sched():
    case = Case("pege", "sched")
    expected = [
        [Logarithmic(0.0, 1.0, steps=1.0, kappa=float(kappa))(float(tau)) for tau in case["tau"]]
        for kappa in case["kappa"]
    ]
    case.check("p", np.array(expected))
    case.finish()


@every_example
def test_saved_as_keras_objects(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    loaded = keras.saving.deserialize_keras_object(config)
    assert loaded == schedule
    assert type(schedule).from_config(schedule.get_config()) == schedule
    assert hash(loaded) == hash(schedule)


@every_example
def test_frozen_and_total(schedule):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, dataclasses.fields(schedule)[0].name, 0.0)
    values = [schedule(step) for step in (0, 0.5, 1, 99, 10**9)]
    assert all(isinstance(value, float) and math.isfinite(value) for value in values)


def test_every_schedule_is_among_the_examples():
    public = {
        value
        for name, value in vars(schedules).items()
        if isinstance(value, type)
        and issubclass(value, schedules.Schedule)
        and not name.startswith("_")
    }
    assert public - {schedules.Schedule} == {type(example) for example in EXAMPLES}


@every_ramp
@settings(max_examples=60, deadline=None)
@given(start=numbers, end=numbers, steps=st.integers(0, 10_000), data=st.data())
def test_ramps_are_monotone_between_their_ends(ramp, start, end, steps, data):
    schedule = ramp(start, end, steps)
    first, second = sorted(data.draw(st.lists(st.integers(-10, 11_000), min_size=2, max_size=2)))
    direction = 1 if end >= start else -1
    slack = 1e-12 * (abs(start) + abs(end))
    assert direction * (schedule(second) - schedule(first)) >= -slack
    for step in (first, second):
        assert min(start, end) - slack <= schedule(step) <= max(start, end) + slack
    assert schedule(steps) == schedule(steps + 1) == end
    if steps:
        assert schedule(0) == schedule(-1) == start


@settings(max_examples=60, deadline=None)
@given(kappa=st.floats(0.01, 1000), progress=st.floats(0, 1))
def test_exponential_mirrors_logarithmic(kappa, progress):
    there = Logarithmic(0.0, 1.0, 1.0, kappa)(progress)
    assert math.isclose(Exponential(0.0, 1.0, 1.0, kappa)(there), progress, abs_tol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    warmup=st.integers(0, 20),
    converged=st.lists(st.booleans(), min_size=1, max_size=60),
    anneal=st.floats(0.5, 1.0),
)
def test_temperature_rises_and_the_learning_rate_falls_only_when_converged(
    warmup, converged, anneal
):
    schedule = TemperatureAnnealing(0.5, warmup=warmup, anneal=anneal)
    state = AnnealingState()
    for now in converged:
        later = schedule.advance(state, now)
        grown = schedule.temperature_at(later) - schedule.temperature_at(state)
        rate, next_rate = schedule.learning_rate_at(state), schedule.learning_rate_at(later)
        if later.batches <= warmup:
            assert grown == 0
            assert next_rate > rate
        else:
            assert math.isclose(grown, 1.0)
            assert math.isclose(next_rate, rate * (anneal if now else 1.0))
        state = later


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="Received: steps=-1"):
        Linear(0.0, 1.0, -1)
    with pytest.raises(ValueError, match="Received: kappa=0"):
        Logarithmic(0.0, 1.0, 10, kappa=0)
    with pytest.raises(ValueError, match="Received: kappa=-1"):
        Exponential(0.0, 1.0, 10, kappa=-1)
    with pytest.raises(ValueError, match=r"increasing. Received: \(3, 3\)"):
        Piecewise((3, 3), (0.0, 1.0, 2.0))
    with pytest.raises(ValueError, match=r"than boundaries: 2. Received: 1 pieces"):
        Piecewise((3,), (0.0,))
    with pytest.raises(ValueError, match="Received: -1"):
        TemperatureAnnealing(0.1, warmup=-1)
