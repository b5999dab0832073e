"""Pages, docstrings and comments avoid the phrases that make a reader stop.

`python -m tests.test_plain_english` prints every offence.
"""

import ast
import io
import pathlib
import re
import tokenize
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]

PHRASES = {
    r"that of": "repeat the noun: 'the scale of the weights', not 'that of the weights'",
    r"those of": "repeat the noun",
    r"of what": "name it: 'of the values that ...'",
    r"of which": "start a new sentence",
    r"for people": "leave it out, or say who reads it",
    r"so as to": "'to'",
    r"as ever": "'as before', 'as usual', or leave it out",
    r"likewise": "'also', or repeat the words",
    r"but for": "'except'",
    r"in (?:the )?place of": "'instead of'",
    r"(?:the user's|one's) own": "'your', or 'a function that the user wrote'",
    r"makes? of": "'computes from', 'turns into'",
    r"so (?:few|many)": "say how many",
    r"(?:there|where|here)(?:of|by|in|upon)": "'of it', 'by it', 'in it'",
    r"is the matter of": "'belongs to'",
    r"of no use": "'useless', or say why",
    r"in silence": "'silently'",
    r"nor (?:is|are|does|do)": "'and ... not'",
    r"or not at all": "say what happens",
    r"too(?=[.,;:])(?<=, too)": "'also', before the verb",
    r"whatever it is": "'any'",
}
"""Phrase -> what to write."""

_SEPARATORS = re.compile(r"(?<=[.!?:])\s+|\n\s*\n|\n(?=\s*[*|#-])")


def offences(text: str) -> Iterator[str]:
    """What is to be rewritten in a text, each with a few words around it."""
    for phrase, advice in PHRASES.items():
        for found in re.finditer(rf"\b{phrase}\b", re.sub(r"\s+", " ", text), re.IGNORECASE):
            around = found.string[max(0, found.start() - 30) : found.end() + 30]
            yield f"...{around}...: {advice}"
    for sentence in _SEPARATORS.split(text):
        if sentence.count(";") >= 2:
            yield f"{' '.join(sentence.split())[:80]}...: two semicolons; make sentences"


def without_code(text: str) -> str:
    """A page or a docstring without code blocks, examples, code in a line, and addresses."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ *>>> .*?(?=\n\s*\n|\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "`code`", text)


def texts(path: pathlib.Path) -> Iterator[str]:
    """The prose of a page or of a module: docstrings, and comments, a run of lines as one."""
    source = path.read_text()
    if path.suffix == ".md":
        yield without_code(source)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield without_code(str(node.value.value))
    comments = [
        (token.start[0], token.string.lstrip("# "))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    run, last = [], None
    for line, comment in comments:
        if last is not None and line != last + 1:
            yield without_code(" ".join(run))
            run = []
        run.append(comment)
        last = line
    yield without_code(" ".join(run))


def files() -> list[pathlib.Path]:
    """Every page, and every module that is no test."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
    rooms = ("keras_qat", "tflite_export", "benchmarks", "docs", "examples")
    modules = [path for room in rooms for path in ROOT.glob(f"{room}/**/*.py")]
    return sorted(pages + modules)


def found_in(path: pathlib.Path) -> list[str]:
    return [offence for text in texts(path) for offence in offences(text)]


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The scale is that of the weights.", 1),
        ("So many bits; no more; no less.", 2),
        ("One; two.\n\nThree; four.", 0),
        ("It is one, too.", 1),
        ("It is too much.", 0),
        ("Plain words.", 0),
    ],
)
def test_it_finds_phrases_and_chains(text, count):
    assert len(list(offences(text))) == count


def test_code_is_not_prose():
    assert "those of" not in without_code(
        "```\nthose of\n```\n`those of`\n\n>>> those of\nthose of"
    )


def test_pages_and_docstrings_are_plain():
    found = {name_of(path): found_in(path) for path in files()}
    assert {name: some for name, some in found.items() if some} == {}


if __name__ == "__main__":
    for each in files():
        for offence in found_in(each):
            print(f"{name_of(each)}: {offence}")
