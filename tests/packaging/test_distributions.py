"""What people install: the source archive, and its wheel with exactly what each extra asks for."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

from tests.packaging.environments import environment, packages_for

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the environments are made of links, which need rights there"
)

ROOT = pathlib.Path(__file__).parents[2]
LEFT_BEHIND = (".git", ".venv", "*.egg-info", "__pycache__", ".*_cache", "results")
KINDS = {".py", ".md", ".npz", ".keras", ".tflite", ".cc", ".h", ".template", ".typed", ".cfg"}
BUILD = """
import sys, warnings
warnings.simplefilter("ignore")
from setuptools import build_meta
getattr(build_meta, sys.argv[1])(sys.argv[2])
"""
WITHOUT_BACKEND = """
import keras_qat.integer, tflite_export
try:
    keras_qat.quantize
except ImportError as error:
    print(error)
"""
THE_ROAD = """
import importlib.util, sys
import keras, numpy as np
import keras_qat, tflite_export

layers = keras.layers
inputs = keras.Input((6, 6, 3), name="image")
x = layers.ReLU(name="relu")(layers.Conv2D(4, 3, name="conv")(inputs))
model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))
x, y = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype("float32"), np.arange(64) % 3
qmodel = keras_qat.quantize(model, keras_qat.LSQConfig(weight_bits=4), calibration_data=x)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
qmodel.compile("adam", loss, metrics=["accuracy"])
qmodel.fit(x, y, verbose=0, validation_split=0.2)
qmodel.save("model.keras")
qmodel = keras_qat.load_model("model.keras")
report = tflite_export.export(qmodel, "model.tflite", target="litert", verbose=False)
assert report.mismatches == 0 and report.compared_elements > 1000
assert tflite_export.predict("model.tflite", x).shape == (64, 3)
print(keras.backend.backend(), [
    name for name in ("tensorflow", "jax", "matplotlib") if importlib.util.find_spec(name)
])
try:
    keras_qat.plot_grids(qmodel, "grids.png")
except ImportError as error:
    print(error)
mixed = keras_qat.quantize(model, overrides={"head": None}, calibration_data=x)
try:
    tflite_export.export(mixed, "mixed.tflite", target="litert", verbose=False)
    print("exported")
except keras_qat.LoweringError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source archive of a copy of the clone, and the wheel that the unpacked archive builds."""
    folder = tmp_path_factory.mktemp("distributions")
    shutil.copytree(ROOT, folder / "copy", ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    build(folder / "copy", "build_sdist", folder)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.11.4 on
        file.extractall(folder / "unpacked", **safely)
        names = {name.partition("/")[2] for name in file.getnames()}
    (unpacked,) = (folder / "unpacked").iterdir()
    build(unpacked, "build_wheel", folder)
    (wheel,) = folder.glob("*.whl")
    return names, wheel


def build(source, what, folder):
    subprocess.run(
        [sys.executable, "-c", BUILD, what, str(folder)],
        cwd=source,
        capture_output=True,
        check=True,
    )


@pytest.fixture(scope="module")
def archived(distributions):
    """The paths in the archive."""
    return distributions[0]


@pytest.mark.parametrize("place", ["keras_qat", "tflite_export", "tests", "docs", "examples"])
def test_the_archive_holds_every_file_of(place, archived):
    paths = [path for path in (ROOT / place).rglob("*") if path.suffix in KINDS]
    files = {path.relative_to(ROOT).as_posix() for path in paths if path.is_file()}
    assert files
    assert files <= archived


def test_the_archive_holds_the_papers_and_the_gate(archived):
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"} <= archived
    assert {
        "pyproject.toml",
        "setup.cfg",
        ".ci/run",
        ".ci/matrix",
        ".github/workflows/ci.yml",
    } <= archived


def test_the_archive_holds_nothing_that_a_run_leaves_behind(archived):
    assert not [name for name in archived if "__pycache__" in name or name.endswith(".pyc")]


def what_it_prints(script, extras, distributions, folder, **settings):
    """The lines that a script prints where the wheel is installed with these extras."""
    python = environment(folder / "environment", distributions[1], extras)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [python, "-W", "ignore", "-c", script],
        cwd=folder,
        env={**kept, "TF_CPP_MIN_LOG_LEVEL": "3", **settings},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_the_base_is_small(distributions):
    """Keras with what it needs, and what the package imports itself."""
    base = packages_for(distributions[1], ())
    assert {"keras", "numpy", "absl-py", "rich"} <= base
    assert not base & {"tensorflow", "jax", "matplotlib", "ai-edge-litert", "flatbuffers"}


def test_without_a_backend_one_sentence_says_what_to_install(distributions, tmp_path):
    assert what_it_prints(WITHOUT_BACKEND, (), distributions, tmp_path) == [
        'Keras computes with TensorFlow here, which is not installed: pip install "'
        'keras_qat[tensorflow]", or pip install "keras_qat[jax]" and set KERAS_BACKEND=jax.'
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_road_from_float_to_file_needs_a_backend_and_export(backend, distributions, tmp_path):
    extras = [backend, "export"]
    setting = {"KERAS_BACKEND": backend}
    lines = what_it_prints(THE_ROAD, extras, distributions, tmp_path, **setting)
    assert lines[0] == f"{backend} {[backend]}"
    assert lines[1] == 'plot_grids needs matplotlib: pip install "keras_qat[plots]"'
    if backend == "tensorflow":
        assert lines[2:] == ["exported"]
    else:
        (message,) = lines[2:]
        assert message.startswith("The layers 'head' stay in float, and only TensorFlow can")
        assert 'pip install "keras_qat[tensorflow]"' in message
