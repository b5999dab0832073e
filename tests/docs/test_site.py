"""The site is built without a warning, describes every public name, and loads nothing from afar."""

import html.parser
import importlib
import inspect
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
pytest.importorskip("mkdocs", reason="mkdocs builds the site: pip install -e '.[docs]'")
pytest.importorskip("mkdocstrings", reason="it writes the API: pip install -e '.[docs]'")


@pytest.fixture(scope="module")
def links():
    return runpy.run_path(str(ROOT / "docs" / "site" / "repository_pages.py"))


@pytest.fixture(scope="module")
def api():
    return runpy.run_path(str(ROOT / "docs" / "site" / "api_pages.py"))


def build(config: pathlib.Path, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", folder]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # about the future of mkdocs, for people
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=quiet)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT / "mkdocs.yml", folder)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


class Loaded(html.parser.HTMLParser):
    """What a browser fetches for a page, and where a reader may go."""

    def __init__(self, page: pathlib.Path):
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.without_text: list[str] = []
        self.classes: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.classes |= set((named.get("class") or "").split())
        if tag == "img" and not named.get("alt"):
            self.without_text.append(named["src"])
        if tag == "a":
            self.links.append(named.get("href") or "")
        else:
            self.fetched += [named[key] for key in ("src", "href") if named.get(key)]


def pages(site: pathlib.Path) -> dict[str, Loaded]:
    return {path.relative_to(site).as_posix(): Loaded(path) for path in site.rglob("*.html")}


def test_no_page_loads_anything_from_elsewhere(site):
    found = pages(site)
    assert len(found) > 80
    for name, page in found.items():
        assert [each for each in page.fetched if "//" in each] == [], name
        # Classes for which the theme's script would fetch a library or ask a server.
        assert not page.classes & {"mermaid", "md-source"}, name


def test_every_picture_says_what_it_shows(site):
    assert {
        name: page.without_text for name, page in pages(site).items() if page.without_text
    } == {}


def test_every_fetched_file_and_every_linked_page_is_there(site):
    missing = []
    for name, page in pages(site).items():
        for link in page.fetched + page.links:
            target = link.partition("#")[0].partition("?")[0]
            if target and "//" not in target and name != "404.html":
                path = (site / name).parent / target
                missing += [] if path.exists() else [(name, link)]
    assert missing == []


def test_every_public_name_is_described(site, api):
    for module in api["namespaces"]():
        text = (site / "api" / f"{module}.html").read_text()
        for name in importlib.import_module(module).__all__:
            assert f">{name}</code></a>" in text, f"{module}.{name}"
    identifiers = {
        path: (site / "api" / f"{home}.html").read_text() for path, home in api["homes"]().items()
    }
    for path, text in identifiers.items():
        if not api["is_namespace"](path):
            assert f'id="{path}"' in text, path


def public_classes(api):
    for path in api["homes"]():
        module, _, name = path.rpartition(".")
        if not api["is_namespace"](path):
            found = getattr(importlib.import_module(module), name)
            if isinstance(found, type):
                yield path, found


def overrides(base: type, name: str) -> bool:
    """Whether a method is one of Keras or Python: their documents describe it."""
    ours = ("keras_qat", "tflite_export")
    return hasattr(base, name) and not base.__module__.startswith(ours)


def test_every_method_of_a_public_class_is_described(api):
    """By itself, or by the method of a base class that it overrides."""
    silent = [
        f"{path}.{name}"
        for path, found in public_classes(api)
        for name, member in vars(found).items()
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property))
        if inspect.getdoc(getattr(found, name)) is None
        if not any(overrides(base, name) for base in found.__mro__)
    ]
    assert silent == []


def test_a_public_name_without_a_docstring_ends_the_build(api):
    from griffe import Attribute, Docstring
    from mkdocs.exceptions import PluginError

    modules = {name: Attribute(name) for name in ("said", "silent")}
    modules["said"].docstring = Docstring("What it\nis.\n\nMore.")
    assert api["summaries"](modules, ["said"]) == {"said": "What it is."}
    with pytest.raises(PluginError, match="without a docstring: silent"):
        api["summaries"](modules, modules)


def test_a_dead_link_ends_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[nowhere](nowhere.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: test\n")
    built = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert built.returncode != 0
    assert "nowhere.md" in built.stderr


@pytest.mark.parametrize(
    ("page", "link", "in_the_site"),
    [
        ("docs/guide/export.md", "../glossary.md#code", "../glossary.md#code"),
        (
            "docs/guide/export.md",
            "../../benchmarks/results/pege.md",
            "../benchmarks/results/pege.md",
        ),
        ("docs/guide/export.md", "../../examples/digits.py", "../examples/digits.md"),
        ("docs/guide/export.md", "../../README.md", "../index.md"),
        ("benchmarks/results/pege.md", "../../docs/glossary.md", "../../glossary.md"),
        ("benchmarks/results/pege.md", "estimators.md", "estimators.md"),
        ("docs/index.md", "https://keras.io", "https://keras.io"),
        ("docs/index.md", "nowhere.md", "nowhere.md"),
        ("docs/index.md", "#anchor", "#anchor"),
    ],
)
def test_a_link_leads_to_the_same_file(links, page, link, in_the_site):
    rewritten = links["rewritten"](f"See [it]({link}).\n", ROOT / page)
    assert rewritten == f"See [it]({in_the_site}).\n"


def test_a_link_in_a_block_of_code_stays(links):
    text = "```\n[it](../README.md)\n```\n"
    assert links["rewritten"](text, ROOT / "docs" / "index.md") == text


@pytest.mark.parametrize(
    ("text", "in_the_site"),
    [
        (
            "Call `LSQConfig()`.",
            "Call [`LSQConfig()`](../api/keras_qat.md#keras_qat.config.LSQConfig).",
        ),
        (
            "`tflite_export.export`",
            "[`tflite_export.export`](../api/tflite_export.md#tflite_export.export.export)",
        ),
        ("`run`, `model.fit`", "`run`, `model.fit`"),
        ("[`LSQConfig`](x.md)", "[`LSQConfig`](x.md)"),
        ("## `LSQConfig`", "## `LSQConfig`"),
        ("```python\n`LSQConfig`\n```", "```python\n`LSQConfig`\n```"),
    ],
)
def test_a_public_name_becomes_a_link(api, text, in_the_site):
    assert api["linked"](text, "guide/export.md") == in_the_site


@pytest.fixture(scope="module")
def docstrings():
    path = list(sys.path)
    yield runpy.run_path(str(ROOT / "docs" / "site" / "docstrings.py"))
    sys.path[:] = path


def test_examples_in_docstrings_become_blocks(docstrings):
    text = "It is 1.\n\n>>> 1\n1\n\nMore."
    assert docstrings["fenced"](text) == "It is 1.\n\n```pycon\n>>> 1\n1\n```\n\nMore."


def test_public_names_in_docstrings_become_links_but_to_themselves(docstrings):
    path = "keras_qat.config.LSQConfig"
    assert docstrings["linked"]("See `LSQConfig`.") == f"See [`LSQConfig`][{path}]."
    assert docstrings["linked"]("See `LSQConfig`.", but=path) == "See `LSQConfig`."


def test_the_list_for_programs_names_every_page_of_the_navigation(site):
    text = (site / "llms.txt").read_text()
    assert "- [Quickstart](quickstart.html): From a float model to files" in text
    places = re.findall(r"\]\((.+?)\)", text)
    assert len(places) > 40
    assert [each for each in places if not (site / each).exists()] == []


@pytest.mark.parametrize(
    "task",
    [
        "[QAT from scratch](guide/from_scratch.html)",
        "[Low-bit training](guide/low_bits.html)",
        "[More than one machine, and JAX](guide/several_machines.html)",
        "[Debugging accuracy](guide/debugging.html)",
        "[Own layer](guide/own_layers.html)",
        "[Own estimator](guide/own_estimator.html)",
        "[A quantizer of your own](tutorials/own_quantizer.html)",
    ],
)
def test_the_navigation_names_the_task(site, task):
    assert task in (site / "llms.txt").read_text()


@pytest.fixture(scope="module")
def index(site):
    """What the search reads where the site lies in a folder."""
    text = (site / "search" / "search_index.js").read_text()
    return json.loads(text.removeprefix("var __index = "))


@pytest.fixture(scope="module")
def searched(index):
    """What the search finds: page -> the factor of its score."""
    return {each["location"].partition("#")[0]: each.get("boost", 1) for each in index["docs"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Loops (LSTM), unrolled", ["Loops", "LSTM", "unrolled"]),
        ("keras_qat.quantize(model, bits=2.5)", ["keras_qat", "quantize", "model", "bits", "2.5"]),
        ("per-channel: `axis`", ["per", "channel", "axis"]),
    ],
)
def test_the_search_finds_a_word_whatever_stands_around_it(index, text, words):
    assert [each for each in re.split(index["config"]["separator"], text) if each] == words


def test_the_search_finds_every_page_of_the_navigation(site, searched):
    places = set(re.findall(r"\]\((.+?)\)", (site / "llms.txt").read_text()))
    assert places - set(searched) == set()


def test_the_search_finds_pages_that_teach_first_and_no_files_of_code(searched):
    recorded = [weight for place, weight in searched.items() if place.startswith("decisions/")]
    assert len(recorded) > 40
    assert max(recorded) < 1 < searched["guide/training.html"]
    assert [place for place in searched if place.startswith(("examples/", "tests/"))] == []


@pytest.mark.parametrize(
    ("markdown", "sentence"),
    [
        ("# Title\n\nOne `a.b`\nline. Two.", "One `a.b` line."),
        ("# Title\n\n```py\nA\n```\n\n[`A`](y.md) is B. C", "`A` is B."),
        ("# Title\n\n![A picture](x.png)\n\n| a |\n\nSee [it](y.md): more.", "See it: more."),
        ("# Title", ""),
    ],
)
def test_a_page_is_named_by_its_first_sentence(markdown, sentence):
    script = runpy.run_path(str(ROOT / "docs" / "site" / "llms_txt.py"))
    assert script["first_sentence"](markdown) == sentence
