"""Every tutorial runs, in a small mode, and its own assertions hold."""

import json
import pathlib
import re
import runpy
import sys

import pytest

DOCS = pathlib.Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "tutorials"
SMALL = {
    "finding_a_bad_layer": {"FLOAT_EPOCHS": 2},
    "first_model_to_phone": {"FLOAT_EPOCHS": 2, "EPOCHS": 1},
    "motion_on_a_microcontroller": {"FLOAT_EPOCHS": 3, "EPOCHS": 2, "WINDOWS": 800},
    "own_quantizer": {"FLOAT_EPOCHS": 2, "EPOCHS": 1},
    "two_bits_with_gdnsq": {"FLOAT_EPOCHS": 4, "EPOCHS": 8},
}


@pytest.fixture(scope="module")
def script():
    path = list(sys.path)
    yield runpy.run_path(str(DOCS / "make_tutorials.py"))
    sys.path[:] = path


def test_every_tutorial_has_a_small_mode(script):
    assert [path.stem for path in script["files"]()] == sorted(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_runs(script, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = script["run"](FOLDER / f"{name}.py", SMALL[name])
    kept = json.loads((FOLDER / name / "outputs.json").read_text())["outputs"]
    # The same cells print, in few epochs as in a full run.
    assert [bool(each) for each in outputs] == [bool(each) for each in kept]


TEXT = """# %% [markdown]
# # Title
#
# Words.

# %% tags=["parameters"]
N = 3

# %%
print(2 * N)
"""


@pytest.fixture
def tutorial(tmp_path):
    path = tmp_path / "short.py"
    path.write_text(TEXT)
    return path


def test_cells_run_in_order_with_other_parameters(script, tutorial):
    assert script["run"](tutorial) == ["", "6"]
    assert script["run"](tutorial, {"N": 4}) == ["", "8"]


def test_an_unknown_parameter_is_an_error(script, tutorial):
    with pytest.raises(ValueError, match=r"short.py has no parameters \['M'\]"):
        script["run"](tutorial, {"M": 4})


@pytest.fixture
def pages(script):
    pytest.importorskip("mkdocs", reason="mkdocs builds the site: pip install -e '.[docs]'")
    return runpy.run_path(str(DOCS / "site" / "tutorial_pages.py"))


def test_its_page_shows_text_code_and_outputs(script, pages, tutorial):
    kept = tutorial.with_suffix("")
    kept.mkdir()
    content = {"digest": script["digest"](tutorial), "outputs": ["", "6"]}
    (kept / "outputs.json").write_text(json.dumps(content))
    assert pages["page"](tutorial) == (
        '# Title\n\nWords.\n\n[This page as a notebook](short.ipynb){ download="short.ipynb" }\n\n'
        "```python\nN = 3\n```\n\n```python\nprint(2 * N)\n```\n\n```text\n6\n```\n"
    )


def test_outputs_of_other_code_end_the_build(pages, tutorial):
    from mkdocs.exceptions import PluginError

    with pytest.raises(PluginError, match=r"make_tutorials\.py short"):
        pages["page"](tutorial)


def test_its_notebook_has_the_same_cells(pages, tutorial):
    notebook = json.loads(pages["notebook"](tutorial))
    assert notebook["nbformat"] == 4
    assert [(cell["cell_type"], cell["source"]) for cell in notebook["cells"]] == [
        ("markdown", "# Title\n\nWords."),
        ("code", "N = 3"),
        ("code", "print(2 * N)"),
    ]
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if "outputs" in cell)


@pytest.mark.parametrize("name", SMALL)
def test_every_notebook_is_valid_and_has_the_code_of_its_tutorial(pages, script, name):
    nbformat = pytest.importorskip("nbformat", reason="the extra keras_qat[test] has it")
    path = FOLDER / f"{name}.py"
    notebook = nbformat.reads(pages["notebook"](path), as_version=4)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert code == [cell.source for cell in script["cells"](path) if not cell.is_text]
    lines = {line for line in path.read_text().splitlines() if line and line[0] != "#"}
    assert lines <= set("\n".join(code).splitlines())


@pytest.mark.parametrize("name", SMALL)
def test_no_link_of_a_notebook_leads_to_a_file_beside_it(pages, name):
    cells = json.loads(pages["notebook"](FOLDER / f"{name}.py"))["cells"]
    text = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    assert len(text) > 500
    assert re.findall(r"\]\((?!http)", text) == []
