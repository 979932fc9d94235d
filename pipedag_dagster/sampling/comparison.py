"""How much a column of a sample differs from that of its source, and how much chance alone makes it differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

from pipedag_dagster.sampling.statistics import ColumnStatistics

_DISTANCE_95 = 1.358
"""The Kolmogorov-Smirnov distance of n values exceeds 1.358 / sqrt(n) in 5 % of all samples."""


@dataclass(frozen=True)
class ColumnComparison:
    """One column of a sample beside its source.

    Attributes:
        measure: "KS" is the greatest difference of the shares of rows up to a value. "TV" is half of the sum of the
            differences of the shares of each value. Both lie between 0 (the same) and 1. Empty: nothing was counted.
        bound: what the distance exceeds by chance in at most 5 % of all samples; None for tables whose rows were not
            chosen at random.
        missing: values that the source has and the sample does not, as texts; of a column with few values.
        edge_cases: what is rare in the source and missing in the sample: "NULL", "smallest", "largest", "longest",
            "empty".
    """

    name: str
    source: ColumnStatistics
    sample: ColumnStatistics
    measure: str
    distance: float
    bound: float | None
    missing: tuple[str, ...]
    edge_cases: tuple[str, ...]

    @property
    def is_far(self) -> bool:
        """Whether chance alone does not explain the distance."""
        return self.bound is not None and self.distance > self.bound


def compare(name: str, source: ColumnStatistics, sample: ColumnStatistics, effective: float | None) -> ColumnComparison:
    """Compare a column of a sample with its source.

    Args:
        effective: so many rows chosen independently would say as much as the sample does; None when its rows were not
            chosen at random.
    """
    measure, distance, bound = "", 0.0, None
    if effective is not None:  # rows without a value say nothing about values
        effective *= 1 - sample.null_share
    if source.by == "categories":
        measure = "TV"
        ours, theirs = _shares(list(sample.categories.values())), _shares(list(source.categories.values()))
        shares = dict(zip(source.categories, theirs, strict=True))
        found = dict(zip(sample.categories, ours, strict=True))
        distance = sum(abs(shares.get(value, 0) - found.get(value, 0)) for value in shares | found) / 2
        bound = None if effective is None else _variation_bound(theirs, effective)
    elif source.counts and sample.counts:
        measure = "KS"
        ours, theirs = _shares(sample.counts), _shares(source.counts)
        distance = max(abs(one - other) for one, other in zip(accumulate(ours), accumulate(theirs), strict=True))
        bound = None if effective is None else _DISTANCE_95 / math.sqrt(max(effective, 1))
    missing = tuple(value for value in source.categories if value not in sample.categories)
    return ColumnComparison(name, source, sample, measure, distance, bound, missing, _edge_cases(source, sample))


def _shares(counts: list[int]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _variation_bound(shares: list[float], effective: float) -> float:
    """The mean of the distance for so many independent rows, and what it exceeds by in at most 5 % of all samples: by
    McDiarmid's inequality, because one row changes the distance by 1 / n at most."""
    number = max(effective, 1)
    mean = sum(math.sqrt(2 * share * (1 - share) / (math.pi * number)) for share in shares) / 2
    return min(mean + math.sqrt(math.log(20) / (2 * number)), 1.0)


def _edge_cases(source: ColumnStatistics, sample: ColumnStatistics) -> tuple[str, ...]:
    missing = ["NULL"] if source.nulls and not sample.nulls else []
    for name in ("smallest", "largest", "longest"):
        if source.extremes.get(name) is not None and source.extremes[name] != sample.extremes.get(name):
            missing.append(name)
    if source.extremes.get("empty") and not sample.extremes.get("empty"):
        missing.append("empty")
    return tuple(missing)
