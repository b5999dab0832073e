"""What `import keras_qat` and `import tflite_export` offer: public names, a version, types."""

import importlib
import importlib.metadata
import pathlib
import subprocess
import sys

import pytest

import keras_qat
import tflite_export

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = [keras_qat, tflite_export]
by_name = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return result.stdout.strip()


@by_name
def test_dir_lists_the_public_names_alone(package):
    importlib.import_module("keras_qat.quantizers")  # a submodule that is loaded, and not listed
    listed = [name for name in dir(package) if not name.startswith("__")]
    assert listed == sorted(package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)


@by_name
def test_every_listed_name_is_there(package):
    assert not [name for name in dir(package) if not hasattr(package, name)]


@by_name
def test_the_version_is_that_of_the_installed_package(package):
    assert package.__version__ == importlib.metadata.version("keras_qat")


@by_name
def test_the_version_of_a_folder_that_is_not_installed(package, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert package.__version__ == "0+unknown"


def test_the_import_reads_no_metadata():
    code = "import sys, keras_qat; print('importlib.metadata' in sys.modules)"
    assert python(code) == "False"


@by_name
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'x'"):
        package.x  # noqa: B018  the access is the test


@pytest.mark.parametrize("name", ["callbacks", "estimators", "integer", "metrics", "optimizers"])
def test_a_public_module_is_an_attribute(name):
    assert python(f"import keras_qat; print(keras_qat.{name}.__name__)") == f"keras_qat.{name}"


def test_the_integer_module_as_an_attribute_loads_no_keras():
    code = "import sys, keras_qat; keras_qat.integer; print('keras' in sys.modules)"
    assert python(code) == "False"


@by_name
def test_the_package_says_that_it_has_types(package):
    assert (pathlib.Path(package.__file__).parent / "py.typed").is_file()
