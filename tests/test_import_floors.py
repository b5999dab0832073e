"""Imports go down only: this test holds the floors of docs/architecture.md."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

ARCHITECTURE = ROOT / "docs" / "architecture.md"
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


def rooms_of_the_page() -> dict[str, int]:
    """Room -> its floor, as docs/architecture.md says: the one source."""
    page = ARCHITECTURE.read_text()
    (block,) = re.findall(r"```\n(keras_qat/\n.*?)```", page, re.DOTALL)
    floors, package = {}, ""
    for line in block.splitlines():
        if head := re.fullmatch(r"(\w+)/", line):
            package = head[1]
        else:
            name, floor = re.match(r"  (\w+)(?:/|\.py) +(\d+)  \S", line).groups()
            floors[f"{package}.{name}"] = int(floor)
    return floors


FLOORS = rooms_of_the_page()


def room_of(module: str) -> str | None:
    found = ".".join(module.split(".")[:2])
    return found if found in FLOORS else None


def floor_of(module: str) -> int | None:
    room = room_of(module)
    return None if room is None else FLOORS[room]


def test_the_page_names_every_room_and_no_other():
    there = {
        f"{package}.{path.stem}"
        for package in ("keras_qat", "tflite_export")
        for path in (ROOT / package).iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem != "__init__"
    }
    assert set(FLOORS) == there


@pytest.mark.parametrize("path", source_files("keras_qat") + source_files("tflite_export"), ids=str)
def test_imports_go_down(path):
    """A file imports its own room, and rooms on lower floors."""
    name = module_name(path)
    if name in ("keras_qat", "tflite_export"):
        return  # the front doors name what people call
    own, package = room_of(name), name.split(".")[0]
    assert own is not None, "docs/architecture.md has no floor for it"
    for imported in imports(path):
        room = room_of(imported)
        if room is None or room == own or not imported.startswith(f"{package}."):
            continue
        assert FLOORS[room] < FLOORS[own], f"imports {imported}, which is not below"
        assert not (package == "keras_qat" and imported.startswith("tflite_export"))
    if own == "keras_qat.integer":
        assert not {imported.split(".")[0] for imported in imports(path)} & WEIGHTY


def test_keras_qat_knows_no_exporter():
    for path in source_files("keras_qat"):
        assert not any(imported.startswith("tflite_export") for imported in imports(path)), path


@pytest.mark.parametrize("path", source_files("keras_qat/callbacks"), ids=module_name)
def test_callbacks_reach_quantizers_through_the_model(path):
    rooms = {room_of(imported) for imported in imports(path)}
    assert not rooms & {"keras_qat.quantized_layers", "keras_qat.conversion"}


_OF_NAMED_TUPLES = {"_replace", "_fields", "_asdict"}


@pytest.mark.parametrize("path", source_files("keras_qat") + source_files("tflite_export"), ids=str)
def test_private_attributes_are_those_of_self(path):
    """Private attributes of Keras and of LiteRT have readers of their own."""
    names = ("calls", "graph", "masks", "moments", "optimizer_slots", "precision", "skipping")
    privates = {"borrowed_calls", *(f"keras_{each}" for each in names)}
    readers = {f"keras_qat.{name}" for name in privates} | {"tflite_export.file.litert_privates"}
    if module_name(path) in readers:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute) or not re.match("_[^_]", node.attr):
            continue
        owner = ast.unparse(node.value)
        mine = owner in ("self", "cls", "super()") or node.attr in _OF_NAMED_TUPLES
        assert mine, f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", source_files("tflite_export"), ids=module_name)
def test_tflite_export_knows_the_integer_room_only(path):
    for imported in imports(path):
        root = imported.split(".")[0]
        assert root not in WEIGHTY
        if root == "keras_qat":
            assert imported == "keras_qat" or room_of(imported) == "keras_qat.integer", imported


@pytest.mark.parametrize("path", source_files("keras_qat") + source_files("tflite_export"), ids=str)
def test_private_keras_and_the_schema_have_one_reader_each(path):
    name = module_name(path)
    found = imports(path)
    assert not any(imported.startswith("keras.src") for imported in found)
    readers = {"tflite_export.file.writer": SCHEMA}
    readers["tflite_export.file.metadata_file"] = {"flatbuffers"}  # another schema
    assert not (found & SCHEMA) - readers.get(name, set())
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
