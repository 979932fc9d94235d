"""The report as one HTML file, which needs nothing else: no scripts, no fonts, no network."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from html import escape
from importlib import resources

from pipedag_dagster.sampling.comparison import ColumnComparison
from pipedag_dagster.sampling.report import RelationReport, TableReport, summary
from pipedag_dagster.sampling.report_charts import column_chart, pairs_of_bars, reason_text, reasons_bar


def page(instance: str, source: str, tables: Sequence[TableReport]) -> str:
    """The report on an instance as HTML.

    Args:
        instance, source: their names.
    """
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    title = f"{escape(instance)}, a sample of {escape(source)}"
    when = f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M}"
    body = "".join(map(_table, tables))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title><style>{style}</style></head><body>'
        f'<header><h1>{title}</h1><p class="quiet">{when}</p>{_cards(tables)}'
        f"<p>{escape(summary(tables))}</p>{_LEGEND}</header>"
        f"<main>{_overview(tables)}{body}</main>{_FOOTER}</body></html>\n"
    )


_LEGEND = (
    '<p class="legend"><span class="key source"></span> source <span class="key sample"></span> sample '
    '<span class="key rule"></span> chosen by rule <span class="key child"></span> child '
    '<span class="key reference"></span> referred to <span class="key edge_case"></span> rare '
    '<span class="key keep"></span> kept</p>'
)
_FOOTER = """<footer class="quiet"><p><b>KS</b> is the greatest difference between the two curves, <b>TV</b> half of the
sum of the differences between the bars: 0 is the same, 1 has nothing in common. <b>Chance</b> is what a random sample
of as many independent rows exceeds in at most 1 of 20 cases. Rows that came with the same parent are alike and count as
one. Rows that are there only because others refer to them are not a random sample: they have no bound.</p></footer>"""


def _cards(tables: Sequence[TableReport]) -> str:
    rows, total = sum(one.rows for one in tables), sum(one.source_rows for one in tables)
    broken = sum(one.broken for one in tables)
    missing = sum(len(column.missing) for one in tables for column in one.columns)
    far = sum(len(one.far) for one in tables)
    cards = [
        ("rows", f"{rows:,}", f"{rows / total if total else 1:.2%} of {total:,}", ""),
        ("broken references", f"{broken:,}", "", "bad" if broken else "good"),
        ("values missing", f"{missing:,}", "of columns with few values", "warn" if missing else "good"),
        ("columns off", f"{far:,}", "by more than chance", "warn" if far else "good"),
    ]
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card {mark}"><b>{value}</b><span>{name}</span><small>{more}</small></div>'
            for name, value, more, mark in cards
        )
        + "</div>"
    )


def _overview(tables: Sequence[TableReport]) -> str:
    lines = []
    for one in tables:
        lines.append(
            f'<tr><td><a href="#{escape(one.name)}">{escape(one.name)}</a></td><td class="n">{one.rows:,}</td>'
            f'<td class="n">{one.source_rows:,}</td><td class="n">{one.share:.2%}</td>'
            f"<td>{reasons_bar(one.reasons)}</td>"
            f'<td class="n{" bad" if one.broken else ""}">{one.broken:,}</td><td class="n">{len(one.far)}</td>'
            f'<td class="n">{sum(len(column.missing) for column in one.columns)}</td></tr>'
        )
    heads = ("table", "rows", "of source", "share", "why", "broken", "columns off", "values missing")
    titles = "".join(f"<th>{head}</th>" for head in heads)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _table(table: TableReport) -> str:
    reasons = ", ".join(f"{count:,} {reason_text(name)}" for name, count in table.reasons.items() if count)
    facts = f"{table.rows:,} of {table.source_rows:,} rows ({table.share:.2%})" + (f": {reasons}" if reasons else "")
    if table.effective is not None and table.effective < table.rows:
        facts += f". For proportions they are worth {table.effective:,.0f} independent rows"
    relations = "".join(map(_relation, table.relations))
    columns = "".join(map(_column, sorted(table.columns, key=_first)))
    return (
        f'<section id="{escape(table.name)}"><h2>{escape(table.name)}</h2><p class="quiet">{facts}.</p>'
        f'<div class="grid">{relations}{columns}</div></section>'
    )


def _first(column: ColumnComparison) -> tuple[bool, bool]:
    """Columns with something to look at come first."""
    return (not column.is_far, not column.missing)


def _relation(report: RelationReport) -> str:
    ours, theirs = report.sample, report.source
    labels = ["no child", *(f"{2**at:,} to {2 ** (at + 1) - 1:,}" if at else "1" for at in range(40))]
    size = max(len(ours.children), len(theirs.children))
    bars = pairs_of_bars(labels[:size], *(_shares(one.children, size) for one in (theirs, ours))) if size else ""
    mark = (
        f'<span class="mark bad">{report.broken:,} broken</span>'
        if report.broken
        else '<span class="mark good">unbroken</span>'
    )
    return (
        f"<article><h3>{escape(str(report.relation))}</h3><p>{mark}</p>"
        f"<dl>{_pair('refer to no row', theirs.orphan_share, ours.orphan_share)}"
        f"{_pair('no reference', theirs.unset_share, ours.unset_share)}"
        f"<dt>children per parent</dt><dd>{theirs.children_per_parent:,.2f} → {ours.children_per_parent:,.2f}</dd></dl>"
        f"{bars}</article>"
    )


def _shares(counts: Sequence[int], size: int) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts] + [0.0] * (size - len(counts))


def _column(column: ColumnComparison) -> str:
    about = "about " if not column.source.exact else ""
    marks = ""
    if column.measure:
        chance = f" (chance: up to {column.bound:.3f})" if column.bound is not None else ""
        mark = "warn" if column.is_far else "good"
        marks += f'<span class="mark {mark}">{column.measure} {column.distance:.3f}{chance}</span>'
    if column.missing:
        listed = ", ".join(f"“{value or '(empty)'}”" for value in column.missing[:5])
        more = f" and {len(column.missing) - 5} more" if len(column.missing) > 5 else ""
        marks += f'<span class="mark warn">missing {escape(listed)}{more}</span>'
    if column.edge_cases:
        marks += f'<span class="mark">not in the sample: {escape(", ".join(column.edge_cases))}</span>'
    return (
        f"<article><h3>{escape(column.name)}</h3><p>{marks}</p>"
        f"<dl>{_pair('NULL', column.source.null_share, column.sample.null_share)}"
        f"<dt>values</dt><dd>{about}{column.source.distinct:,} → {column.sample.distinct:,}</dd></dl>"
        f"{column_chart(column.source, column.sample)}</article>"
    )


def _pair(name: str, source: float, sample: float) -> str:
    return f"<dt>{name}</dt><dd>{source:.2%} → {sample:.2%}</dd>"
