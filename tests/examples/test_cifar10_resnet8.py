"""The CIFAR-10 example runs where nothing is: no data, no float model. The images are made up."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cifar10_resnet8.py"
MADE_UP = ROOT / "tests" / "examples" / "made_up_cifar10.py"


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize(("method", "epochs"), [("lsq", 2), ("gdnsq", 10), ("pege", 3)])
def test_from_nothing_to_a_proven_file(method, epochs, tmp_path):
    folder = tmp_path / "output"
    done = run(
        *(MADE_UP, EXAMPLE, f"--method={method}", f"--output_dir={folder}"),
        *("--weight_bits=2", "--activation_bits=2", "--validation=128", "--batch_size=16"),
        *("--float_epochs=1", f"--epochs={epochs}", "--verbose=2"),
        TFDS_DATA_DIR=str(tmp_path / "data"),  # where it lies when the example is told nothing
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "data" / "cifar10").iterdir())
    name = f"w2a2_{method}_seed0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "float.keras",
        f"{name}.json",
        f"{name}.keras",
        f"{name}.report.json",
        f"{name}.tflite",
    ]
    report = json.loads((folder / f"{name}.report.json").read_text())
    assert [check["differing"] for check in report["verifications"]] == [0, 0]
    result = json.loads((folder / f"{name}.json").read_text())
    assert result["test_images"] == 200
    assert result["argmax_agreement"] >= 99.0
    for kind in ("float", "qat", "integer", "tflite"):
        assert f"{result[f'{kind}_accuracy']:.2f} %" in done.stdout


def test_a_finished_run_is_shown_and_not_done_again(tmp_path):
    kinds = dict.fromkeys(("float", "qat", "integer", "tflite"), 87.5)
    result = {f"{kind}_accuracy": value for kind, value in kinds.items()}
    result |= {"method": "lsq", "weight_bits": 8, "activation_bits": 8, "seed": 0}
    result |= {"argmax_agreement": 99.75, "file_bytes": 1234, "test_images": 10000}
    (tmp_path / "w8a8_lsq_seed0.json").write_text(json.dumps(result))
    bits = ("--weight_bits=8", "--activation_bits=8")
    done = run(EXAMPLE, *bits, f"--output_dir={tmp_path}", f"--data_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "not done again" in done.stdout
    assert done.stdout.count("87.50 %") == 4
    assert "99.75 % of 10,000 test images" in done.stdout


def test_the_network_has_the_size_of_mlperf_tiny():
    code = "import cifar10_resnet8 as example; print(example.build_model().count_params())"
    done = run("-c", code, PYTHONPATH=f"{ROOT}:{EXAMPLE.parent}")
    assert done.stdout.split() == ["78666"], done.stderr
