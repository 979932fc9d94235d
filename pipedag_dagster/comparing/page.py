"""A comparison as one HTML file, which needs nothing else: no scripts, no fonts, no network."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from html import escape

from pipedag_dagster.comparing.markdown import overview_row
from pipedag_dagster.comparing.table_diff import Status, TableDiff, described_row, shown

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; --line: #8884; --quiet: #808080; }
body { max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; } .quiet { color: var(--quiet); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; } .n { text-align: right; font-variant-numeric: tabular-nums; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
.equal { color: var(--quiet); } .different b, .added b, .removed b { border-left: .3rem solid; padding-left: .5rem; }
.different b { border-color: #c80; } .added b { border-color: #2a4; } .removed b { border-color: #c33; }
"""


def page(left: str, right: str, content: str) -> str:
    """An HTML page around the body of a comparison."""
    when = f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M}"
    title = f"{escape(left)} → {escape(right)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f'<p class="quiet">{when}</p>{content}</body></html>\n'
    )


def body(left: str, right: str, summary: str, tables: Sequence[TableDiff]) -> str:
    """A comparison as a part of a page, also for notebooks."""
    heads = ["table", "rows", "in both", f"only {left}", f"only {right}", "changed rows", "what"]
    lines = "".join(map(_overview, tables))
    details = "".join(_table(left, right, table) for table in tables if table.status is not Status.equal)
    return f"<p>{escape(summary)}</p>{_grid(heads, lines)}{details}"


def _overview(table: TableDiff) -> str:
    name, *rest = map(escape, overview_row(table))
    text = f"<b>{name}</b>" if table.status is Status.equal else f'<a href="#{name}"><b>{name}</b></a>'
    cells = "".join(f'<td class="n">{cell}</td>' for cell in rest[:-1])
    return f'<tr class="{table.status.value}"><td>{text}</td>{cells}<td>{rest[-1]}</td></tr>'


def _table(left: str, right: str, table: TableDiff) -> str:
    parts = [f'<h2 id="{escape(table.name)}">{escape(table.name)}</h2>']
    if table.note:
        parts.append(f'<p class="quiet">{escape(table.note)}</p>')
    if table.columns:
        rows = "".join(_row("td", [column.name, column.left or "", column.right or ""]) for column in table.columns)
        parts.append(_grid(["column", f"type in {left}", f"type in {right}"], rows))
    if table.values:
        key = ", ".join(table.key)
        rows = "".join(
            _row("td", [value.column, f"{value.rows:,}", ", ".join(shown(part) for part in value.key)])[:-5]
            + (
                f"<td><code>{escape(shown(value.left))}</code></td><td><code>{escape(shown(value.right))}</code></td>"
                if value.key
                else "<td></td><td></td>"
            )
            + "</tr>"
            for value in table.values
        )
        parts.append(_grid(["column", "rows that differ", f"for example ({key})", left, right], rows))
    for side, examples in ((left, table.left_examples), (right, table.right_examples)):
        if examples:
            listed = ", ".join(f"<code>{escape(described_row(row))}</code>" for row in examples)
            parts.append(f"<p>Only in {escape(side)}, for example: {listed}</p>")
    return f"<section>{''.join(parts)}</section>"


def _grid(heads: Sequence[str], rows: str) -> str:
    return f'<div class="scroll"><table><thead>{_row("th", heads)}</thead><tbody>{rows}</tbody></table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
