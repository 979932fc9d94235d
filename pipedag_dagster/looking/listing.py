"""Lists that print well: in Python, on a terminal, and in notebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Generic, TypeVar, overload

from rich.table import Table as Grid
from rich.text import Text

_T = TypeVar("_T")


class Listing(Sequence[_T], Generic[_T]):
    """A list whose items are shown as the rows of a table.

    Args:
        items: of the list.
        columns: the name of each column, and the function that makes its text of an item. Columns whose name begins
            with `#` hold numbers.
        empty: shown in place of an empty table.
    """

    def __init__(self, items: Sequence[_T], columns: dict[str, Callable[[_T], str]], empty: str) -> None:
        self._items = tuple(items)
        self._columns = columns
        self._empty = empty

    @overload
    def __getitem__(self, index: int) -> _T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_T]: ...
    def __getitem__(self, index: int | slice) -> _T | Sequence[_T]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def _texts(self) -> Iterator[list[str]]:
        yield [name.removeprefix("#") for name in self._columns]
        for item in self._items:
            yield [text(item) for text in self._columns.values()]

    def __repr__(self) -> str:
        if not self._items:
            return self._empty
        rows = list(self._texts())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        numeric = [name.startswith("#") for name in self._columns]
        return "\n".join(
            "  ".join(
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(row, widths, numeric, strict=True)
            ).rstrip()
            for row in rows
        )

    def __rich__(self) -> Grid | Text:
        if not self._items:
            return Text(self._empty)
        grid = Grid(box=None, padding=(0, 2, 0, 0))
        heads, *rows = self._texts()
        for name, head in zip(self._columns, heads, strict=True):
            grid.add_column(head, justify="right" if name.startswith("#") else "left", overflow="fold")
        for row in rows:
            grid.add_row(*map(Text, row))
        return grid

    def _repr_html_(self) -> str:
        if not self._items:
            return f"<p>{escape(self._empty)}</p>"
        heads, *rows = self._texts()
        style = [' style="text-align: right"' if name.startswith("#") else "" for name in self._columns]

        def line(tag: str, texts: Sequence[str]) -> str:
            cells = "".join(f"<{tag}{align}>{escape(text)}</{tag}>" for align, text in zip(style, texts, strict=True))
            return f"<tr>{cells}</tr>"

        body = "".join(line("td", row) for row in rows)
        return f"<table><thead>{line('th', heads)}</thead><tbody>{body}</tbody></table>"
