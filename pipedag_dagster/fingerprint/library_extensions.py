"""The user's code in classes of libraries: `df.shop.clean()` of a registered accessor, `DataFrame.clean = f`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

_EXTENDED = {
    "pandas": ("DataFrame", "Series", "Index", "MultiIndex", "DatetimeIndex", "Categorical", "Timestamp"),
    "pandas.api.typing": ("DataFrameGroupBy", "SeriesGroupBy", "Rolling", "Resampler"),
    "polars": ("DataFrame", "LazyFrame", "Series", "Expr"),
    "sqlalchemy": ("Table", "Column", "Select", "ColumnElement"),
    "pathlib": ("Path",),
}


def extensions(names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """What the classes that people extend have under some names, with a label."""
    for name in sorted(names):
        for owner, kind in _classes():
            try:
                value = getattr(kind, name, None)
            except Exception:  # a property of a class may raise anything
                continue
            if value is not None:
                yield f"{owner}.{name}", value


def _classes() -> Iterator[tuple[str, type]]:
    for module, names in _EXTENDED.items():
        loaded = sys.modules.get(module)
        for name in names if loaded is not None else ():
            kind = getattr(loaded, name, None)
            if isinstance(kind, type):
                yield f"{module}.{name}", kind
