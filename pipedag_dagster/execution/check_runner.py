"""Evaluating checks on the physical tables of a stage: in the database, where they can be.

Tables never change, so the catalog remembers what a check found in a table.
"""

from __future__ import annotations

import contextvars
import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import CheckFinding, TableVersion
from pipedag_dagster.checks import (
    ROWS,
    Check,
    ColumnCheck,
    FunctionCheck,
    MinRows,
    NotNull,
    PrimaryKey,
    References,
    Unique,
)
from pipedag_dagster.data.frames import to_arrow
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import ChecksFailed, PipedagError, did_you_mean
from pipedag_dagster.execution.check_result import ENFORCED, EVALUATED, REMEMBERED, CheckResult
from pipedag_dagster.execution.inputs import Inputs
from pipedag_dagster.execution.sample_checks import SampleReferences, evaluate
from pipedag_dagster.fingerprint.fingerprint import fingerprint
from pipedag_dagster.frame_types import is_sql
from pipedag_dagster.names import quote
from pipedag_dagster.postgres import user_sql
from pipedag_dagster.postgres.sql_text import render

_SHOWN_COLUMNS = 6
_SHOWN_CHARACTERS = 60


class _Unusable(Exception):
    """Why a check cannot be evaluated."""


@dataclass(frozen=True)
class _Evaluation:
    """A check that is to be evaluated. `key` is what its result depends on."""

    check: Check
    table: TableVersion
    key: str
    query: Callable[[], str | None]


class Checker:
    """Evaluates checks of the tables of one stage.

    Args:
        inputs: what the stage run reads; other stages are checked against in the versions that it has pinned.
        members: the coming version of the stage, by asset.
    """

    def __init__(self, inputs: Inputs, members: Mapping[str, TableVersion]) -> None:
        self.inputs = inputs
        self.members = members
        self.store = inputs.store
        self.preview = inputs.instance.config.preview

    def run(self, checks: Iterable[tuple[str, Check]]) -> list[CheckResult]:
        """The results of checks of tables (asset, check), in this order. A check that cannot be evaluated is a failed
        one, never an exception."""
        results: dict[tuple[str, str], CheckResult] = {}
        evaluations: list[_Evaluation] = []
        wanted = list(checks)
        for asset, check in wanted:
            known = self._known(asset, check)
            if isinstance(known, CheckResult):
                results[asset, check.name] = known
            else:
                evaluations.append(known)
        before = self.store.records.findings([one.key for one in evaluations]) if evaluations else {}
        missing = [one for one in evaluations if one.key not in before]
        for one in evaluations:
            if one.key in before:
                results[one.table.asset, one.check.name] = self._found(one, before[one.key], REMEMBERED)
        with ThreadPoolExecutor(self.inputs.instance.config.max_concurrent) as threads:
            futures = [threads.submit(contextvars.copy_context().run, self._evaluate, one) for one in missing]
            for one, future in zip(missing, futures, strict=True):
                results[one.table.asset, one.check.name] = future.result()
        return [results[asset, check.name] for asset, check in wanted]

    def _known(self, asset: str, check: Check) -> CheckResult | _Evaluation:
        """The result, where nothing needs to be evaluated for it."""
        stage = self.inputs.stage.name
        try:
            table = self._table(stage, asset)
            if not table.in_database:
                raise _Unusable(f"{stage}.{asset} is a {'blob' if table.file else 'value'} and has no rows.")
            _refuse_missing(f"{stage}.{asset}", table, check.needs)
            if isinstance(check, SampleReferences):
                return evaluate(self.inputs, self.members, check, table)
            if isinstance(check, MinRows):
                bad = max(check.rows - table.rows, 0)
                told = f"{table.rows:,} row{'' if table.rows == 1 else 's'}"
                told += f", but there should be {check.rows:,} at least" if bad else ""
                return CheckResult(check, stage, asset, bad, told)
            if _is_enforced(check, table):
                return CheckResult(check, stage, asset, 0, f"no bad row among {table.rows:,}", how=ENFORCED)
            return self._evaluation(check, table)
        except (_Unusable, PipedagError) as error:
            return CheckResult(check, stage, asset, None, f"could not be evaluated: {error}")

    def _table(self, stage: str, asset: str) -> TableVersion:
        own = stage == self.inputs.stage.name
        tables = self.members if own else self.inputs.version_of(stage).tables
        if asset not in tables:
            raise _Unusable(f"{stage}.{asset} was never committed. Run it first.")
        return tables[asset]

    def _evaluation(self, check: Check, table: TableVersion) -> _Evaluation:
        if isinstance(check, FunctionCheck):
            key = digest("function", fingerprint(check.fn).version, str(check.input_type), table.physical)
            return _Evaluation(check, table, self._key(key), lambda: self._function_query(check, table))
        assert isinstance(check, ColumnCheck)
        target = ""
        if isinstance(check, References):
            other = self._table(check.stage, check.table)
            _refuse_missing(f"{check.stage}.{check.table}", other, check.target_columns)
            target = self._name(other)
        keys = table.primary_key or tuple(column.name for column in table.columns[:_SHOWN_COLUMNS])
        query = check.bad(self._name(table), keys, target)
        return _Evaluation(check, table, self._key(query), lambda: query)

    def _key(self, what: str) -> str:
        return digest(what, str(self.preview))

    def _name(self, table: TableVersion) -> str:
        return quote(self.store.schemas(table.stage).versions, table.physical)

    def _function_query(self, check: FunctionCheck, table: TableVersion) -> str | None:
        """The query that a function returns; None when it wants data."""
        if not is_sql(check.input_type):
            return None
        query = check.fn(self.store.read(table, check.input_type))
        if not isinstance(query, sa.ClauseElement):
            raise _Unusable(f"it returned a {type(query).__name__}. Return the query that selects the bad rows.")
        return f"SELECT q.*, 1 AS {ROWS} FROM (\n{render(query)}\n) AS q"

    def _evaluate(self, one: _Evaluation) -> CheckResult:
        started = time.monotonic()
        try:
            query = one.query()
            bad_rows, sample = self._of_frame(one) if query is None else self._of_query(query)
            finding = CheckFinding(bad_rows, sample, time.monotonic() - started)
            self.store.records.add_finding(one.key, one.table, finding)
            return self._found(one, finding, EVALUATED, query)
        except Exception as error:  # a function of the user may raise anything
            reason = f"{_reason(error)}{_place(error) if isinstance(one.check, FunctionCheck) else ''}"
            seconds = time.monotonic() - started
            message = f"could not be evaluated: {reason}"
            return CheckResult(one.check, one.table.stage, one.table.asset, None, message, seconds=seconds)

    def _of_query(self, query: str) -> tuple[int, list[dict[str, Any]]]:
        counted = (
            f"SELECT row_to_json(b)::text, b.{ROWS}, sum(b.{ROWS}) OVER () FROM (\n{query}\n) AS b "
            f"ORDER BY 2 DESC LIMIT {max(self.preview, 1)}"
        )
        database = self.store.database
        with database.transaction(read_only=True) as connection, database.users_sql(connection):
            rows = user_sql.run(connection, counted).fetchall()
        return (int(rows[0][2]) if rows else 0), [json.loads(row[0]) for row in rows[: self.preview]]

    def _of_frame(self, one: _Evaluation) -> tuple[int, list[dict[str, Any]]]:
        assert isinstance(one.check, FunctionCheck)
        value = one.check.fn(self.store.read(one.table, one.check.input_type))
        try:
            bad: pa.Table = to_arrow(value, "the bad rows")
        except (PipedagError, TypeError, AttributeError):
            raise _Unusable(f"it returned a {type(value).__name__}. Return the bad rows, as a DataFrame.") from None
        rows = bad.slice(0, self.preview).to_pylist()
        return bad.num_rows, [{name: None if cell is None else str(cell) for name, cell in row.items()} for row in rows]

    def _found(self, one: _Evaluation, finding: CheckFinding, how: str, query: str | None = None) -> CheckResult:
        check, table = one.check, one.table
        message = f"no bad row among {table.rows:,}"
        if finding.bad_rows:
            few = ", ".join(_row(row) for row in finding.sample)
            more = ", …" if sum(row.get(ROWS, 1) for row in finding.sample) < finding.bad_rows else ""
            message = f"{finding.bad_rows:,} of {table.rows:,} rows {check.wrong}" + (f": {few}{more}" if few else "")
            if query is None:
                query = one.query()
        sample = [{name: value for name, value in row.items() if name != ROWS} for row in finding.sample]
        return CheckResult(
            check, table.stage, table.asset, finding.bad_rows, message, sample, query, finding.seconds, how
        )


def refuse(stage: str, results: Sequence[CheckResult], number: int, *, staged: bool) -> None:
    """
    Raises:
        ChecksFailed: a blocking check has failed.
    """
    failed = [result for result in results if result.check.blocking and not result.passed]
    if not failed:
        return
    blocking = sum(result.check.blocking for result in results)
    head = f"Stage {stage!r}: {len(failed)} of {blocking} blocking check{'s' * (blocking != 1)} failed"
    if not staged:
        head += f" for version {number}, which people see."
    elif number:
        head += f", so it was not committed. People see version {number}, as before."
    else:
        head += ", so it was not committed. There is no version before."
    lines = [head]
    for result in failed:
        lines.append(f"- {result}")
        if result.query:
            lines.append(f"  {' '.join(result.query.split())}")
    if staged:
        lines.append("Fix the source, the task or the check, and run again: what was staged is kept and used again.")
    raise ChecksFailed("\n".join(lines), results)


def _is_enforced(check: Check, table: TableVersion) -> bool:
    """Whether the database itself makes sure of it: a result that breaks it is refused when it is stored."""
    key, nullable = set(table.primary_key), {column.name for column in table.columns if column.nullable}
    match check:
        case PrimaryKey(columns=columns):
            return key == set(columns)
        case Unique(columns=columns):
            return bool(key) and key <= set(columns)
        case NotNull(columns=columns):
            return not nullable & set(columns)
    return False


def _refuse_missing(what: str, table: TableVersion, columns: Sequence[str]) -> None:
    known = [column.name for column in table.columns]
    for column in columns:
        if column not in known:
            raise _Unusable(f"{what} has no column {column!r}.{did_you_mean(column, known)}")


def _row(row: Mapping[str, Any]) -> str:
    """What a bad row is known by: "id=17 (2 rows)"."""
    values = [(name, value) for name, value in row.items() if name != ROWS][:_SHOWN_COLUMNS]
    text = " ".join(f"{name}={_short(value)}" for name, value in values)
    count = row.get(ROWS, 1)
    return text if count == 1 else f"{text} ({count:,} rows)"


def _short(value: Any) -> str:
    text = "NULL" if value is None else " ".join(str(value).split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _reason(error: Exception) -> str:
    if isinstance(error, _Unusable):
        return str(error)
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return f"the database says: {error.diag.message_primary}"
    return f"{type(error).__name__}: {error}"


def _place(error: Exception) -> str:
    if isinstance(error, _Unusable):
        return ""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({frame.filename}:{frame.lineno})"
