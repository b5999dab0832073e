"""Plans of a GDNSQ run: in time, or an error that says what it takes."""

import functools
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_qat.schedules import AnnealingState
from keras_qat.training.training_plan import (
    FASTEST,
    SLACK,
    Progress,
    TrainingPlan,
    planned_run,
    published_plan,
)

rates = st.floats(1e-5, 0.1)
distances = st.floats(0.0, 15.0)
shares = st.floats(0.1, 0.9)


def plan_or_need(batches, rate, distance, arrive_by):
    """A plan, or the number of batches that the error names."""
    try:
        return planned_run(np.full(batches, rate), distance, arrive_by)
    except ValueError as error:
        return int(re.search(r"needs at least (\d+) batches", str(error)).group(1))


@given(st.integers(20, 100_000), rates, distances, shares)
def test_a_plan_has_time_for_the_way_or_names_the_batches_that_have(
    batches, rate, distance, arrive_by
):
    plan = plan_or_need(batches, rate, distance, arrive_by)
    if isinstance(plan, int):
        assert plan > batches
        assert isinstance(plan_or_need(plan, rate, distance, arrive_by), TrainingPlan)
        assert plan_or_need(plan - 1, rate, distance, arrive_by) == plan
        return
    assert plan.warmup < plan.deadline <= batches
    bits_in_time = plan.log_step_multiplier * plan.learning_rate * (plan.deadline - plan.warmup)
    # One part in a million for float32 sums of the rates.
    assert bits_in_time >= SLACK * distance * (1 - 1e-6)


@given(st.integers(2000, 100_000), rates, distances)
def test_no_plan_moves_widths_faster_than_it_must(batches, rate, distance):
    plan = planned_run(np.full(batches, rate), distance, 0.6)
    assert math.frexp(plan.log_step_multiplier)[0] == 0.5
    assert plan.log_step_multiplier >= 1.0
    if plan.log_step_multiplier > 1.0:  # the next lower power of two would be too slow
        slower = plan.log_step_multiplier / 2 * plan.learning_rate
        assert slower * (plan.deadline - plan.warmup) < SLACK * distance * (1 + 1e-6)
        assert slower < FASTEST * (1 + 1e-6)


@given(st.integers(2500, 100_000), shares)
def test_the_ceiling_falls_from_start_to_target(batches, arrive_by):
    plan = planned_run(np.full(batches, 1e-3), 8.0, arrive_by)
    late = [plan.late(batch) for batch in range(0, batches + 1, 37)]
    assert late[0] == 1.0
    assert plan.late(int(plan.deadline)) == 0.0
    assert all(then >= now for then, now in itertools.pairwise(late))


@given(st.integers(1, 10_000))
def test_after_arrival_the_learning_rate_falls_to_zero_over_what_is_left(left):
    plan = planned_run(np.full(2000, 1e-3), 8.0, 0.6).recovering_for(left)
    found = [plan.learning_rate_at(AnnealingState(900 + c, c)) for c in range(0, left + 1)]
    assert found[0] == 1e-3
    assert found[-1] == 0.0
    assert all(then >= now for then, now in itertools.pairwise(found))


def test_the_published_learning_rate_falls_by_a_factor():
    plan = published_plan(np.full(9000, 1e-3), 8.0)
    assert plan.learning_rate_at(AnnealingState(25, 0)) == 0.5e-3
    assert plan.learning_rate_at(AnnealingState(9000, 100)) == pytest.approx(1e-3 * 0.9985**100)


def test_the_published_plan_is_published_and_says_what_it_takes():
    plan = published_plan(np.full(8050, 1e-3), 8.0)
    assert plan[2:] == (50, 0.0, 0.002, 1.0, 0.0)
    assert plan.late(8000) == 1.0
    with pytest.raises(ValueError, match=r"8050 batches.*planned"):
        published_plan(np.full(8049, 1e-3), 8.0)


def test_a_users_schedule_counts_with_its_mean():
    falling = np.linspace(2e-3, 0.0, 3000)
    plan = planned_run(falling, 8.0, 0.5)
    assert plan.learning_rate == pytest.approx(falling[50:1500].mean())


@given(
    st.integers(0, 2**24), st.integers(0, 2**24), st.booleans(), st.booleans()
)  # float32 holds these whole numbers
def test_plans_and_progress_come_back_from_their_variables(batches, met, converged, finished):
    progress = Progress(batches, met, converged, finished)
    assert Progress.of(np.float32(progress)) == progress
    plan = planned_run(np.full(3000, 2.0**-10), 8.0, 0.5)
    assert TrainingPlan.of(np.float32(plan)) == TrainingPlan(*np.float32(plan).tolist())


@pytest.mark.parametrize("rate", [0.0, np.nan])
def test_a_rate_of_zero_is_refused_in_one_sentence(rate):
    for plan in (published_plan, functools.partial(planned_run, arrive_by=0.6)):
        with pytest.raises(ValueError, match=r"learning rate above 0.*Received: (0.0|nan)"):
            plan(np.full(9000, rate), distance=8.0)
    rates = np.linspace(0.0, 1e-3, 9000)  # a schedule may start at 0
    assert planned_run(rates, distance=8.0, arrive_by=0.6).learning_rate > 0.0
