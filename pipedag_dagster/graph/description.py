"""How a task describes its tables to people: texts, owners, tags, checks. None of it changes the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict, Unpack

from pipedag_dagster.checks import Check
from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.names import asset_name

Columns: TypeAlias = Mapping[str, str]
"""Descriptions of columns, by name."""


class DescriptionOptions(TypedDict, total=False):
    """The options of `@materialize` that describe the tables of a task."""

    owners: Sequence[str]
    tags: Mapping[str, str]
    kinds: Iterable[str]
    description: str | Mapping[str, str]
    columns: Columns | Mapping[str, Columns]
    checks: Sequence[Check] | Mapping[str, Sequence[Check]]


@dataclass(frozen=True)
class TableDescription:
    """The description of the tables of a task.

    `description`, `columns` and `checks` are by the name of a table; under None, they are for every table.
    """

    owners: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()
    description: Mapping[str | None, str] = field(default_factory=dict)
    columns: Mapping[str | None, Columns] = field(default_factory=dict)
    checks: Mapping[str | None, tuple[Check, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, task: str, **options: Unpack[DescriptionOptions]) -> TableDescription:
        """The description that the options of the task `task` give.

        Raises:
            WiringError: an option has a value that it cannot have.
        """
        owners, kinds, tags = options.get("owners", ()), options.get("kinds", ()), options.get("tags", {})
        for option, value in (("owners", owners), ("kinds", kinds)):
            if isinstance(value, str):
                raise WiringError(f"Task {task!r}: {option} must be a list, as in {option}=[{value!r}].")
        if not isinstance(tags, Mapping):
            raise WiringError(f'Task {task!r}: tags must be a dict, as in tags={{"layer": "raw"}}, not {tags!r}.')
        columns: Any = options.get("columns", {})
        if _are_columns(columns):
            columns = {None: columns}
        described = cls(
            tuple(owners),
            dict(tags),
            frozenset(kinds),
            _by_table(task, "description", options.get("description"), lambda text: isinstance(text, str)),
            _by_table(task, "columns", columns, _are_columns),
            _by_table(task, "checks", options.get("checks"), _are_checks),
        )
        for table in described.checks:
            names = [check.name for check in described.checks_of(table)]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice:
                raise WiringError(
                    f"Task {task!r}: two checks have the name {twice!r}. Give one of them another one: name='…'."
                )
        return described

    def description_of(self, table: str) -> str | None:
        return self.description.get(table, self.description.get(None))

    def columns_of(self, table: str) -> Columns:
        return {**self.columns.get(None, {}), **self.columns.get(table, {})}

    def checks_of(self, table: str | None) -> tuple[Check, ...]:
        own = self.checks.get(table, ()) if table else ()
        return (*self.checks.get(None, ()), *own)

    def refuse_unknown_tables(self, task: str, tables: Iterable[str]) -> None:
        """
        Raises:
            WiringError: the description names a table that the task does not make.
        """
        known = set(tables)
        for option in ("description", "columns", "checks"):
            for table in getattr(self, option):
                if table is not None and table not in known:
                    raise WiringError(
                        f"{task}: {option}= names the table {table!r}, which the task does not make."
                        f"{did_you_mean(table, known)}"
                    )


def _by_table(task: str, option: str, value: Any, is_valid: Callable[[Any], bool]) -> dict[str | None, Any]:
    if value is None or (not isinstance(value, str) and len(value) == 0):
        return {}
    by_table = value if isinstance(value, Mapping) else {None: value}
    if not all(is_valid(part) for part in by_table.values()):
        raise WiringError(f"Task {task!r}: {option}={value!r} is not valid. {_EXAMPLES[option]}")
    by_table = {table if table is None else asset_name(table): part for table, part in by_table.items()}
    return {table: tuple(part) if option == "checks" else part for table, part in by_table.items()}


def _are_columns(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())


def _are_checks(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(check, Check) for check in value)


_EXAMPLES = {
    "description": 'Write a text, or one for each table: description={"orders": "…"}.',
    "columns": 'Write descriptions of columns: columns={"id": "…"}, or columns={"orders": {"id": "…"}}.',
    "checks": 'Write a list of checks: checks=[unique("id")], or checks={"orders": [unique("id")]}.',
}
