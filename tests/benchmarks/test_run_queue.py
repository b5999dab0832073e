"""A queue that is killed at any moment ends with the very files of one that is not."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
QUEUE = ROOT / "benchmarks" / "run_queue.py"
STUDY = ROOT / "tests" / "benchmarks" / "tiny_study.py"
RUNS = ("w4a4_gdnsq_seed0", "w4a4_pege_seed1")
EPOCHS = 6


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}


class Queue:
    """A queue in a folder of its own."""

    def __init__(self, folder, environment):
        self.folder, self._environment = folder, environment
        folder.mkdir(exist_ok=True)
        self.list = folder / "queue.txt"
        self.list.write_text(f"{STUDY} gdnsq 4 0  # the first\n\n{STUDY} pege 4 1\n")

    def command(self, *more):
        return [
            *(sys.executable, str(QUEUE), f"--list={self.list}", "--nofrozen", "--nice=0"),
            *(f"--results_dir={self.folder}/results", f"--queue_dir={self.folder}/queue"),
            *more,
        ]

    def run(self, *more):
        done = subprocess.run(
            self.command(*more), env=self._environment, capture_output=True, text=True
        )
        logs = "".join(path.read_text() for path in self.folder.rglob("*.log"))
        assert done.returncode == 0, done.stderr + logs[-3000:]
        return done.stdout

    def start(self, pause=0.0):
        return subprocess.Popen(
            self.command(),
            env={**self._environment, "PAUSE": str(pause)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def epochs(self, run):
        path = self.folder / "results" / "tiny_study" / f"{run}.csv"
        return len(path.read_text().splitlines()) - 1 if path.exists() else 0

    def state(self, run, suffix):
        return self.folder / "queue" / "runs" / "tiny_study" / f"{run}{suffix}"

    def outcome(self, runs=RUNS):
        """What must be equal: weights, the CSV of epochs, the file, the result without times."""
        found = {}
        for run in runs:
            result = json.loads(
                (self.folder / "results" / "tiny_study" / f"{run}.json").read_text()
            )
            for changing in ("seconds", "starts"):
                del result[changing]
            found[run] = {
                "result": result,
                "csv": (self.folder / "results" / "tiny_study" / f"{run}.csv").read_bytes(),
                "tflite": self.state(run, ".tflite").read_bytes(),
                "weights": _weights(self.state(run, ".keras")),
            }
        return found


def _weights(path):
    import keras_qat

    model = keras_qat.load_model(path, compile=False)
    return [each.tobytes() for each in model.get_weights()]


def wait_for(condition, seconds=120):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it did not happen"
        time.sleep(0.01)


def kill(process):
    """Of the queue and of the run that it has started, without a warning."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, environment):
    queue = Queue(tmp_path_factory.mktemp("whole") / "q", environment)
    printed = queue.run()
    assert printed.count(": done") == 2
    return queue


@pytest.mark.slow
def test_a_queue_does_its_runs_in_order_and_says_so(uninterrupted):
    assert [uninterrupted.epochs(run) for run in RUNS] == [EPOCHS, EPOCHS]
    table = uninterrupted.run("--status")
    assert table.count("done") == 2
    assert uninterrupted.run().count("begins") == 0  # nothing is done twice
    result = json.loads(
        (uninterrupted.folder / "results" / "tiny_study" / f"{RUNS[0]}.json").read_text()
    )
    assert result["epochs"] == EPOCHS
    assert result["mismatches"] == 0
    assert len(result["file_sha256"]) == 64
    assert result["logs"]["targets_met_at"] > 0
    assert set(result["versions"]) == {"keras", "tensorflow", "numpy", "ai-edge-litert"}
    assert result["commit"]


@pytest.mark.slow
def test_five_kills_at_any_moment_change_nothing(uninterrupted, tmp_path, environment):
    queue = Queue(tmp_path / "q", environment)
    partial = queue.state(RUNS[0], ".backup")

    first = queue.start(pause=1.0)  # while a backup is written: weights are there, and no state
    wait_for(lambda: any(partial.glob("epoch_00002.partial/*.h5")))
    kill(first)
    assert queue.epochs(RUNS[0]) == 1

    second = queue.start()
    wait_for(lambda: queue.epochs(RUNS[0]) == 3)
    kill(second)
    third = queue.start()
    wait_for(lambda: queue.epochs(RUNS[0]) == EPOCHS)  # re-estimation, export, or the next run
    time.sleep(0.5)
    kill(third)
    fourth = queue.start()
    wait_for(lambda: queue.epochs(RUNS[1]) >= 1)
    time.sleep(0.05)
    kill(fourth)
    fifth = queue.start()
    wait_for(lambda: queue.epochs(RUNS[1]) >= 2)
    newest = sorted(queue.state(RUNS[1], ".backup").glob("epoch_*"))[-1]
    kill(fifth)
    for weights in newest.glob("*.h5"):  # and the newest backup is damaged on the disk
        weights.write_bytes(weights.read_bytes()[:-7])

    queue.run()
    assert queue.outcome() == uninterrupted.outcome()


@pytest.mark.slow
def test_a_queue_whose_time_is_up_ends_between_two_epochs(uninterrupted, tmp_path, environment):
    queue = Queue(tmp_path / "q", environment)
    assert "goes on another time" in queue.run("--minutes=0.02")
    assert [queue.epochs(run) for run in RUNS] == [1, 0]
    queue.list.write_text(f"{STUDY} gdnsq 4 0\n")
    assert "1 of 6" in queue.run("--status")
    queue.run()
    assert queue.outcome(RUNS[:1]) == uninterrupted.outcome(RUNS[:1])


def test_a_line_that_is_none_is_named(tmp_path, environment):
    queue = Queue(tmp_path / "q", environment)
    queue.list.write_text("resnet20 gdnsq four 0\n")
    done = subprocess.run(queue.command(), env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "queue.txt:1: a line is 'study variant bits seed [flags]'" in done.stderr
