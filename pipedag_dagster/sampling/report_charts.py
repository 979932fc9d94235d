"""The drawings in the report: inline SVG, in the colours of the page. Blue is the sample, grey the source."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate

from pipedag_dagster.sampling.statistics import ColumnStatistics

_WIDTH, _HEIGHT = 320, 120
_SHOWN = 10
_LABEL = 110
_REASONS = ("keep", "rule", "edge_case", "child", "reference")


def column_chart(source: ColumnStatistics, sample: ColumnStatistics) -> str:
    """The distribution of a column: bars for a few values, curves for many."""
    if source.categories:
        return _categories(source, sample)
    if source.counts and sample.counts and len(source.grid) > 1:
        return _curves(source, sample)
    text = "Nearly all have the same length." if source.counts else "Only the number of NULLs can be compared."
    return f'<p class="quiet">{text}</p>'


def pairs_of_bars(
    labels: Sequence[str], source: Sequence[float], sample: Sequence[float], *, mark_missing: bool = False
) -> str:
    """Two bars for each label: shares of the source and of the sample."""
    most = max([*source, *sample, 1e-9])
    room = _WIDTH - _LABEL - 46
    parts = []
    for at, (label, theirs, ours) in enumerate(zip(labels, source, sample, strict=True)):
        top = at * 22
        text = escape(label if len(label) <= 14 else f"{label[:13]}…")
        end = _LABEL + room * max(theirs, ours) / most + 4
        missing = ' class="missing"' if mark_missing and not ours else ""
        parts.append(
            f"<g{missing}><title>{escape(label)}: {theirs:.2%} of the source, {ours:.2%} of the sample</title>"
            f'<text x="{_LABEL - 6}" y="{top + 14}" text-anchor="end">{text}</text>'
            f'<rect class="source" x="{_LABEL}" y="{top + 3}" width="{room * theirs / most:.1f}" height="7" rx="1"/>'
            f'<rect class="sample" x="{_LABEL}" y="{top + 11}" width="{room * ours / most:.1f}" height="7" rx="1"/>'
            f'<text class="number" x="{end:.1f}" y="{top + 14}">{ours:.1%}</text></g>'
        )
    return _svg("".join(parts), len(labels) * 22 + 2)


def reasons_bar(reasons: Mapping[str, int]) -> str:
    """One bar with a part for each reason."""
    total, left, parts = sum(reasons.values()) or 1, 0.0, []
    for name in _REASONS:
        width = 160 * reasons.get(name, 0) / total
        if width:
            title = f"{reason_text(name)}: {reasons[name]:,} rows"
            parts.append(
                f'<rect class="{name}" x="{left:.1f}" width="{width:.1f}" height="12"><title>{title}</title></rect>'
            )
        left += width
    return f'<svg class="reasons" viewBox="0 0 160 12" width="160" height="12" role="img">{"".join(parts)}</svg>'


def reason_text(name: str) -> str:
    """A reason as people say it.

    >>> reason_text("reference")
    'referred to'
    """
    words = {
        "keep": "kept",
        "rule": "chosen by rule",
        "edge_case": "rare",
        "child": "child",
        "reference": "referred to",
    }
    return words.get(name, name)


def _categories(source: ColumnStatistics, sample: ColumnStatistics) -> str:
    def share(statistics: ColumnStatistics, value: str) -> float:
        total = statistics.rows - statistics.nulls
        return statistics.categories.get(value, 0) / total if total else 0.0

    values = sorted(source.categories, key=lambda value: (-source.categories[value], value))
    if len(values) <= _SHOWN + 2 and all(_place(value) is not None for value in values):
        values.sort(key=lambda value: _place(value) or 0)
    missing = [value for value in values if value not in sample.categories]
    shown = [value for value in values[: _SHOWN + 2] if value not in missing] + missing[:_SHOWN]
    labels = [value or "(empty)" for value in shown]
    shares = ([share(statistics, value) for value in shown] for statistics in (source, sample))
    chart = pairs_of_bars(labels, *shares, mark_missing=True)
    more = len(values) - len(shown)
    return chart + (f'<p class="quiet">and {more} more values</p>' if more else "")


def _curves(source: ColumnStatistics, sample: ColumnStatistics) -> str:
    """The share of rows up to each value."""
    places = [_place(text) for text in source.grid]
    numbers = [place for place in places if place is not None]
    if len(numbers) < len(places) or numbers[0] == numbers[-1]:
        numbers = [float(at) for at in range(len(places))]
    first, last = numbers[0], numbers[-1]
    lines = []
    for name, counts in (("source", source.counts), ("sample", sample.counts)):
        total = sum(counts) or 1
        shares = [count / total for count in accumulate(counts)][:-1]
        points = []
        height = _HEIGHT - 8
        for number, share in zip(numbers, shares, strict=True):
            x, y = (number - first) / (last - first) * (_WIDTH - 4) + 2, height - share * (height - 6) + 2
            points += [f"{x:.1f},{y:.1f}"]
        lines.append(f'<polyline class="{name}" points="{" ".join(points)}"/>')
    what = f"share of rows up to a {'length' if source.by == 'lengths' else 'value'}"
    labels = (
        f'<text x="2" y="{_HEIGHT + 12}">{escape(_short(source.grid[0]))}</text>'
        f'<text x="{_WIDTH - 2}" y="{_HEIGHT + 12}" text-anchor="end">{escape(_short(source.grid[-1]))}</text>'
        f'<text class="number" x="{_WIDTH / 2}" y="{_HEIGHT + 12}" text-anchor="middle">{what}</text>'
    )
    frame = f'<path class="axis" d="M2 0V{_HEIGHT - 4}H{_WIDTH - 2}"/>'
    return _svg(f"{frame}{''.join(lines)}{labels}", _HEIGHT + 18)


def _place(text: str) -> float | None:
    """Where a value lies on an axis; None when that is not known."""
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.datetime.fromisoformat(text)
        except ValueError:
            return None
        return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
    return number if abs(number) < float("inf") else None


def _short(text: str) -> str:
    return text if len(text) <= 19 else text[:19]


def _svg(body: str, height: int) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{body}</svg>'
