"""The Python blocks of README and of all pages run as they stand, page by page, in order."""

import ast
import functools
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "guide"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
LEFT_BEHIND = {
    "README": ["model.tflite"],
    "quantize": ["qat.keras"],
    "training": ["model.tflite"],
    "gdnsq": ["best.keras", "dynamics.png", "capacity.png", "widths.png"],
    "pege": ["errors.png"],
    "index": ["model.tflite"],
    "quickstart": ["digits.tflite", "firmware/digits_model.cc"],
    "recipe": [],
    "low_bits": ["one_bit.keras"],
    "from_scratch": ["from_scratch.tflite"],
    "own_estimator": ["calmed.keras", "calmed.tflite"],
    "several_machines": ["model.tflite"],
    "litert": ["model.tflite"],
    "tflm": ["firmware/net.tflite"],
    "ethos-u": ["model.tflite"],
    "coming_from_qkeras_and_larq": [],
    "debugging": ["model.tflite"],
    "ideas": ["model.tflite"],
    "export": [
        "model.tflite",
        "camera.tflite",
        "encoder.tflite",
        "shapes.tflite",
        "graph.npz",
        "fixed.tflite",
    ],
    "microcontrollers": [
        "memory.png",
        "firmware/net_main.cc",
        "firmware/net.tflite",
        "anywhere.tflite",
    ],
    "own_layers": ["turned.tflite"],
}
"""What the blocks of each page write. A page with blocks needs an entry."""


def python_blocks(page: pathlib.Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


TRAIN_FOR_REAL = {"quickstart"}
WITH_BLOCKS = [
    pytest.param(page, marks=[pytest.mark.slow] if page.stem in TRAIN_FOR_REAL else [])
    for page in [README, *sorted((ROOT / "docs").rglob("*.md"))]
    if python_blocks(page) and page.stem != "coming_from_tfmot"  # tests/tfmot/test_the_page.py
]


def prepared_names():
    """The names that every page may use without saying where they come from."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(4, 3, activation="relu", name="conv_1"),
            layers.Flatten(name="flatten"),
            layers.Dense(3, name="head"),
        ]
    )
    names = {
        "model": model,
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "x": np.random.default_rng(0).normal(size=(640, 8, 8, 1)).astype(np.float32),
        "y": np.arange(640) % 3,
        "strategy": tf.distribute.get_strategy(),
    }
    names["dataset"] = tf.data.Dataset.from_tensor_slices((names["x"], names["y"])).batch(64)
    return names


@pytest.fixture
def prepared():
    return prepared_names()


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.stem)
def test_every_python_block_runs(page, prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(python_blocks(page)):
        exec(compile(block, f"{page.name}, block {number}", "exec"), prepared)
    if "report" in prepared:
        assert prepared["report"].mismatches == 0
    assert [name for name in LEFT_BEHIND[page.stem] if not (tmp_path / name).exists()] == []


def free_names(blocks):
    """The names that blocks read before any of them gives them a value."""
    given, free = set(), set()
    for block in blocks:
        nodes = list(ast.walk(ast.parse(block)))
        names = [each for each in nodes if isinstance(each, ast.Name)]
        given |= {each.id for each in names if isinstance(each.ctx, ast.Store)}
        given |= {each.arg for each in nodes if isinstance(each, ast.arg)}
        free |= {each.id for each in names} - given
    return free


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.stem)
def test_a_page_says_what_it_calls_model_or_x(page, prepared):
    text = page.read_text()
    used = free_names(python_blocks(page)) & set(prepared)
    assert [name for name in sorted(used) if f"`{name}`" not in text] == []


def test_a_name_that_a_block_makes_is_not_free():
    assert free_names(["a = b", "def f(c):\n    return a + c + d"]) == {"b", "d"}


def test_every_recipe_is_a_config(prepared):
    """The lines of the table of recipes, which are no blocks."""
    text = (ROOT / "docs" / "recipe.md").read_text()
    lines = re.findall(r"`(keras_qat\.\w+Config\(.*?\))`", text)
    assert len(lines) > 5
    for line in lines:
        config = eval(line, {"keras_qat": keras_qat})
        assert keras_qat.plan(prepared["model"], config).layers


@pytest.mark.parametrize("name", ["recipe", "index", "guide/low_bits"])
def test_figures_of_entry_pages_stand_in_the_results(name):
    """Accuracies and bytes are those of the pages of results that the page links to."""
    page = ROOT / "docs" / f"{name}.md"
    links = re.findall(r"\]\(((?:\.\./)+benchmarks/results/\w+\.md)\)", page.read_text())
    results = "\n".join((page.parent / link).read_text() for link in set(links))
    figures = re.findall(r"\b\d\d\.\d\d\b|\b\d+,\d{3}\b", page.read_text())
    assert len(figures) > 5
    assert [figure for figure in figures if figure not in results] == []


def test_the_landing_page_is_short():
    prose = re.sub(r"^```.*?^```", "", (ROOT / "docs" / "index.md").read_text(), flags=re.S | re.M)
    assert len(prose.split()) <= 400


def test_the_first_hour_was_measured_as_its_script_does_and_the_quickstart_takes_a_minute():
    script = (ROOT / "benchmarks" / "first_hour.py").read_text()
    page = (ROOT / "benchmarks" / "results" / "first_hour.md").read_text()
    extras = re.search(r'^EXTRAS = "(.*)"$', script, re.MULTILINE)[1]
    assert f'`pip install -e ".[{extras}]"`' in page
    assert int(re.search(r"^\| quickstart as a whole \| (\d+) \|$", page, re.MULTILINE)[1]) <= 60


def test_it_names_two_commands():
    commands = re.findall(r"```sh\n(python3\.11 .*?)\n```", README.read_text())
    assert [command.split()[-1] for command in commands] == ["examples/quickstart.py", "pytest"]


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 120


def headings(page: pathlib.Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in headings(target), link


PLACES = r"(?:keras_qat|tflite_export|tests|docs|examples|benchmarks)/"


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_named_file_exists(page):
    named = re.findall(rf"`({PLACES}[\w/.]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@functools.cache
def strings_of_the_packages() -> str:
    """Every string in the sources, as Python joins it; what is filled in is left out."""
    found = []
    for package in ("keras_qat", "tflite_export"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_messages_in_troubleshooting_are_those_of_the_code():
    text = re.sub(r"\s+", " ", (GUIDE / "troubleshooting.md").read_text())
    quoted = [
        part.strip()
        for bold in re.findall(r"\*\*(.*?)\*\*", text)
        for message in re.findall(r'"(.*?)"', bold)
        for part in message.split("...")
        if part.strip()
    ]
    assert len(quoted) > 25
    assert [part for part in quoted if part not in strings_of_the_packages()] == []
