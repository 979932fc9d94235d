"""What people should know of the tables that a task makes. It changes nothing that is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict, Unpack

from pipedag_dagster.checks import Check
from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.names import asset_name

Columns: TypeAlias = Mapping[str, str]
"""Descriptions of columns, by name."""


class AboutOptions(TypedDict, total=False):
    """What `@materialize` takes to describe the tables of a task."""

    owners: Sequence[str]
    tags: Mapping[str, str]
    kinds: Iterable[str]
    description: str | Mapping[str, str]
    columns: Columns | Mapping[str, Columns]
    checks: Sequence[Check] | Mapping[str, Sequence[Check]]


@dataclass(frozen=True)
class About:
    """The options of a task that describe its tables.

    `description`, `columns` and `checks` are those of each table, by name; under None, those of every table.
    """

    owners: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()
    description: Mapping[str | None, str] = field(default_factory=dict)
    columns: Mapping[str | None, Columns] = field(default_factory=dict)
    checks: Mapping[str | None, tuple[Check, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, task: str, **given: Unpack[AboutOptions]) -> About:
        """From what `@materialize` was given.

        Raises:
            WiringError: one of them is not what it must be.
        """
        owners, kinds = given.get("owners", ()), given.get("kinds", ())
        for option, listed in (("owners", owners), ("kinds", kinds)):
            if isinstance(listed, str):
                raise WiringError(f"Task {task!r}: {option} must be a list, as in {option}=[{listed!r}].")
        columns: Any = given.get("columns", {})
        if _are_columns(columns):
            columns = {None: columns}
        about = cls(
            tuple(owners),
            dict(given.get("tags", {})),
            frozenset(kinds),
            _by_table(task, "description", given.get("description"), lambda one: isinstance(one, str)),
            _by_table(task, "columns", columns, _are_columns),
            _by_table(task, "checks", given.get("checks"), _are_checks),
        )
        for table in about.checks:
            names = [check.name for check in about.checks_of(table)]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice:
                raise WiringError(f"Task {task!r}: two checks are called {twice!r}. Give one of them another name='…'.")
        return about

    def description_of(self, table: str) -> str | None:
        return self.description.get(table, self.description.get(None))

    def columns_of(self, table: str) -> Columns:
        return {**self.columns.get(None, {}), **self.columns.get(table, {})}

    def checks_of(self, table: str | None) -> tuple[Check, ...]:
        own = self.checks.get(table, ()) if table else ()
        return (*self.checks.get(None, ()), *own)

    def refuse_unknown(self, what: str, tables: Iterable[str]) -> None:
        """
        Raises:
            WiringError: it describes a table that the task does not make.
        """
        known = set(tables)
        for option in ("description", "columns", "checks"):
            for table in getattr(self, option):
                if table is not None and table not in known:
                    raise WiringError(f"{what}: {option}= names the table {table!r}.{did_you_mean(table, known)}")


def _by_table(task: str, option: str, given: Any, right: Callable[[Any], bool]) -> dict[str | None, Any]:
    if given is None or (not isinstance(given, str) and len(given) == 0):
        return {}
    found = given if isinstance(given, Mapping) else {None: given}
    for value in found.values():
        if not right(value):
            raise WiringError(f"Task {task!r}: {option}={given!r} is not understood. {_EXAMPLES[option]}")
    values = {name if name is None else asset_name(name): value for name, value in found.items()}
    return {name: tuple(value) if option == "checks" else value for name, value in values.items()}


def _are_columns(given: Any) -> bool:
    return isinstance(given, Mapping) and all(isinstance(text, str) for text in given.values())


def _are_checks(given: Any) -> bool:
    return isinstance(given, Sequence) and all(isinstance(check, Check) for check in given)


_EXAMPLES = {
    "description": 'Write a text, or one for each table: description={"orders": "…"}.',
    "columns": 'Write descriptions of columns: columns={"id": "…"}, or columns={"orders": {"id": "…"}}.',
    "checks": 'Write a list of checks: checks=[unique("id")], or checks={"orders": [unique("id")]}.',
}
