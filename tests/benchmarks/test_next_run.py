"""Runs of a study wait for the float model from which they start, and for nothing else."""

from run_queue import Entry, next_ready

FLOAT = Entry("vgg_small", "float", 32, 0)
LSQ = Entry("vgg_small", "lsq", 2, 0)
OTHER = Entry("resnet20", "gdnsq", 2, 0)


def test_runs_begin_in_their_order():
    assert next_ready([FLOAT, LSQ, OTHER], []) == FLOAT
    assert next_ready([LSQ, OTHER], []) == LSQ
    assert next_ready([OTHER], [LSQ]) == OTHER
    assert next_ready([], []) is None


def test_a_run_waits_while_its_float_model_trains_and_others_go_first():
    assert next_ready([LSQ, OTHER], [FLOAT]) == OTHER
    assert next_ready([LSQ], [FLOAT]) is None
    assert next_ready([LSQ], [Entry("resnet20_float", "float", 32, 0)]) == LSQ
