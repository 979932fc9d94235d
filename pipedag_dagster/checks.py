"""What must be true of a table. Declared with the task that makes it, evaluated in the database before the stage is
committed, shown by Dagster as asset checks.

    @materialize(
        outputs=["orders", "customers"],
        checks={
            "orders": [unique("id", blocking=True), references("customer", "raw.customers.id"), no_negative_amounts],
            "customers": [primary_key("id"), accepted_values("state", ["new", "active"], severity="WARN")],
        },
    )
    def load(): ...

Every check takes

- `blocking=True`: while it fails, the stage is not committed, and people see the version before.
- `severity="WARN"`: a failure is a warning. Without it, it is an error; in neither case does the run fail.
- `name=`: of the check in Dagster. Without it, it is named after what it checks.

No Dagster and no database here: a check is the query of the rows that are bad.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict, Unpack, overload

import sqlalchemy as sa

from pipedag_dagster.errors import WiringError
from pipedag_dagster.names import asset_name, literal, quote, stage_name
from pipedag_dagster.options import known_options

Severity: TypeAlias = Literal["ERROR", "WARN"]
ROWS = "pipedag_rows"
"""The column of a query of bad rows that says how many rows of the table one row of it stands for."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must be true of a table. Made by the functions below."""

    name: str
    description: str
    blocking: bool = False
    severity: Severity = "ERROR"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.name):
            raise WiringError(f"Check {self.name!r}: Dagster allows letters, digits and '_' only. Write name='…'.")
        if self.severity not in ("ERROR", "WARN"):
            raise WiringError(f"Check {self.name!r}: severity is 'ERROR' or 'WARN', not {self.severity!r}.")
        if self.blocking and self.severity == "WARN":
            raise WiringError(
                f"Check {self.name!r}: one that is blocking cannot be a warning only. Choose one of them."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that the table must have."""
        return ()

    @property
    def wrong(self) -> str:
        """What is wrong with the bad rows: "3 of 7 rows …"."""
        return "refused"


@dataclass(frozen=True, kw_only=True)
class ColumnCheck(Check):
    """A check of some columns, row by row or group by group."""

    columns: tuple[str, ...]
    grouped: ClassVar[bool] = True
    """Whether a row of the query is a value of the columns; otherwise it is a row of the table."""

    @property
    def needs(self) -> tuple[str, ...]:
        return self.columns

    def bad(self, table: str, keys: Sequence[str], target: str = "") -> str:
        """The query of what is bad, with the column `ROWS`.

        Args:
            table: the SQL name of the table.
            keys: the columns by which people know a row of the table.
            target: the SQL name of the table that it refers to.
        """
        shown = self.columns if self.grouped else keys
        listed = ", ".join(quote("t", column) for column in shown)
        query = f"SELECT {listed}, {'count(*)' if self.grouped else '1'} AS {ROWS} FROM {table} AS t"
        query += f" WHERE {self._where(target)}"
        return query + (f" GROUP BY {listed}{self._having()}" if self.grouped else "")

    def _where(self, target: str) -> str:
        raise NotImplementedError

    def _having(self) -> str:
        return ""

    def _all(self, condition: str, word: str = "AND") -> str:
        return f" {word} ".join(f"{quote('t', column)} {condition}" for column in self.columns)


@dataclass(frozen=True, kw_only=True)
class Unique(ColumnCheck):
    @property
    def wrong(self) -> str:
        return f"with the {_listed(self.columns)} of another row"

    def _where(self, target: str) -> str:
        return self._all("IS NOT NULL")  # as for UNIQUE: no value is no value twice

    def _having(self) -> str:
        return " HAVING count(*) > 1"


@dataclass(frozen=True, kw_only=True)
class NotNull(ColumnCheck):
    grouped: ClassVar[bool] = False

    @property
    def wrong(self) -> str:
        return f"without {_listed(self.columns, 'or')}"

    def _where(self, target: str) -> str:
        return self._all("IS NULL", "OR")


@dataclass(frozen=True, kw_only=True)
class PrimaryKey(ColumnCheck):
    @property
    def wrong(self) -> str:
        return f"without {_listed(self.columns, 'or')}, or with that of another row"

    def _where(self, target: str) -> str:
        return "true"

    def _having(self) -> str:
        return f" HAVING count(*) > 1 OR {self._all('IS NULL', 'OR')}"


@dataclass(frozen=True, kw_only=True)
class AcceptedValues(ColumnCheck):
    values: tuple[Any, ...]

    @property
    def wrong(self) -> str:
        return f"with another {self.columns[0]} than {', '.join(map(repr, self.values))}"

    def _where(self, target: str) -> str:
        values = ", ".join(map(literal, self.values))
        return f"{quote('t', self.columns[0])} NOT IN ({values})"


@dataclass(frozen=True, kw_only=True)
class References(ColumnCheck):
    stage: str
    table: str
    target_columns: tuple[str, ...]

    @property
    def wrong(self) -> str:
        return f"with a {_listed(self.columns)} that {self.stage}.{self.table} does not have"

    def _where(self, target: str) -> str:
        pairs = zip(self.target_columns, self.columns, strict=True)
        same = " AND ".join(f"{quote('r', theirs)} = {quote('t', ours)}" for theirs, ours in pairs)
        return f"{self._all('IS NOT NULL')} AND NOT EXISTS (SELECT FROM {target} AS r WHERE {same})"


@dataclass(frozen=True, kw_only=True)
class MinRows(Check):
    rows: int


@dataclass(frozen=True, kw_only=True)
class FunctionCheck(Check):
    """A function of the user under `@check`. Called, it is the plain function."""

    fn: Callable[[Any], Any]
    input_type: type

    def __call__(self, table: Any) -> Any:
        return self.fn(table)


# ---- what users write ----------------------------------------------------------------------------------------


class Options(TypedDict, total=False):
    """What every check takes."""

    blocking: bool
    severity: Severity
    name: str


@known_options(*Options.__optional_keys__)
def unique(*columns: str, **options: Unpack[Options]) -> Check:
    """No two rows have the same value, or the same combination of values. NULL equals nothing.

    >>> unique("origin", "hour").name
    'unique_origin_hour'
    """
    what = "value" if len(columns) == 1 else "combination of values"
    return Unique(
        columns=_columns("unique", columns),
        description=f"No two rows have the same {what} of {_listed(columns)}.",
        **_named("unique", columns, options),
    )


@known_options(*Options.__optional_keys__)
def not_null(*columns: str, **options: Unpack[Options]) -> Check:
    """Each of the columns has a value in every row."""
    return NotNull(
        columns=_columns("not_null", columns),
        description=f"Every row has a value of {_listed(columns)}.",
        **_named("not_null", columns, options),
    )


@known_options(*Options.__optional_keys__)
def primary_key(*columns: str, **options: Unpack[Options]) -> Check:
    """Unique and not NULL. It costs nothing where `Table(…, primary_key=…)` makes the database enforce it."""
    return PrimaryKey(
        columns=_columns("primary_key", columns),
        description=f"A row is known by its {_listed(columns)}: unique, and never NULL.",
        **_named("primary_key", columns, options),
    )


@known_options(*Options.__optional_keys__)
def min_rows(rows: int, **options: Unpack[Options]) -> Check:
    """The table has at least so many rows. Mind that small instances have fewer than full."""
    if not isinstance(rows, int) or rows < 1:
        raise WiringError(f"min_rows({rows!r}): write a whole number of at least 1.")
    description = f"There {'is 1 row' if rows == 1 else f'are {rows:,} rows'} at least."
    return MinRows(rows=rows, description=description, **_named("min_rows", (), options))


@known_options(*Options.__optional_keys__)
def accepted_values(column: str, values: Sequence[Any], **options: Unpack[Options]) -> Check:
    """The column has only these values. NULL is none: `not_null` says that there must be one."""
    if isinstance(values, str) or not values:
        raise WiringError(f"accepted_values({column!r}, {values!r}): write a list of values.")
    return AcceptedValues(
        columns=_columns("accepted_values", (column,)),
        values=tuple(values),
        description=f"{column} is one of: {', '.join(map(repr, values))}.",
        **_named("accepted_values", (column,), options),
    )


@known_options(*Options.__optional_keys__)
def references(
    columns: str | Sequence[str],
    target: str,
    target_columns: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> Check:
    """Every value is one of another table's: a foreign key, also between stages. NULL refers to nothing.

    Args:
        columns: one column, or several that refer together.
        target: `"stage.table.column"`; `"stage.table"` where the columns have the same names in both tables. The stage
            is the same one, or one that comes before it.
        target_columns: the columns of the other table, where there are several.

    Example:
        >>> references("customer", "raw.customers.id").description
        'Every customer is the id of a row of raw.customers.'
    """
    ours = _columns("references", (columns,) if isinstance(columns, str) else tuple(columns))
    stage, _, rest = target.partition(".")
    table, _, column = rest.partition(".")
    theirs = tuple(target_columns or ((column,) if column else ours))
    if not stage or not table or (column and target_columns):
        raise WiringError(f'references({columns!r}, {target!r}): write "stage.table.column" or "stage.table".')
    if len(theirs) != len(ours):
        raise WiringError(f"references({columns!r}, {target!r}): {_listed(ours)} cannot refer to {_listed(theirs)}.")
    return References(
        columns=ours,
        stage=stage_name(stage),
        table=asset_name(table),
        target_columns=theirs,
        description=f"Every {_listed(ours)} is the {_listed(theirs)} of a row of {stage}.{table}.",
        **_named("references", ours, options),
    )


Function: TypeAlias = Callable[[Any], Any]


@overload
def check(fn: Function, /) -> FunctionCheck: ...
@overload
def check(*, input_type: type = ..., **options: Unpack[Options]) -> Callable[[Function], FunctionCheck]: ...
@known_options(*Options.__optional_keys__)
def check(fn: Function | None = None, /, *, input_type: type = sa.Table, **options: Unpack[Options]) -> Any:
    """Make a check of a function that gets the table and returns the rows that are bad.

    Args:
        input_type: how the table arrives. `sa.Table`, the default: an alias on which to build the query that selects
            the bad rows. `pd.DataFrame`, `pl.DataFrame`, `pa.Table`: return the bad rows as one.

    Example:
        @check(severity="WARN")
        def no_negative_amounts(orders):
            "Nobody is paid for buying."
            return sa.select(orders).where(orders.c.amount < 0)
    """
    if fn is None:
        return lambda function: _function(function, input_type, options)
    return _function(fn, input_type, options)


def _function(fn: Function, input_type: type, options: Options) -> FunctionCheck:
    called = getattr(fn, "__name__", type(fn).__name__)
    if len(inspect.signature(fn).parameters) != 1:
        raise WiringError(f"Check {called!r}: it must take one argument, the table.")
    description = inspect.getdoc(fn) or f"{called}() finds no bad row."
    return FunctionCheck(fn=fn, input_type=input_type, description=description, **_named(called, (), options))


def _columns(what: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    if not columns or not all(isinstance(column, str) for column in columns):
        raise WiringError(f"{what}(…) needs the name of a column, or of several, but got {columns!r}.")
    return columns


def _named(what: str, columns: Sequence[str], options: Options) -> Options:
    name = re.sub(r"[^A-Za-z0-9_]", "_", "_".join((what, *columns)))
    return {"name": name, **options}


def _listed(columns: Sequence[str], word: str = "and") -> str:
    return columns[0] if len(columns) == 1 else f"{', '.join(columns[:-1])} {word} {columns[-1]}"
