"""What a comparison says: the difference of two sides, table by table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipedag_dagster.comparing.markdown import markdown
from pipedag_dagster.comparing.page import body, page
from pipedag_dagster.comparing.table_diff import Status, TableDiff


@dataclass(frozen=True)
class Diff:
    """What differs between two sides.

    Attributes:
        left, right: what was compared: `full`, or `mini raw version 3`.
        tables: every table that was compared, also those that are equal.
    """

    left: str
    right: str
    tables: tuple[TableDiff, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether no table differs."""
        return not self.different

    @property
    def different(self) -> tuple[TableDiff, ...]:
        """The tables that differ."""
        return tuple(table for table in self.tables if table.status is not Status.equal)

    @property
    def summary(self) -> str:
        """One sentence for people.

        >>> Diff("full", "midi", (TableDiff("raw.orders", Status.equal),)).summary
        'full → midi: the table is equal.'
        """
        total, different = len(self.tables), len(self.different)
        if not different:
            says = "the table is equal" if total == 1 else f"all {total} tables are equal" if total else "no tables"
        else:
            says = f"{different} of {total} table{'s' if total > 1 else ''} {'differs' if different == 1 else 'differ'}"
        return f"{self.left} → {self.right}: {says}."

    def to_dict(self) -> dict[str, Any]:
        """The same as dicts and lists, for JSON."""
        return {
            "left": self.left,
            "right": self.right,
            "equal": self.equal,
            "tables": [table.to_dict() for table in self.tables],
        }

    def to_markdown(self) -> str:
        """The same as Markdown, for the summary of a pull request."""
        return markdown(self.left, self.right, self.summary, self.tables)

    def to_html(self) -> str:
        """The same as an HTML page, which needs nothing else."""
        return page(self.left, self.right, self._repr_html_())

    def _repr_html_(self) -> str:
        return body(self.left, self.right, self.summary, self.tables)
