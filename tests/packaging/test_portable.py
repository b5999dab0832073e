"""The packages run on every system, and their hints and README work where they are installed."""

import ast
import configparser
import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = sorted(
    path for name in ("keras_qat", "tflite_export") for path in (ROOT / name).rglob("*.py")
)
MODULES_OF_POSIX = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
NAMES_OF_POSIX = {"SIGKILL", "fork", "forkpty", "killpg", "set_start_method", "setsid"}


def of_one_system(source):
    """What a source uses that some systems do not have."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name in MODULES_OF_POSIX]
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES_OF_POSIX:
            found.append(node.module)
        elif isinstance(node, ast.ImportFrom):
            found += [each.name for each in node.names if each.name in NAMES_OF_POSIX]
        elif isinstance(node, ast.Attribute) and node.attr in NAMES_OF_POSIX:
            found.append(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            found += [text] if "/tmp" in text or text in {"fork", "forkserver"} else []
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_uses_nothing_of_one_system(path):
    assert of_one_system(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl",
        "def f():\n    from resource import getrusage",
        "os.fork()",
        "from os import fork",
        "signal.SIGKILL",
        "open('/tmp/x')",
        "multiprocessing.get_context('fork')",
    ],
)
def test_what_is_banned_is_found(source):
    assert of_one_system(source)


@pytest.mark.parametrize("system", ["windows-latest", "macos-latest"])
def test_the_public_workflow_runs_on_other_systems(system):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["systems"]
    assert system in job["strategy"]["matrix"]["system"]
    assert any("pytest" in step.get("run", "") for step in job["steps"])


def test_the_public_workflow_tries_the_wheel_on_every_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["build"]
    tried = {(each["python"], each["backend"]) for each in job["strategy"]["matrix"]["include"]}
    assert tried == {("3.11", "tensorflow"), ("3.12", "tensorflow"), ("3.13", "jax")}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    promised = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert sorted(python for python, _ in tried) == promised
    assert any(
        ".whl)[${{ matrix.backend }},export]" in each.get("run", "") for each in job["steps"]
    )


def extras():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return {name: text.split("\n") for name, text in setup["options.extras_require"].items()}


def hints(text):
    """What a text tells to install from this package: the extras it names."""
    found = re.findall(r"""pip install (?:-e )?["'](?:keras_qat|\.)\[([\w,]+)\]["']""", text)
    return {extra for each in found for extra in each.split(",")}


def test_hints_name_extras_that_there_are():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.py")]
    named = {extra for path in [*SOURCES, *pages] for extra in hints(path.read_text())}
    assert {"tensorflow", "jax", "export", "plots", "tflm"} <= named
    assert named <= set(extras())


def test_every_pip_line_of_the_packages_is_such_a_hint():
    """And none names another package, whose version nobody has tested."""
    whole = "\n".join(path.read_text() for path in SOURCES)
    joined = re.sub(r"""['"]\s*\n\s*f?['"]""", "", whole)  # a string over several lines
    lines = re.findall(r"pip install ([^.\s]+)", joined)
    assert len(lines) > 8
    allowed = re.compile(r"""["'](keras_qat\[\w+\])["']|--upgrade|pandas""")
    assert [line for line in lines if not allowed.match(line)] == []


def test_all_holds_what_users_may_want():
    (line,) = (each for each in extras()["all"] if "[" in each)
    within = set(re.search(r"\[(.*)\]", line)[1].split(","))
    assert within == {"docs", "ethosu", "examples", "export", "jax", "plots", "tensorflow", "tflm"}


def test_readme_says_how_to_install():
    assert 'pip install "keras_qat[tensorflow,export]"' in (ROOT / "README.md").read_text()


def test_readme_renders_on_a_package_index():
    renderer = pytest.importorskip("readme_renderer.markdown")
    page = renderer.render((ROOT / "README.md").read_text(encoding="utf-8"))
    assert page.count("<table>") == 2
    assert page.count("<pre") == 3
    assert "```" not in page
    assert "&lt;" not in page
