"""A hook of mkdocs: writes `llms.txt`, a list of all pages for programs that read the site.

Each line has a page's title, its place, and its first sentence (https://llmstxt.org).
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.nav import Navigation, Section

_first_sentences: dict[str, str] = {}


def first_sentence(markdown: str) -> str:
    """The first sentence of the first paragraph that is no heading, picture, table or code."""
    for paragraph in re.split(r"\n\s*\n", markdown):
        if re.match(r"[A-Za-z\[*]|`[^`]", text := " ".join(paragraph.split())):
            plain = re.sub(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])", r"\1", text)
            return re.split(r"(?<=[.:?]) (?=[A-Z`])", plain)[0].rstrip(":")
    return ""


def lines(items: list[Any]) -> Iterator[str]:
    for item in items:
        if isinstance(item, Section):
            yield f"\n## {item.title}\n"
            yield from lines(item.children)
        else:
            said = _first_sentences[item.file.src_uri]
            yield f"- [{item.title}]({item.file.dest_uri}){': ' if said else ''}{said}"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> None:
    _first_sentences[page.file.src_uri] = first_sentence(markdown)


def on_env(env: Any, config: Any, **_: Any) -> None:
    config.extra["llms_txt"] = "\n".join(lines(config.extra["nav"]))


def on_nav(nav: Navigation, config: Any, **_: Any) -> None:
    config.extra["nav"] = nav.items


def on_post_build(config: Any, **_: Any) -> None:
    head = f"# {config.site_name}\n\n> {config.site_description}.\n"
    path = pathlib.Path(config.site_dir, "llms.txt")
    path.write_text(head + config.extra["llms_txt"] + "\n")
