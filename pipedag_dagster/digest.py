"""One short hash for everything that is compared: code, values, queries and names."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

_LENGTH = 16  # hex digits: 64 bits are plenty to tell the versions of one task apart


def digest(*parts: str) -> str:
    """SHA-256 of texts, cut to 16 hex digits. Two different lists of parts are never joined to the same text.

    >>> digest("a", "bc") == digest("ab", "c")
    False
    """
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass")
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()[:_LENGTH]


class HasContent(Protocol):
    """An object of this package that says what of it counts when it is an argument or a constant of a task."""

    def content_for_hash(self) -> tuple[Any, ...]: ...
