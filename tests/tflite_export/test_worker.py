"""Files from outside run in a process of their own, whose death is an error and no more."""

import os
import random
import signal
import threading

import numpy as np
import pytest

from keras_qat import InvalidFileError
from keras_qat.integer import own_files, worker
from keras_qat.integer.own_files import note_as_own
from tests.mutants import with_changed_bytes
from tests.tflite_export.graphs import small_network
from tflite_export import export, predict

IMAGES = np.random.default_rng(0).normal(size=(10, 9, 8, 3)).astype(np.float32)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A file that no process here knows."""
    monkeypatch.setattr(own_files, "_DIGESTS", set())
    export(small_network(), tmp_path / "net.tflite", verify=False, verbose=False)
    return tmp_path / "net.tflite"


def the_worker():
    return worker._WORKERS[os.getpid()]


@pytest.mark.parametrize("runtime", ["litert", "tflm"])
def test_answers_are_the_same_in_either_process(path, runtime):
    outside = predict(path, IMAGES, runtime=runtime)
    first = the_worker().pid
    named = predict(path, {"image": IMAGES}, runtime=runtime)
    assert the_worker().pid == first
    note_as_own(path.read_bytes())
    own = predict(path, IMAGES, runtime=runtime)
    for name in own:
        np.testing.assert_array_equal(outside[name], own[name])
        np.testing.assert_array_equal(named[name], own[name])


def test_a_file_that_never_ends_is_an_error_and_the_next_call_works(path):
    """The limit is so short that a worker does not even start."""
    if os.getpid() in worker._WORKERS:
        worker._end(the_worker())
    with pytest.raises(InvalidFileError, match=r"did not answer within 0\.01 seconds.*max_seconds"):
        predict(path, IMAGES, max_seconds=0.01)
    assert predict(path, IMAGES)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(path, seconds):
    with pytest.raises(ValueError, match="max_seconds must be a positive number"):
        predict(path, IMAGES, max_seconds=seconds)


def test_a_proven_file_runs_in_this_process(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("no worker is needed")

    export(small_network(), tmp_path / "net.tflite", verbose=False)
    monkeypatch.setattr(worker, "_started", refuse)
    assert predict(tmp_path / "net.tflite", IMAGES)


def test_errors_are_the_same_in_either_process(path):
    for _ in range(2):
        with pytest.raises(ValueError, match=r"needs the shape \(examples, 9, 8, 3\)"):
            predict(path, IMAGES[:, :4])
        with pytest.raises(ValueError, match=r"inputs are \['image'\]. Received: \['picture'\]"):
            predict(path, {"picture": IMAGES})
        note_as_own(path.read_bytes())
    own_files._DIGESTS.clear()
    with pytest.raises(ValueError, match="Inputs must be numbers"):
        predict(path, np.array([["a"]]))


def test_the_death_of_the_worker_is_a_clear_error_and_the_next_one_serves(path):
    predict(path, IMAGES)
    os.kill(the_worker().pid, signal.SIGSEGV)
    the_worker().wait()
    assert predict(path, IMAGES)  # an idle one that died is started again
    dying = the_worker().pid
    os.kill(dying, signal.SIGSTOP)
    killer = threading.Timer(0.2, os.kill, (dying, signal.SIGKILL))
    killer.start()
    with pytest.raises(InvalidFileError, match=r"net\.tflite: the runtime ended with SIGKILL"):
        predict(path, IMAGES)
    killer.join()
    assert predict(path, IMAGES)


def test_damaged_files_crash_nothing(path):
    whole, draws, count = path.read_bytes(), random.Random(1), 0
    for _ in range(int(os.environ.get("MUTANTS", "100"))):
        path.write_bytes(with_changed_bytes(whole, draws))
        try:
            predict(path, IMAGES[:1])
        except (ValueError, RuntimeError):
            count += 1
    assert count > 5


@pytest.mark.parametrize("threads", [0, -1, 100_000, 1.5, True])
def test_threads_that_are_none_are_refused(path, threads):
    with pytest.raises(ValueError, match="threads must be a whole number from 1 to 256"):
        predict(path, IMAGES, threads=threads)
