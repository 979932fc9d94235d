"""Why a run made a table, or did not."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ReasonKind(enum.StrEnum):
    """The kinds of reasons. The values are what the catalog stores."""

    cached = "cached"
    new = "new"
    code = "code changed"
    version = "version changed"
    query = "query changed"
    argument = "argument changed"
    input = "input changed"
    fresh_input = "fresh input"
    forced = "forced"
    written = "written"
    unchanged = "unchanged"


@dataclass(frozen=True)
class Reason:
    """Why a run made a table, or did not. Its text is what people see.

    Attributes:
        kind: of the reason.
        details: what changed: the names of functions, arguments or inputs; for `version`, the old code version and the
            new one.

    Example:
        >>> print(Reason(ReasonKind.code, ("helper()", "LIMIT")))
        code changed (helper(), LIMIT)
        >>> print(Reason(ReasonKind.version, ("1.0", "1.1")))
        code changed (1.0 → 1.1)
    """

    kind: ReasonKind
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        match self.kind:
            case ReasonKind.version:
                return f"code changed ({' → '.join(self.details)})"
            case ReasonKind.code | ReasonKind.argument:
                return f"{self.kind.value} ({', '.join(self.details)})"
            case ReasonKind.input:
                return f"{self.kind.value}: {', '.join(self.details)}"
        return self.kind.value


CACHED = Reason(ReasonKind.cached)
"""The catalog had a result for the same key, so nothing ran."""
NEW = Reason(ReasonKind.new)
"""The stage has no such table yet."""
