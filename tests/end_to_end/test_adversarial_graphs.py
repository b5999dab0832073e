"""Adversarial graphs and networks: exported and right on extremes and further inputs, or refused.

`python -m tests.adversarial` runs thousands, in processes that may crash.
"""

import collections

import pytest

from tests.adversarial import outcomes

pytestmark = [pytest.mark.usefixtures("nothing_is_compiled"), pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(("kind", "count"), [("graph", 44), ("network", 6)])
def test_no_answer_is_wrong(kind, count, tmp_path):
    lines = list(outcomes(kind, range(count), tmp_path))
    counts = collections.Counter(line.split()[0] for line in lines)
    assert [line for line in lines if line.startswith("wrong")] == []
    assert counts["proven"] >= count, counts


def test_draws_that_ended_a_runtime_or_were_wrong_once(tmp_path):
    """SUB beyond 2**107, coarse scales of weights, a mean beyond int64, a softmax of far scores."""
    lines = [
        *outcomes("graph", [622, 777, 1184, 3227, 3948], tmp_path),
        *outcomes("network", [6], tmp_path),
    ]
    assert [line for line in lines if line.startswith("wrong")] == []
