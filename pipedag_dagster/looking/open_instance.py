"""An instance that is open for looking: in Python, in notebooks and in tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.comparing.diff import Diff
from pipedag_dagster.comparing.sides import compare_instances, compare_last_commits, compare_versions
from pipedag_dagster.context import ConfigContext, PipedagConfig
from pipedag_dagster.data import frames
from pipedag_dagster.errors import NotMaterialized, WrongCall
from pipedag_dagster.frame_types import READABLE, is_readable, is_sql
from pipedag_dagster.looking import committed, table_rows
from pipedag_dagster.looking.listing import Listing
from pipedag_dagster.looking.queries import Queries
from pipedag_dagster.versions import history
from pipedag_dagster.versions.history import VersionInfo

if TYPE_CHECKING:
    from pipedag_dagster.orchestration.result import Result

_TRIES = 5


def open_instance(
    name: str | None = None,
    config: str | Path | PipedagConfig | None = None,
    *,
    flow: str | None = None,
    per_user: bool = False,
) -> OpenInstance:
    """Open an instance to look at what it has committed. Dagster is not imported, and nothing is written.

    Args:
        name: of the instance. Without it, what all instances share is the instance.
        config: a YAML file, a folder of them, or a loaded configuration. Without it, the one that is found from the
            working directory (see `PipedagConfig`).
        flow, per_user: as for `build_definitions`.

    Raises:
        UnknownInstance: there is no such instance. A close name is given.
        ConfigError: there is no configuration, or it has mistakes.

    Example:
        mini = open_instance("mini")
        mini.tables()
        mini.table("report.ranking")
        mini.query("select customer, sum(amount) from raw.orders group by 1")
    """
    files = config if isinstance(config, PipedagConfig) else PipedagConfig(config)
    return OpenInstance(files.get(name, flow, per_user))


class OpenInstance:
    """What an instance has committed.

    Every read is exact: it sees one version of every stage, in a READ ONLY transaction. Nothing connects before the
    first read.

    Args:
        instance: its configuration and store.
        workspace: names the definitions, for `run`. Without it, the nearest `workspace.yaml`, in the working directory
            or a folder above it.
    """

    def __init__(self, instance: ConfigContext, workspace: Path | None = None) -> None:
        self.instance = instance
        self.workspace = workspace
        self._store = instance.store.table_store
        self._queries = Queries(self._store)

    @property
    def name(self) -> str:
        """The name of the instance."""
        return self.instance.config.name

    def table(
        self,
        name: str,
        as_type: type | None = None,
        *,
        version: int | None = None,
        where: str | None = None,
        rows: int | None = None,
    ) -> Any:
        """A table. Values and blobs are returned as the objects that they are.

        Args:
            name: `stage.table`; or `table`, if only one stage has it.
            as_type: pd.DataFrame (the default), pl.DataFrame, pl.LazyFrame, pa.Table, or sa.Table to build queries on.
            version: the number of an older version of its stage. Without it, the committed one.
            where: an SQL condition: only these rows.
            rows: at most so many rows.

        Raises:
            NotMaterialized: there is no such table or version. The message says what to type.
            BadQuery: the database refuses the condition.
            WrongCall: tables cannot be read as this type.

        Example:
            mini.table("raw.orders", pl.DataFrame, where="amount > 100")
        """
        _check_type(as_type)
        if rows is not None and is_sql(as_type):
            raise WrongCall("rows= has no effect on sa.Table: write .limit() in your query.")
        for left in reversed(range(_TRIES)):
            found = committed.table(self._store, name, version)
            try:
                if where is not None and found.in_database:
                    table_rows.check_condition(self._queries, found, where)
                condition = None if where is None else f"({where}\n)"
                return self._store.reader.read(found, as_type, where=condition, limit=rows)
            except NotMaterialized:
                # A newer version was committed, and the one that was found was dropped.
                if not left or committed.table(self._store, name, version).id == found.id:
                    raise
        raise AssertionError

    def query(self, sql: str, as_type: type | None = None) -> Any:
        """The result of one query.

        Args:
            sql: names tables as `stage.table`.
            as_type: pd.DataFrame (the default), pl.DataFrame, pl.LazyFrame or pa.Table.

        Raises:
            BadQuery: the database refuses the query.
            TaskFailed: a column cannot be read as it is (see `docs/types.md`).
            WrongCall: queries cannot be read as this type.

        Example:
            mini.query("select count(*) from raw.orders")
        """
        _check_type(as_type)
        if is_sql(as_type):
            raise WrongCall("query(…) returns rows. For sa.Table, write mini.table(name, sa.Table) and sa.select(…).")
        return self._queries.frame(sql, as_type or frames.default_class())

    def tables(self) -> Listing[TableVersion]:
        """The committed tables of all stages."""
        try:
            versions = committed.stages(self._store)
        except NotMaterialized as error:
            return _table_listing([], {}, str(error))
        tables = [table for version in versions.values() for _, table in sorted(version.tables.items())]
        return _table_listing(tables, {stage: version.number for stage, version in versions.items()}, "No tables.")

    def versions(self, stage: str) -> Listing[VersionInfo]:
        """The versions of a stage that are kept, the newest first.

        Raises:
            NotMaterialized: there is no such stage.
        """
        name = committed.stage(self._store, stage).stage
        return Listing(
            history.versions(self._store, name),
            {
                "#version": lambda one: str(one.number),
                "committed": lambda one: f"{one.committed_at.astimezone():%Y-%m-%d %H:%M}",
                "run": lambda one: one.run_id[:8],
                "tables changed": _changes,
            },
            f"Stage {stage} was never committed.",
        )

    def diff(
        self,
        other: OpenInstance | str | None = None,
        select: str | None = None,
        *,
        versions: tuple[int, int] | None = None,
        key: Sequence[str] = (),
        examples: int | None = None,
    ) -> Diff:
        """What differs, from this instance to another one. The database compares, and nothing is written.

        Args:
            other: the other instance, or its name in the same configuration. Without it, the last commit of each
                stage is compared with the one before.
            select: a stage, or `stage.table`. Without it, all tables.
            versions: two versions of the stage `select` of this instance.
            key: the columns by which rows of both sides are the same row. Without it, the primary key.
            examples: how many rows that only one side has are shown. With 0, no data is.

        Returns:
            `.tables` with one `TableDiff` for each table, `.equal`, `.different`, `.summary` and `.to_dict()`.

        Raises:
            NotMaterialized: there is no such table, stage or version.
            NotComparable: both are the same tables; or several rows have the same key.

        Example:
            open_instance("full").diff("midi", "report.ranking", key=["customer"]).summary
        """
        if versions is not None:
            if other is not None:
                raise WrongCall("diff(…): versions= compares two versions of this instance, not another one.")
            return compare_versions(self._store, *versions, select, key=key, examples=examples)
        if other is None:
            return compare_last_commits(self._store, select, key=key, examples=examples)
        if isinstance(other, str):
            config = self.instance.config
            other = OpenInstance(self.instance.files.get(other, config.flow, config.per_user))
        return compare_instances(self._store, other._store, select, key=key, examples=examples)

    def run(self, select: str | None = None) -> Result:
        """Run the instance, or some of its tables, as `pipedag-dagster run` does: the flow is that of the definitions
        that `workspace.yaml` names. They import Dagster.

        Args:
            select: a stage, or `stage.table`.

        Raises:
            PipedagError: the run fails.
            ConfigError: there is no workspace, or it has no definitions for this instance.

        Example:
            mini.run("report")
        """
        from pipedag_dagster.looking.running import run_instance  # noqa: PLC0415

        return run_instance(self.instance, select, self.workspace)

    def __repr__(self) -> str:
        return f"OpenInstance(pipeline={self.instance.config.pipeline!r}, instance={self.name!r})"

    def _repr_html_(self) -> str:
        title = f"<b>{self.instance.instance_id}</b>"
        return f"{title}{self.tables()._repr_html_()}"


def _check_type(as_type: type | None) -> None:
    if as_type is not None and not is_readable(as_type):
        raise WrongCall(f"Tables cannot be read as {as_type!r}. Choose one of {READABLE}.")


def _table_listing(tables: list[TableVersion], numbers: dict[str, int], empty: str) -> Listing[TableVersion]:
    return Listing(
        tables,
        {
            "table": lambda table: f"{table.stage}.{table.asset}",
            "#rows": lambda table: f"{table.rows:,}" if table.in_database else table.kind.name,
            "#columns": lambda table: str(len(table.columns)) if table.in_database else "",
            "#version": lambda table: str(numbers[table.stage]),
            "created": lambda table: f"{table.created_at.astimezone():%Y-%m-%d %H:%M}" if table.created_at else "",
        },
        empty,
    )


def _changes(version: VersionInfo) -> str:
    if version.changes is None:
        return "unknown"
    signed = (("+", version.changes.added), ("", version.changes.changed), ("-", version.changes.removed))
    return ", ".join(f"{sign}{name}" for sign, names in signed for name in names) or "none"
