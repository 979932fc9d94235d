"""Checks: conditions that a table must meet.

They are declared with the task that makes the table, evaluated in the database before the stage is committed, and shown
by Dagster as asset checks::

    @materialize(
        outputs=["orders", "customers"],
        checks={
            "orders": [unique("id", blocking=True), references("customer", "raw.customers.id"), no_negative_amounts],
            "customers": [primary_key("id"), accepted_values("state", ["new", "active"], severity="WARN")],
        },
    )
    def load(): ...

Every check has these options:

- `blocking=True`: if the check fails, the stage is not committed, and people still see the version before.
- `severity="WARN"`: a failure is a warning. By default it is an error. The run itself does not fail in either case.
- `name=`: the name of the check in Dagster. By default it is made of the kind of check and its columns.

Nothing here needs Dagster or a database: a check is the query that selects the bad rows.
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
from pipedag_dagster.sql_condition import condition

Severity: TypeAlias = Literal["ERROR", "WARN"]
Follow: TypeAlias = Literal["parents", "both"]
ROWS = "pipedag_rows"
"""A column in the query of bad rows: the number of rows of the table that one row of the query stands for."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition that a table must meet. The functions below make them."""

    name: str
    description: str
    blocking: bool = False
    severity: Severity = "ERROR"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.name):
            raise WiringError(f"Check {self.name!r}: Dagster allows only letters, digits and '_'. Write name='…'.")
        if self.severity not in ("ERROR", "WARN"):
            raise WiringError(f"Check {self.name!r}: severity must be 'ERROR' or 'WARN', not {self.severity!r}.")
        if self.blocking and self.severity == "WARN":
            raise WiringError(f"Check {self.name!r}: a blocking check cannot be a warning. Choose one of them.")

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that the table must have."""
        return ()

    @property
    def wrong(self) -> str:
        """What is wrong with the bad rows; it follows "3 of 7 rows …"."""
        return "refused"


@dataclass(frozen=True, kw_only=True)
class ColumnCheck(Check):
    """A check of one or more columns, row by row or group by group."""

    columns: tuple[str, ...]
    grouped: ClassVar[bool] = True
    """Whether the query has one row for each bad value of the columns. Otherwise it has one for each bad row."""

    @property
    def needs(self) -> tuple[str, ...]:
        return self.columns

    def bad(self, table: str, keys: Sequence[str], target: str = "") -> str:
        """The query that selects the bad rows or values, with the column `ROWS`.

        Args:
            table: the SQL name of the table.
            keys: the columns that identify a row for people.
            target: the SQL name of the table that the columns refer to.
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
        return self._all("IS NOT NULL")  # as UNIQUE does: NULLs are not equal

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
        return f"without {_listed(self.columns, 'or')}, or with the {_listed(self.columns)} of another row"

    def _where(self, target: str) -> str:
        return "true"

    def _having(self) -> str:
        return f" HAVING count(*) > 1 OR {self._all('IS NULL', 'OR')}"


@dataclass(frozen=True, kw_only=True)
class AcceptedValues(ColumnCheck):
    values: tuple[Any, ...]

    @property
    def wrong(self) -> str:
        return f"with a {self.columns[0]} other than {', '.join(map(repr, self.values))}"

    def _where(self, target: str) -> str:
        values = ", ".join(map(literal, self.values))
        return f"{quote('t', self.columns[0])} NOT IN ({values})"


@dataclass(frozen=True, kw_only=True)
class References(ColumnCheck):
    stage: str
    table: str
    target_columns: tuple[str, ...]
    when: str | None = None
    sample: Follow | None = "parents"

    @property
    def needs(self) -> tuple[str, ...]:
        return self.columns if self.when is None else (*self.columns, *condition(self.when).columns)

    @property
    def wrong(self) -> str:
        return f"with a {_listed(self.columns)} that {self.stage}.{self.table} does not have"

    def _where(self, target: str) -> str:
        pairs = zip(self.target_columns, self.columns, strict=True)
        same = " AND ".join(f"{quote('r', theirs)} = {quote('t', ours)}" for theirs, ours in pairs)
        when = "" if self.when is None else f" AND ({self.when})"
        return f"{self._all('IS NOT NULL')}{when} AND NOT EXISTS (SELECT FROM {target} AS r WHERE {same})"


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
    """The options that every check has."""

    blocking: bool
    severity: Severity
    name: str


@known_options(*Options.__optional_keys__)
def unique(*columns: str, **options: Unpack[Options]) -> Check:
    """No two rows have the same value, or the same combination of values. NULLs are not equal to each other.

    >>> unique("origin", "hour").name
    'unique_origin_hour'
    """
    value = "value" if len(columns) == 1 else "combination of values"
    return Unique(
        columns=_columns("unique", columns),
        description=f"No two rows have the same {value} of {_listed(columns)}.",
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
    """Unique and not NULL. The check costs nothing if the database enforces it anyway: `Table(…, primary_key=…)`."""
    return PrimaryKey(
        columns=_columns("primary_key", columns),
        description=f"The {_listed(columns)} of a row is unique, and never NULL.",
        **_named("primary_key", columns, options),
    )


@known_options(*Options.__optional_keys__)
def min_rows(rows: int, **options: Unpack[Options]) -> Check:
    """The table has at least this number of rows. Note that small instances have fewer rows than full."""
    if not isinstance(rows, int) or rows < 1:
        raise WiringError(f"min_rows({rows!r}): write a whole number of at least 1.")
    description = f"The table has at least {rows:,} row{'' if rows == 1 else 's'}."
    return MinRows(rows=rows, description=description, **_named("min_rows", (), options))


@known_options(*Options.__optional_keys__)
def accepted_values(column: str, values: Sequence[Any], **options: Unpack[Options]) -> Check:
    """The column has only these values, or NULL. To refuse NULL, add `not_null`."""
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
    *,
    when: str | None = None,
    sample: Follow | None = "parents",
    **options: Unpack[Options],
) -> Check:
    """Every value exists in another table: a foreign key, which may cross stages. NULL is allowed.

    Declared on an input task, it is also followed by samples: a row comes with the row that it refers to.

    Args:
        columns: one column, or several columns that refer to the other table together.
        target: `"stage.table.column"`, or `"stage.table"` if the columns have the same names in both tables. It is the
            stage of the check, or a stage before it.
        target_columns: the columns of the other table, if there are several.
        when: an SQL condition on the columns of this table. Other rows are not checked, and refer to nothing.
        sample: what a sample follows. "parents": a row brings the row that it refers to. "both": that row also brings
            all rows that refer to it, as details of the same thing (a translation, an extension). None: nothing.

    Raises:
        WiringError: the target, the condition or `sample` is not written like that.

    Example:
        >>> references("customer", "raw.customers.id").description
        'Every customer is an id in raw.customers.'
        >>> references("target", "raw.posts.id", when="kind = 'post'").description
        "Every target is an id in raw.posts, where kind = 'post'."
    """
    ours = _columns("references", (columns,) if isinstance(columns, str) else tuple(columns))
    stage, _, rest = target.partition(".")
    table, _, column = rest.partition(".")
    theirs = tuple(target_columns or ((column,) if column else ours))
    if not stage or not table or (column and target_columns):
        raise WiringError(f'references({columns!r}, {target!r}): write "stage.table.column" or "stage.table".')
    if len(theirs) != len(ours):
        raise WiringError(f"references({columns!r}, {target!r}): {_listed(ours)} cannot refer to {_listed(theirs)}.")
    if sample not in ("parents", "both", None):
        raise WiringError(f"references({columns!r}, {target!r}): sample is 'parents', 'both' or None, not {sample!r}.")
    try:
        where = "" if when is None else f", where {condition(when).text}"
    except ValueError as error:
        raise WiringError(f"references({columns!r}, {target!r}): when: {error}") from None
    return References(
        columns=ours,
        stage=stage_name(stage),
        table=asset_name(table),
        target_columns=theirs,
        when=when,
        sample=sample,
        description=f"Every {_listed(ours)} is {_a(_listed(theirs))} in {stage}.{table}{where}.",
        # With a condition, the same columns usually refer to several tables.
        **_named("references", ours if when is None else (*ours, table), options),
    )


Function: TypeAlias = Callable[[Any], Any]


@overload
def check(fn: Function, /) -> FunctionCheck: ...
@overload
def check(*, input_type: type = ..., **options: Unpack[Options]) -> Callable[[Function], FunctionCheck]: ...
@known_options(*Options.__optional_keys__)
def check(fn: Function | None = None, /, *, input_type: type = sa.Table, **options: Unpack[Options]) -> Any:
    """Make a check of a function that takes the table and returns the bad rows.

    Args:
        input_type: how the table arrives. With `sa.Table`, the default, it is an alias; return the query that selects
            the bad rows. With `pd.DataFrame`, `pl.DataFrame` or `pa.Table`, return the bad rows as a frame.

    Example:
        @check(severity="WARN")
        def no_negative_amounts(orders):
            "No customer is paid for buying."
            return sa.select(orders).where(orders.c.amount < 0)
    """
    if fn is None:
        return lambda function: _function(function, input_type, options)
    return _function(fn, input_type, options)


def _function(fn: Function, input_type: type, options: Options) -> FunctionCheck:
    name = getattr(fn, "__name__", type(fn).__name__)
    if len(inspect.signature(fn).parameters) != 1:
        raise WiringError(f"Check {name!r}: it must take one argument, the table.")
    description = inspect.getdoc(fn) or f"{name}() finds no bad row."
    return FunctionCheck(fn=fn, input_type=input_type, description=description, **_named(name, (), options))


def _columns(check: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    if not columns or not all(isinstance(column, str) for column in columns):
        raise WiringError(f"{check}(…) needs the names of one or more columns, but got {columns!r}.")
    return columns


def _named(check: str, columns: Sequence[str], options: Options) -> Options:
    name = re.sub(r"[^A-Za-z0-9_]", "_", "_".join((check, *columns)))
    return {"name": name, **options}


def _listed(columns: Sequence[str], word: str = "and") -> str:
    return columns[0] if len(columns) == 1 else f"{', '.join(columns[:-1])} {word} {columns[-1]}"


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
