"""Reads which names the code of a user's class mentions."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator
from typing import Any

_OF_LIBRARIES = ("keras.", "keras_qat.", "tensorflow.", "builtins")


def own_kinds(kind: type) -> list[type]:
    """The class and its bases that a user wrote, in the order in which attributes are looked up."""
    return [each for each in kind.__mro__ if not f"{each.__module__}.".startswith(_OF_LIBRARIES)]


def mentioned_names(kind: type, without: Collection[str] = ()) -> set[str]:
    """The names that methods of a user's class mention, also in functions inside them.

    Args:
        kind: the class.
        without: methods whose code does not count.
    """
    found: set[str] = set()
    for own in own_kinds(kind):
        for name, value in vars(own).items():
            if name not in without:
                found.update(*(each.co_names for each in _codes(value)))
    return found


def _codes(value: Any) -> Iterator[types.CodeType]:
    """The code of a method, a property, or a function that a class or a static method holds."""
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)
    if isinstance(value, types.FunctionType):
        yield from _with_inner(value.__code__)


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_inner(constant)
