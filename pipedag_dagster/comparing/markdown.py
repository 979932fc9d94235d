"""A comparison as Markdown: the summary of a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipedag_dagster.comparing.table_diff import Status, TableDiff, described_row, shown


def markdown(left: str, right: str, summary: str, tables: Sequence[TableDiff]) -> str:
    """A table of what differs, and a foldable part for each table with more to say."""
    different = [table for table in tables if table.status is not Status.equal]
    lines = [f"### {_text(summary)}", ""]
    if different:
        heads = ["table", "rows", "in both", f"only {left}", f"only {right}", "changed rows", "what"]
        lines += ["| " + " | ".join(map(_text, heads)) + " |", "|---|---|--:|--:|--:|--:|---|"]
        lines += [f"| {' | '.join(map(_text, row))} |" for row in map(overview_row, different)]
    for table in different:
        details = list(_details(left, right, table))
        if details:
            lines += ["", f"<details><summary>{_text(table.name)}</summary>", "", *details, "", "</details>"]
    return "\n".join(lines) + "\n"


def overview_row(table: TableDiff) -> list[str]:
    """A table in the overview: name, rows, rows in both, only left, only right, changed rows, and words."""
    counts = (table.both, table.only_left, table.only_right, table.changed)
    return [table.name, rows(table), *("" if count is None else f"{count:,}" for count in counts), words(table)]


def rows(table: TableDiff) -> str:
    """The number of rows on both sides.

    >>> rows(TableDiff("raw.orders", Status.different, left_rows=1000, right_rows=100))
    '1,000 → 100'
    """
    left, right = ("–" if count is None else f"{count:,}" for count in (table.left_rows, table.right_rows))
    return (
        "" if table.left_rows is None and table.right_rows is None else left if left == right else f"{left} → {right}"
    )


def words(table: TableDiff) -> str:
    """What differs in a table, in a few words."""
    if table.status is not Status.different:
        return table.status.value
    parts = [str(column) for column in table.columns]
    if table.values:
        parts.append("values of " + ", ".join(value.column for value in table.values))
    if not parts and table.kind not in ("table", "view"):
        return table.note
    return "; ".join(parts) or "rows"


def _details(left: str, right: str, table: TableDiff) -> Iterator[str]:
    if table.values:
        yield f"Rows with the same key ({', '.join(map(_code, table.key))}):"
        yield ""
        yield "| column | rows that differ | for example | |"
        yield "|---|--:|---|---|"
        for value in table.values:
            key = described_row(dict(zip(table.key, value.key, strict=True))) if value.key else ""
            change = f"{_code(shown(value.left))} → {_code(shown(value.right))}" if value.key else ""
            yield f"| {_text(value.column)} | {value.rows:,} | {_text(key)} | {change} |"
    for side, examples in ((left, table.left_examples), (right, table.right_examples)):
        if examples:
            yield ""
            yield f"Only in {_text(side)}, for example: {', '.join(_code(described_row(row)) for row in examples)}"
    if table.note:
        yield ""
        yield _text(table.note)


def _text(text: str) -> str:
    """A text that is nothing but a text in Markdown, within a table too."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _code(text: str) -> str:
    """A value as code. It stays in its cell."""
    flat = " ".join(text.split()).replace("|", "\\|")
    fence = "``" if "`" in flat else "`"
    return f"{fence}{flat}{fence}" if fence == "`" else f"{fence} {flat} {fence}"
