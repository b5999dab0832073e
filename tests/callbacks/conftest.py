"""These tests train many models for a few batches each, with the optimizer of graphs off."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _unoptimized(nothing_is_optimized):
    """For all files of this folder."""
