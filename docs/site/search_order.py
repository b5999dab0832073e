"""A hook of mkdocs: pages that teach come before pages that record, in what the search finds.

Files of code that the site shows are left out: a page that links to one is found instead.
"""

from __future__ import annotations

from typing import Any

WEIGHTS = {
    "decisions/": 0.2,
    "benchmarks/": 0.3,
    "CHANGELOG.md": 0.1,
    "architecture.md": 0.3,
    "guide/": 2.0,
    "tutorials/": 1.5,
}
"""Beginnings of pages' places -> what their scores are multiplied by."""


def settings(uri: str, is_code: bool) -> dict[str, Any]:
    """What the search shall know of a page."""
    if is_code:
        return {"exclude": True}
    found = [weight for begin, weight in WEIGHTS.items() if uri.startswith(begin)]
    return {"boost": found[0]} if found else {}


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> None:
    uri = page.file.src_uri
    source = config.extra["sources"].get(uri)
    is_code = source is not None and source.suffix == ".py" and not uri.startswith("tutorials/")
    page.meta["search"] = settings(uri, is_code)
