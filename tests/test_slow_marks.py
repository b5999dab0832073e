"""The fast run passes by every file of tests, so that it sees most mistakes in minutes."""

from tests.conftest import FAST_TESTS

SLOW_AS_A_WHOLE = {
    "tests/arm64/test_arm64.py": "an emulated processor takes seconds for every file",
    "tests/end_to_end/test_jax_backend.py": "each test compiles everything again on two backends",
    "tests/end_to_end/test_random_graphs.py": "one test of many networks; its size is its worth",
    "tests/tfmot/test_the_page.py": "one page, whose models train",
    "tests/examples/test_quickstart.py": "one run of an example, which trains for half a minute",
}


def test_every_file_has_a_fast_test_or_a_reason(request):
    """Of the files that this run collected: all of them, unless it was told which."""
    fast = request.config.stash[FAST_TESTS]
    without = {file for file, count in fast.items() if count == 0}
    assert not without - set(SLOW_AS_A_WHOLE), "leave a test of each file without the mark"
    assert not [file for file in SLOW_AS_A_WHOLE if fast.get(file)], "no longer needs a reason"
