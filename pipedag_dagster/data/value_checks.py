"""Checks of the values of one column: a value that would change on its way is refused, with the number of its row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class Refusal(ValueError):
    """A value, or a whole column, cannot be converted without changing it.

    Args:
        reason: what is wrong and what to do, as in "it holds infinity. Select it as text."
        row: the position of the first such value, counted from 0; None when it is about the whole column.
    """

    def __init__(self, reason: str, row: int | None = None) -> None:
        super().__init__(reason if row is None else f"{reason} The first is in row {row + 1:,}.")
        self.reason = reason
        self.row = row


REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What may be raised when a column is converted."""

NAN_BESIDE_NULL = "it holds NaN beside NULL, which pandas cannot tell apart. Read it with polars, or select NULLIF(…)."
AS_TEXT = "Make it text (in SQL: column::text)."
_FIRST_DATE, _LAST_DATE = -719_162, 2_932_896  # the years 1 to 9999, in days
_YEARS = "outside of the years 1 to 9999, which Python cannot hold."
_DAY = 86_400_000_000


def refuse_where(bad: Any, reason: str) -> None:
    """Refuse the first row for which `bad`, an Arrow column of booleans, is true."""
    row = pc.index(bad, True).as_py()
    if row >= 0:
        raise Refusal(reason, row)


def check_times(column: Any) -> None:
    """Refuse dates, times and timestamps that Arrow holds as another value, or that Python cannot hold."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        ticks = column.cast(pa.int64())  # ADBC reads both infinities as long ago
        outside = pc.or_(pc.less(ticks, _FIRST_DATE * _DAY), pc.greater_equal(ticks, (_LAST_DATE + 1) * _DAY))
        refuse_where(outside, f"it holds infinity, or a timestamp {_YEARS} {AS_TEXT}")
    elif kind == pa.date32():
        days = column.cast(pa.int32())
        outside = pc.or_(pc.less(days, _FIRST_DATE), pc.greater(days, _LAST_DATE))
        refuse_where(outside, f"it holds infinity, or a date {_YEARS} {AS_TEXT}")
    elif kind == pa.time64("us"):
        ticks = column.cast(pa.int64())
        outside = pc.or_(pc.less(ticks, 0), pc.greater_equal(ticks, _DAY))
        refuse_where(outside, f"it holds the time 24:00, which Python cannot hold. {AS_TEXT}")


def check_finite(values: Iterable[Any]) -> None:
    """Refuse decimals that are NaN or infinite."""
    for row, value in enumerate(values):
        if isinstance(value, Decimal) and not value.is_finite():
            raise Refusal(
                "it holds decimals that are NaN or infinite, which Arrow cannot hold. Make them floats, or text.", row
            )


def json_values(texts: Iterable[str | None]) -> Iterator[Any]:
    """What each JSON text holds; None for NULL. Texts that Python would read as something else are refused."""
    for row, text in enumerate(texts):
        try:
            yield None if text is None else _decode(text)
        except (Refusal, json.JSONDecodeError) as error:
            raise Refusal(str(error), row) from None


def _float(text: str) -> float:
    value = float(text)
    if Decimal(text) not in (Decimal(repr(value)), Decimal(value) if math.isfinite(value) else None):
        raise Refusal(f"it holds JSON with the number {text:.40}, which no float is equal to. {AS_TEXT}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refusal(f"it holds JSON in which an object has the same key twice. {AS_TEXT}")
    return found


_decode = json.JSONDecoder(parse_float=_float, object_pairs_hook=_object).decode
