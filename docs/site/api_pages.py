"""A hook of mkdocs: writes one page for each public namespace, from its `__all__`.

A name that several namespaces list is described in the innermost one, and the others link to it. A
public name without a docstring ends the build. Where other pages say a public name as code, it
becomes a link to its description.
"""

from __future__ import annotations

import ast
import functools
import pathlib
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Any

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[2]
CODE_OR_NAME = re.compile(
    r"^ *```.*?^ *```$|^#.*?$|\[[^\]]*\]\(|`([\w.]+)(?:\(\))?`", re.DOTALL | re.MULTILINE
)
"""Fences, headings and links, to pass over; or code in a line, which may be a name."""
ROOTS = ("keras_qat", "keras_qat.quantizers", "tflite_export")
"""Packages whose public names, and the namespaces among them, have pages."""


@functools.cache
def module_file(module: str) -> pathlib.Path | None:
    """The file of a module of this repository, or `None`."""
    path = ROOT.joinpath(*module.split("."))
    files = (path / "__init__.py", path.with_suffix(".py"))
    return next((each for each in files if each.is_file()), None)


@functools.cache
def imported(module: str) -> dict[str, str]:
    """What a module imports from others of this repository: name -> the module it comes from."""
    return {
        each.name: node.module
        for node in ast.walk(ast.parse(module_file(module).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module != module and module_file(node.module)
        for each in node.names
    }


@functools.cache
def public_names(module: str) -> tuple[str, ...]:
    for node in ast.parse(module_file(module).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return tuple(ast.literal_eval(node.value))
    raise PluginError(f"{module} is a public namespace and has no __all__. List its public names.")


def definition(module: str, name: str) -> str:
    """The path of the line that defines a name, through all imports."""
    while name in imported(module):
        module = imported(module)[name]
    return f"{module}.{name}"


def is_namespace(path: str) -> bool:
    return module_file(path) is not None


def namespaces(roots: Iterable[str] = ROOTS) -> Iterator[str]:
    """Every public namespace: a root, and what its names lead to."""
    for module in roots:
        yield module
        yield from namespaces(
            path for name in public_names(module) if is_namespace(path := definition(module, name))
        )


@functools.cache
def homes() -> dict[str, str]:
    """The namespace that describes each definition: the innermost one that lists it."""
    found: dict[str, str] = {}
    for module in sorted(namespaces(), key=lambda each: each.count(".")):
        found |= {definition(module, name): module for name in public_names(module)}
    return found


def summaries(modules: Any, paths: Iterable[str]) -> dict[str, str]:
    """The first sentence of each docstring. A name without one is an error that lists them all."""
    found = {path: modules[path].docstring for path in paths}
    silent = sorted(path for path, docstring in found.items() if docstring is None)
    if silent:
        raise PluginError(f"Public names without a docstring: {', '.join(silent)}. Write one.")
    firsts = {path: docstring.value.split("\n\n")[0] for path, docstring in found.items()}
    return {path: " ".join(text.split()) for path, text in firsts.items()}


def page(module: str, said: dict[str, str], home: dict[str, str]) -> str:
    """The page of a namespace: a table of its names, and what it describes itself."""
    rows, described = [], []
    for name in public_names(module):
        path = definition(module, name)
        if is_namespace(path):
            link = f"{path}.md"
        else:
            link = f"{'' if home[path] == module else home[path] + '.md'}#{path}"
        rows.append(f"| [`{name}`]({link}) | {said[path].replace('|', chr(92) + '|')} |")
        if home[path] == module and not is_namespace(path):
            described.append(f"::: {path}\n    options:\n      heading: {name}\n")
    head = f"# {module}\n\n{said[module]}\n\n| name | what it is |\n|---|---|\n"
    return head + "\n".join(rows) + "\n\n" + "\n".join(described)


def pages() -> dict[str, str]:
    """Every page by its place in the site."""
    loader = griffe.GriffeLoader(search_paths=[ROOT])
    for package in {root.partition(".")[0] for root in ROOTS}:
        loader.load(package)
    home, all_namespaces = homes(), list(namespaces())
    said = summaries(loader.modules_collection, {*home, *all_namespaces})
    return {f"api/{module}.md": page(module, said, home) for module in all_namespaces}


def on_files(files: Files, config: Any) -> Files:
    for uri, content in pages().items():
        files.append(File.generated(config, uri, content=content))
    return files


@functools.cache
def places() -> dict[str, str]:
    """Where a public name is described, by the name alone and with its namespace.

    A name of one lower-case word, such as `run`, needs its namespace.
    """
    found = {}
    for module in namespaces():
        for name in public_names(module):
            path = definition(module, name)
            if not is_namespace(path):
                place = f"api/{homes()[path]}.md#{path}"
                found |= {f"{module}.{name}": place}
                if "_" in name or name != name.lower():
                    found |= {name: place}
    return found


def linked(markdown: str, uri: str) -> str:
    """The text of a page with a link from every public name. Fences, headings and links stay."""
    folder = posixpath.dirname(uri) or "."

    def link(found: re.Match[str]) -> str:
        place = places().get(found[1] or "")
        return found[0] if place is None else f"[{found[0]}]({posixpath.relpath(place, folder)})"

    return CODE_OR_NAME.sub(link, markdown)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    uri = page.file.src_uri
    return markdown if uri.startswith("api/") else linked(markdown, uri)
