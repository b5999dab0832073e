"""Every task of the papers, on a few made-up images: from its float model to a proven file."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MADE_UP = ROOT / "tests" / "benchmarks" / "made_up_study.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
TASKS = {
    "vgg_small": ("VGG-small on CIFAR-10", "cifar10", "ewgs", 2),
    "vgg16_bn": ("VGG16-BN on CIFAR-10", "cifar10", "pege", 4),
    "resnet20_cifar100": ("ResNet-20 on CIFAR-100", "cifar100", "ste", 4),
    "resnet18_imagenet": ("ResNet-18 on ImageNet", "imagenet2012", "lsq", 4),
}


def run(*command):
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=ENVIRONMENT
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Writes a data set of made-up images once, and returns its folder of tensorflow-datasets."""
    folder = tmp_path_factory.mktemp("data")

    @functools.cache
    def prepare(name):
        done = run(MADE_UP, "prepare", name, folder)
        assert done.returncode == 0, done.stderr
        return folder

    return prepare


@pytest.mark.slow
@pytest.mark.parametrize("study", TASKS)
def test_from_the_float_model_to_a_proven_file(study, prepared, tmp_path):
    task, data, variant, bits = TASKS[study]
    script = ROOT / "benchmarks" / f"{study}.py"
    flags = (
        f"--data_dir={prepared(data)}",
        "--batch_size=8",
        "--epochs=1",
        "--learning_rate=0.001",
    )
    floats, folder = tmp_path / "float", tmp_path / "quantized"
    done = run(MADE_UP, script, *flags, f"--output_dir={floats}", "--only=float,32,0")
    assert done.returncode == 0, done.stderr
    model = floats / "w32a32_float_seed0.keras"
    result = json.loads((floats / "w32a32_float_seed0.json").read_text())
    assert 0.0 <= result["test_accuracy"] <= 100.0
    assert result["recipe"]["learning_rate"] == 0.001

    only = (f"--only={variant},{bits},0", f"--output_dir={folder}", f"--model={model}")
    done = run(MADE_UP, script, *flags, *only)
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / f"w{bits}a{bits}_{variant}_seed0.json").read_text())
    assert result["task"] == task
    assert result["mismatches"] == 0
    assert result["compared_elements"] > 0
    assert result["reestimated"]


def test_a_run_without_its_float_model_says_how_to_get_one(tmp_path):
    script = ROOT / "benchmarks" / "vgg_small.py"
    done = run(script, f"--output_dir={tmp_path}", "--only=lsq,2,0")
    assert done.returncode != 0
    message = f"No float model at {tmp_path}/w32a32_float_seed0.keras. Train it with --only=float"
    assert message in done.stderr


@pytest.mark.slow
def test_batches_of_imagenet_depend_on_seed_and_epoch_alone(prepared):
    folder = prepared("imagenet2012")
    code = f"""
import imagenet, numpy as np
from absl import flags
flags.FLAGS(["x", "--data_dir={folder}", "--batch_size=4"])
whole = list(imagenet.batches(0, 0).take(2 * imagenet.steps()))
resumed = list(imagenet.batches(0, 1).take(imagenet.steps()))
for (x, y), (u, v) in zip(whole[imagenet.steps():], resumed, strict=True):
    np.testing.assert_array_equal(x, u)
    np.testing.assert_array_equal(y, v)
order = np.concatenate([y for _, y in whole[: imagenet.steps()]])
assert sorted(order) == list(range(8)), order
other = next(iter(imagenet.batches(1, 0)))
print(np.array_equal(whole[0][0], other[0]), np.array_equal(whole[0][0], whole[2][0]))
"""
    done = run("-c", code)
    assert done.stdout.split() == ["False", "False"], done.stderr
