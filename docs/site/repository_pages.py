"""A hook of mkdocs: links between files of the repository lead to the same files in the site.

Pages under `docs/` link to each other, and to files elsewhere in the repository, by paths that work
on the repository's web view. The site has `docs/` as its root. So this hook takes the linked files
from elsewhere into the site, under their paths in the repository, and rewrites the links. A Python
file becomes a page that shows it.
"""

from __future__ import annotations

import pathlib
import posixpath
import re
from collections.abc import Iterable
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)")


def site_path(path: pathlib.Path) -> str:
    """Where a file of the repository lies in the site, before pages become HTML."""
    if path == ROOT / "README.md":
        return "index.md"
    inside = path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT)
    return (inside.with_suffix(".md") if path.suffix == ".py" else inside).as_posix()


def linked(markdown: str, page: pathlib.Path) -> Iterable[pathlib.Path]:
    """The files that the text of a page links to."""
    for link in _LINK.findall(_FENCE.sub("", markdown)):
        path = (page.parent / link).resolve()
        if path.is_file() and path.is_relative_to(ROOT):
            yield path


def rewritten(markdown: str, page: pathlib.Path) -> str:
    """The text of a page with links as the site has them. Links that lead nowhere stay."""
    folder = posixpath.dirname(site_path(page))

    def rewrite(link: re.Match[str]) -> str:
        path = (page.parent / link[1]).resolve()
        if not (path.is_file() and path.is_relative_to(ROOT)):
            return link[1]
        return posixpath.relpath(site_path(path), folder or ".")

    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(rewrite, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(rewrite, markdown[end:])])


def as_page(source: pathlib.Path) -> str:
    """A Python file as a page."""
    return f"# {source.name}\n\n```python\n{source.read_text()}```\n"


def text_of(path: pathlib.Path) -> str:
    return as_page(path) if path.suffix == ".py" else path.read_text()


def on_files(files: Files, config: Any) -> Files:
    """Adds what the pages link to, and what these files link to in turn."""
    waiting = [pathlib.Path(page.abs_src_path) for page in files.documentation_pages()]
    sources = {site_path(path): path for path in waiting}
    while waiting:
        page = waiting.pop()
        for path in linked(text_of(page), page):
            uri = site_path(path)
            if uri in sources or files.get_file_from_path(uri):
                continue
            sources[uri] = path
            if uri.endswith(".md"):
                waiting.append(path)
                files.append(File.generated(config, uri, content=text_of(path)))
            else:
                files.append(File.generated(config, uri, abs_src_path=str(path)))
    config.extra["sources"] = sources
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    source = config.extra["sources"].get(page.file.src_uri)
    return markdown if source is None else rewritten(markdown, source)
