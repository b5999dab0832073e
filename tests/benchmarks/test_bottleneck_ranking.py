"""The check of rankings: its correlations, and its page, which says what its JSON file says."""

import json
import pathlib
import sys

import pytest

pytest.importorskip("tensorflow_datasets", reason="the images of the benchmark")

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        import bottleneck_ranking

        yield bottleneck_ranking


DROPS = {f"{name}/weights": float(name) for name in "12345"}


def test_the_true_order_correlates_fully(benchmark):
    scores = {name: drop**3 for name, drop in DROPS.items()}
    assert benchmark.correlation(scores, DROPS, "weights").startswith("+1.00")
    reversed_ = {name: -score for name, score in scores.items()}
    assert benchmark.correlation(reversed_, DROPS, "weights").startswith("-1.00")


def test_only_tensors_with_a_score_count(benchmark):
    scores = {name: drop for name, drop in DROPS.items() if drop > 2.0}
    assert benchmark.correlation(scores, DROPS, "weights").endswith("3)")
    assert benchmark.correlation(scores, DROPS, "activations") == ""
    assert benchmark.correlation(scores, DROPS, "all") == ""  # of one kind


def test_equal_scores_rank_nothing(benchmark):
    assert benchmark.correlation(dict.fromkeys(DROPS, 0.0), DROPS, "weights") == "all equal"


def test_the_page_has_the_tables_of_the_file(benchmark):
    found = json.loads((RESULTS / "bottlenecks.json").read_text())
    page = (RESULTS / "bottlenecks.md").read_text()
    for line in benchmark.report(found).splitlines():
        assert line in page.splitlines()


def test_the_drops_are_those_of_single_tensors(benchmark):
    found = json.loads((RESULTS / "bottlenecks.json").read_text())
    assert len(found["truth"]) == 25
    ranked = found["rankings"]["all at 8 bits"]["step_sensitivity"]
    assert found["truth"].keys() == ranked.keys()
