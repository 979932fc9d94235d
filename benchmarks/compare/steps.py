"""What is compared: the steps of each round, and what we want to reach."""

from __future__ import annotations

from dataclasses import dataclass

from compare.rounds import Step


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    small_tables: int = 30
    large_rows: int = 400_000
    larger_rows: int = 4_000_000
    frame_rows: int = 1_000_000
    rounds: int = 3
    repeat: int = 2
    """How often a short run is measured in each round."""


FULL = Sizes()
SHORT = Sizes(larger_rows=1_000_000, rounds=2)
QUICK = Sizes(small_tables=3, large_rows=1_000, larger_rows=2_000, frame_rows=1_000, rounds=1, repeat=1)


def lines(sizes: Sizes) -> dict[str, float]:
    """Each line of the table, with the ratio that we want to reach."""
    small = f"{3 * sizes.small_tables} small tables by SQL in 3 stages"
    large = f"10 tables of {sizes.large_rows:,} rows by SQL"
    five = f"5 tables of {sizes.large_rows:,} rows by SQL"
    return {
        f"{small}, cold": 0.3,
        f"{small}, nothing changed": 0.05,
        f"{small}, one changed": 0.1,
        f"{large}, cold": 0.8,
        f"{large}, a tiny one beside them changed": 0.03,
        f"10 tables of {sizes.larger_rows:,} rows by SQL, a tiny one beside them changed": 0.03,
        f"{five}, cold": 0.8,
        "copying a tenth of them, cold": 0.5,
        "copying a tenth of them, nothing changed": 0.1,
        frame_line(sizes): 0.2,
    }


def frame_line(sizes: Sizes) -> str:
    return f"DataFrame of {sizes.frame_rows:,} × 8 through two tasks"


def programs(sizes: Sizes) -> list[tuple[list[Step], int]]:
    """The steps of one round each, with the number of rounds."""
    small, small_same, small_one, large, tiny, larger_tiny, five, copy, copy_same, frame = lines(sizes)
    rows, rounds, repeat = sizes.large_rows, sizes.rounds, sizes.repeat
    revisions = range(1, repeat + 1)

    def small_flow(what: str, revision: int) -> Step:
        return Step(what, "full", {"flow": "small", "tables": sizes.small_tables, "revision": revision})

    def large_flow(what: str, rows: int, revision: int) -> Step:
        return Step(what, "full", {"flow": "large", "tables": 10, "rows": rows, "revision": revision})

    def copy_flow(what: str, instance: str) -> Step:
        return Step(what, instance, {"flow": "copy", "tables": 5, "rows": sizes.large_rows})

    return [
        (
            [
                small_flow(small, 0),
                *[small_flow(small_same, 0)] * repeat,
                *(small_flow(small_one, revision) for revision in revisions),
            ],
            rounds,
        ),
        ([large_flow(large, rows, 0), *(large_flow(tiny, rows, revision) for revision in revisions)], rounds),
        ([copy_flow(five, "full"), copy_flow(copy, "midi"), *[copy_flow(copy_same, "midi")] * repeat], rounds),
        ([Step(frame, "full", {"flow": "frame", "rows": sizes.frame_rows})], rounds),
        ([large_flow(NOT_SHOWN, sizes.larger_rows, 0), large_flow(larger_tiny, sizes.larger_rows, 1)], 1),
    ]


NOT_SHOWN = "(preparation)"
