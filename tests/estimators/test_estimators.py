"""Estimators by name: their options, what they are where nothing is rounded, and new ones."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_qat import estimators
from keras_qat.estimators import Estimator, GridStep, register_estimator

OURS = ["aewgs", "dsq", "ewgs", "pege", "ste"]
STEP = GridStep(size=np.float32(0.5), count=np.float32(3.0), axes=(0,))
every_estimator = pytest.mark.parametrize("name", OURS)


def data(seed, elements=50):
    rng = np.random.default_rng(seed)
    noise = rng.uniform(-0.5, 0.5, elements).astype(np.float32)
    return rng.normal(size=elements).astype(np.float32), noise


def test_ours_are_registered():
    assert set(OURS) <= set(estimators.names())


@pytest.mark.parametrize("name", ["aewgs", "ewgs", "pege", "ste"])
def test_without_noise_the_gradient_stays(name):
    upstream, noise = data(0)
    np.testing.assert_array_equal(Estimator(name)(upstream, 0 * noise, STEP), upstream)


@every_estimator
def test_whether_noise_counts_for_other_elements(name):
    upstream, noise = data(3)
    changed = np.where(np.arange(noise.size) < 10, 0.25, noise).astype(np.float32)
    one, other = (np.asarray(Estimator(name)(upstream, each, STEP)) for each in (noise, changed))
    assert np.array_equal(one[10:], other[10:]) == Estimator(name).elementwise


@pytest.mark.parametrize("options", [{"delta": 0.5}, {"delta": 0.0}])
def test_ewgs_by_its_formula(options):
    upstream, noise = data(1)
    expected = upstream * (1 - options["delta"] * np.sign(upstream) * noise)
    found = Estimator("ewgs", options)(upstream, noise, STEP)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sharpness", [0.01, 1.0, 2.2, 10.0])
def test_the_soft_staircase_rises_by_one_per_step(sharpness):
    """Its slope against differences of the staircase itself, and its mean over a step."""
    position = np.linspace(0.0, 1.0, 20001)
    stair = 0.5 + np.tanh(sharpness * (position - 0.5)) / np.tanh(sharpness / 2) / 2
    noise = np.rint(position) - position
    slope = np.asarray(Estimator("dsq", {"sharpness": sharpness})(1.0, noise, STEP))
    np.testing.assert_allclose(slope, np.gradient(stair, position), atol=1e-3)
    assert slope.mean() == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ValueError, match=r"must be positive\. Received: 0"):
        Estimator("dsq", {"sharpness": 0})(1.0, noise, STEP)


def test_pege_pulls_to_the_code_by_the_stated_weight():
    upstream, noise = data(2)
    error = noise / 3.0
    weights = {
        "rms": np.sqrt(np.mean(upstream**2)),
        "raw": 1.0 / 1.5,  # over a range of three steps of a half
        "ewgs": np.abs(upstream),
    }
    for weighting, weight in weights.items():
        found = Estimator("pege", {"strength": 0.3, "weighting": weighting})(upstream, noise, STEP)
        np.testing.assert_allclose(found, upstream - 0.3 * weight * error, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"'rms', 'raw', 'ewgs'.*Received: 'l1'"):
        Estimator("pege", {"weighting": "l1"})(upstream, noise, STEP)


@every_estimator
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), factor=st.sampled_from([2.0**-20, 2.0**20]))
def test_none_but_the_raw_pull_knows_the_scale_of_the_loss(name, seed, factor):
    upstream, noise = data(seed)
    scaled = Estimator(name)(np.float32(factor) * upstream, noise, STEP)
    expected = np.float32(factor) * np.asarray(Estimator(name)(upstream, noise, STEP))
    np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-6 * factor)


@every_estimator
def test_an_estimator_travels_as_json(name):
    options = {"ewgs": {"delta": 0.125}, "pege": {"weighting": "raw"}}.get(name, {})
    estimator = Estimator(name, options)
    travelled = json.loads(json.dumps(estimator.serialized()))
    assert estimators.get(travelled) == estimator
    assert estimators.get(dataclasses.asdict(estimator)) == estimator
    assert len({estimator, estimators.get(travelled)}) == 1


@pytest.mark.parametrize("wrong", ["magic", 3, None, {"name": "ste"}, ["ste"]])
def test_anything_else_is_refused_with_the_names_that_exist(wrong):
    with pytest.raises(ValueError, match=r"one of \[.*'aewgs', .*'dsq', .*Received: "):
        estimators.get(wrong)


def test_an_unknown_option_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"'ewgs' has the options \['delta'\]. .*\['gamma'\]"):
        Estimator("ewgs", {"gamma": 1.0})


def test_a_new_one_is_a_function_and_no_name_is_taken_twice():
    @register_estimator("tests_halved")
    def halved(upstream, noise, step, factor=0.5):
        return factor * upstream

    assert Estimator("tests_halved", {"factor": 0.25})(8.0, 0.0, STEP) == 2.0
    register_estimator("tests_halved")(halved)  # as when a module is loaded again

    def other(upstream, noise, step):
        return upstream

    with pytest.raises(ValueError, match=r"'tests_halved' is taken by .*halved"):
        register_estimator("tests_halved")(other)
