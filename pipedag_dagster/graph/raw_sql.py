"""Scripts, and the tables that they have made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pipedag_dagster.errors import WrongCall, did_you_mean
from pipedag_dagster.graph.container import Container, NameOption
from pipedag_dagster.options import known_options


class RawSql(Container):
    """An SQL script. The tables and views that it makes become tables of the stage, under their own names.

    It runs in one transaction, in an empty schema of its own, which is first in the search path: write
    `CREATE TABLE orders …`. `{name}` stands for an input: the table that the task gets as the argument `name`;
    `{name.key}` is a part of it. `{schema}` stands for the script's own schema.

    A task that takes a script gets its tables: `script["large"]`, `"large" in script`, `script.items()`, and so on,
    as in a dict. They have the type that the task asks for with `input_type`.

    Args:
        sql: the script, or a list of scripts that run one after the other. The database splits it into statements.
        name: for messages.
        separator: a text that separates parts of the script, like "GO", which the database does not know. The parts run
            one after the other. ";" needs no separator.

    Attributes:
        stage: the stage of a script that a task takes; else None.

    Raises:
        WrongCall: the script or the separator is not a text.

    Example:
        >>> RawSql("CREATE TABLE large AS SELECT * FROM {orders} WHERE amount > 100")
        RawSql('CREATE TABLE large AS SELECT * FROM {orders} WHERE amount > …')
    """

    name = NameOption()

    @known_options()
    def __init__(self, sql: str | Sequence[str], name: str | None = None, separator: str = ";") -> None:
        scripts = (sql,) if isinstance(sql, str) else tuple(sql)
        if not isinstance(separator, str) or not separator:
            raise WrongCall(f'RawSql(…): separator={separator!r} is not a text. Write separator="GO".')
        if separator != ";":
            scripts = tuple(part for script in scripts for part in script.split(separator) if part.strip())
        self.sql: str | Sequence[str] | None = sql
        self.scripts = scripts
        self.name = name
        self.stage: Any = None
        self._tables: Mapping[str, Any] | None = None

    @classmethod
    def of_tables(cls, tables: Mapping[str, Any], name: str, stage: Any) -> Self:
        """The script that a task takes: it has run, and `tables` are what it has made."""
        script = cls((), name)
        script.sql = None
        script.stage = stage
        script._tables = tables
        return script

    @property
    def has_run(self) -> bool:
        """Whether it is a script that a task takes, and so has tables."""
        return self._tables is not None

    @property
    def content(self) -> Any:
        if self._tables is not None:
            return self._tables
        return self.scripts[0] if len(self.scripts) == 1 else self.scripts

    def __getitem__(self, table: str) -> Any:
        if table not in self.keys():
            raise KeyError(f"{self!r} has made no table {table!r}.{did_you_mean(str(table), self.keys())}")
        return self._made[table]

    def __contains__(self, table: object) -> bool:
        return table in self._made

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def __bool__(self) -> bool:
        return True

    def get(self, table: str, default: Any = None) -> Any:
        """The table of this name, or `default`."""
        return self._made.get(table, default)

    def keys(self) -> Any:
        """The names of its tables. A script that has not run has none."""
        return self._made.keys()

    def values(self) -> Any:
        """Its tables."""
        return self._made.values()

    def items(self) -> Any:
        """Its tables, with their names."""
        return self._made.items()

    @property
    def _made(self) -> Mapping[str, Any]:
        return self._tables or {}

    def content_for_hash(self) -> tuple[Any, ...]:
        return (self.scripts, self.name)

    def __repr__(self) -> str:
        if self._tables is not None:
            return f"RawSql({self.name!r}, tables={list(self._tables)})"
        text = "; ".join(self.scripts)
        return f"RawSql({text if len(text) <= 60 else text[:60] + '…'!r})"
