"""Which bytes this process wrote and proved. Native runtimes run others in a worker process."""

from __future__ import annotations

import hashlib

_DIGESTS: set[bytes] = set()


def note_as_own(data: bytes) -> None:
    """Notes that this process made these bytes, so that they do no harm."""
    _DIGESTS.add(hashlib.sha256(data).digest())


def is_own(data: bytes) -> bool:
    """Whether this process made these bytes.

    >>> note_as_own(b"mine")
    >>> is_own(b"mine"), is_own(b"yours")
    (True, False)
    """
    return hashlib.sha256(data).digest() in _DIGESTS
