"""Schedules and monitors are tested in many short trainings, of which none has to compute fast."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _unoptimized(nothing_is_optimized):
    """For all files of this folder."""
