"""Imports go down only: this test holds the floors of docs/architecture.md."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

FLOORS = [
    {"keras_qat.integer"},
    {"keras_qat.estimators"},
    {
        "keras_qat.copying",
        "keras_qat.file_format",
        "keras_qat.deprecation",
        "keras_qat.fit_warnings",
        "keras_qat.keras_graph",
        "keras_qat.kernel_places",
        "keras_qat.optimizers",
        "keras_qat.quantizers",
        "keras_qat.input_batches",
        "keras_qat.replicas",
        "keras_qat.schedules",
    },
    {
        "keras_qat.config",
        "keras_qat.finite_values",
        "keras_qat.objectives",
        "keras_qat.training_plan",
        "keras_qat.lowering",
        "keras_qat.wrappers",
    },
    {"keras_qat.restrictions", "keras_qat.rule"},
    {"keras_qat.rules"},
    {
        "keras_qat.batch_normalization",
        "keras_qat.conversion",
        "keras_qat.distillation",
        "keras_qat.exact_inference",
        "keras_qat.learned_widths",
    },
    {"keras_qat.model", "keras_qat.penalty"},
    {"keras_qat.callbacks", "keras_qat.plotting", "keras_qat.quantization", "keras_qat.saving"},
]
EXPORT_FLOORS = [
    {
        "tflite_export.errors",
        "tflite_export.graph_of",
        "tflite_export.targets",
        "tflite_export.text_table",
    },
    {"tflite_export.file"},
    {"tflite_export.ops"},
    {"tflite_export.legal"},
    {"tflite_export.proof"},
    {"tflite_export.contents", "tflite_export.predict", "tflite_export.report"},
    {"tflite_export.export"},
    {"tflite_export.micro"},
    {"tflite_export.__main__"},
]
PLACES = ("keras_qat", "tflite_export", "tests", "examples")
WEIGHTY = {"keras", "tensorflow", "jax", "torch"}
SCHEMA = {"flatbuffers", "ai_edge_litert.schema_py_generated"}


def source_files(package: str) -> list[pathlib.Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: pathlib.Path) -> set[str]:
    """Every module that a file imports, at any depth; `from a import b` counts as `a.b` too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor_of(module: str, floors: list[set[str]] = FLOORS) -> int | None:
    for level, rooms in enumerate(floors):
        if any(module == room or module.startswith(room + ".") for room in rooms):
            return level
    return None


@pytest.mark.parametrize("path", source_files("keras_qat"), ids=module_name)
def test_keras_qat_imports_go_down(path):
    if module_name(path) == "keras_qat":
        return  # the lazy front door names every floor and loads none
    own = floor_of(module_name(path))
    assert own is not None, "a new module needs a floor"
    for imported in imports(path):
        level = floor_of(imported)
        assert level is None or level <= own, f"imports {imported}, which is higher up"
        assert not imported.startswith("tflite_export")
        if own == 0:
            assert imported.split(".")[0] not in WEIGHTY


@pytest.mark.parametrize("path", source_files("tflite_export"), ids=module_name)
def test_tflite_export_knows_the_integer_room_only(path):
    for imported in imports(path):
        root = imported.split(".")[0]
        assert root not in WEIGHTY
        if root == "keras_qat":
            assert imported == "keras_qat" or floor_of(imported) == 0, imported


@pytest.mark.parametrize("path", source_files("tflite_export"), ids=module_name)
def test_tflite_export_imports_go_down(path):
    if module_name(path) == "tflite_export":
        return  # the front door names what people call
    own = floor_of(module_name(path), EXPORT_FLOORS)
    assert own is not None, "a new module needs a floor"
    for imported in imports(path):
        level = floor_of(imported, EXPORT_FLOORS)
        assert level is None or level <= own, f"imports {imported}, which is higher up"


@pytest.mark.parametrize("path", source_files("keras_qat") + source_files("tflite_export"), ids=str)
def test_private_keras_and_the_schema_have_one_reader_each(path):
    name = module_name(path)
    found = imports(path)
    assert not any(imported.startswith("keras.src") for imported in found)
    if name != "tflite_export.file.writer":
        assert not found & SCHEMA
    if name != "keras_qat.keras_graph":
        text = path.read_text()
        for private in ("_keras_history", "_nodes_by_depth", "_inbound_nodes", "._functional"):
            assert private not in text


@pytest.mark.parametrize(
    "path",
    [p for place in PLACES for p in source_files(place)],
    ids=str,
)
def test_no_file_over_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def run_python(code: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )


def test_importing_the_packages_is_silent():
    result = run_python("import keras_qat, tflite_export", "-W", "error")
    assert result.stdout + result.stderr == ""


def test_the_integer_room_loads_neither_keras_nor_tensorflow():
    code = "import sys, keras_qat.integer, tflite_export; print(sorted(sys.modules))"
    loaded = set(ast.literal_eval(run_python(code).stdout))
    assert not loaded & WEIGHTY


def test_every_public_name_resolves():
    code = "import keras_qat; print([getattr(keras_qat, n).__name__ for n in keras_qat.__all__])"
    names = ast.literal_eval(run_python(code).stdout)
    assert "quantize" in names
    assert "LSQConfig" in names


def test_an_unknown_public_name_is_an_attribute_error():
    import keras_qat

    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        keras_qat.quantise  # noqa: B018  the access is the test
