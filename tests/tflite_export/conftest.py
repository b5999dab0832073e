"""A small network and random integers for it, for files of tests that have no other."""

import pytest

from tests.tflite_export.graphs import random_codes, small_network


@pytest.fixture(scope="module")
def graph():
    return small_network()


@pytest.fixture(scope="module")
def codes(graph):
    return random_codes(graph, samples=5)
