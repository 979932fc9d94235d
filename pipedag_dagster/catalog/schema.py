"""The tables of the catalog, their format, and how an older one becomes this one."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipedag_dagster.catalog import functions
from pipedag_dagster.errors import DatabaseError
from pipedag_dagster.postgres.database import execute

FORMAT = 7
"""Version of the catalog's own tables. A change of them needs an entry in `_MIGRATIONS`."""


def _reason_as_data(kind: str, pattern: str, separator: str) -> str:
    """Format 4 kept reasons as sentences. The statement that makes a kind and its details of those that match."""
    return (
        f"UPDATE {{schema}}.run_table SET reason = '{kind}', "
        f"details = to_jsonb(string_to_array(substring(reason, '{pattern}'), '{separator}')) "
        f"WHERE reason ~ '{pattern}'"
    )


_MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE {schema}.table_version ADD COLUMN kind text NOT NULL DEFAULT 'table'",
        "ALTER TABLE {schema}.table_version ADD COLUMN value json",
        "CREATE TABLE {schema}.text (key text PRIMARY KEY, parts jsonb NOT NULL)",
        "ALTER TABLE {schema}.table_version ADD COLUMN text text",
        "ALTER TABLE {schema}.table_version ADD COLUMN libraries jsonb NOT NULL DEFAULT '{}'",
        "ALTER TABLE {schema}.run_table ADD COLUMN old_text text, ADD COLUMN new_text text, ADD COLUMN same boolean",
        "CREATE INDEX run_table_stage ON {schema}.run_table (stage, asset)",
        "ALTER TABLE {schema}.table_version ADD COLUMN shape json",
        "ALTER TABLE {schema}.table_version ADD COLUMN file text",
        "ALTER TABLE {schema}.meta ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()",
        "CREATE TABLE {schema}.check_result ("
        "key text PRIMARY KEY, "
        "table_version bigint NOT NULL REFERENCES {schema}.table_version (id) ON DELETE CASCADE, "
        "bad_rows bigint NOT NULL, sample json NOT NULL, seconds double precision NOT NULL, "
        "at timestamptz NOT NULL DEFAULT now())",
        "CREATE INDEX check_result_table_version ON {schema}.check_result (table_version)",
    ),
    2: (functions.IS_VISIBLE, "GRANT EXECUTE ON FUNCTION {schema}.is_visible TO PUBLIC"),
    # A new table has none of the old grants: roles of other instances could write to it.
    3: (
        "CREATE TABLE {schema}.new_pin (role text NOT NULL, run_id text NOT NULL, stage text NOT NULL, "
        "number integer NOT NULL, until timestamptz NOT NULL, PRIMARY KEY (role, run_id, stage))",
        "INSERT INTO {schema}.new_pin SELECT '', run_id, stage, number, until FROM {schema}.pin",
        "DROP TABLE {schema}.pin",
        "ALTER TABLE {schema}.new_pin RENAME TO pin",
        "ALTER INDEX {schema}.new_pin_pkey RENAME TO pin_pkey",
        *functions.STATEMENTS,
    ),
    4: (
        "ALTER TABLE {schema}.run_table ADD COLUMN details jsonb NOT NULL DEFAULT '[]'",
        _reason_as_data("version changed", r"^code changed \((.* → .*)\)$", " → "),
        _reason_as_data("code changed", r"^code changed \((.*)\)$", ", "),
        _reason_as_data("argument changed", r"^argument changed \((.*)\)$", ", "),
        _reason_as_data("input changed", "^input changed: (.*)$", ", "),
        "ALTER TABLE {schema}.stage_version ADD COLUMN restored integer",
        "UPDATE {schema}.stage_version SET restored = substring(note, '^rollback to ([0-9]+)$')::integer",
        "ALTER TABLE {schema}.stage_version DROP COLUMN note",
    ),
    5: (
        "CREATE TABLE {schema}.sample (key text PRIMARY KEY, subject text NOT NULL, tables json NOT NULL, "
        "at timestamptz NOT NULL DEFAULT now())",
        "CREATE TABLE {schema}.sample_rows (sample text REFERENCES {schema}.sample (key) ON DELETE CASCADE, "
        "table_name text, why smallint, handles tid[] NOT NULL, PRIMARY KEY (sample, table_name, why))",
        "CREATE TABLE {schema}.profile (stage text, physical text, key text, body json NOT NULL, "
        "PRIMARY KEY (stage, physical, key))",
    ),
    # Until then, every table was hashed as it was written.
    6: (
        "ALTER TABLE {schema}.table_version ADD COLUMN content_hash text",
        "UPDATE {schema}.table_version SET content_hash = data_version WHERE kind = 'table'",
    ),
}
"""For each older format, the statements that make the next one of it. They run in one transaction."""


class _Handles(sa.types.UserDefinedType[str]):
    """The ctids of rows."""

    def get_col_spec(self, **options: object) -> str:
        return "tid[]"


class CatalogTables:
    """The tables of the catalog in `schema`."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.metadata = sa.MetaData(schema=schema)
        self.meta = sa.Table(
            "meta",
            self.metadata,
            sa.Column("format", sa.Integer, nullable=False),
            # Unique to this catalog: the folder of its files has it in its name.
            sa.Column("id", sa.Uuid, nullable=False, server_default=sa.func.gen_random_uuid()),
        )
        self._add_versions(self.metadata)
        self._add_runs(self.metadata)
        self._add_samples(self.metadata)

    def _add_versions(self, metadata: sa.MetaData) -> None:
        """What was made, and what is visible."""
        self.table_version = sa.Table(
            "table_version",
            metadata,
            sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
            *(sa.Column(name, sa.Text, nullable=False) for name in ("stage", "asset", "name", "physical", "flow")),
            *(sa.Column(name, sa.Text, nullable=False) for name in ("task", "execution", "slot")),
            sa.Column("task_key", sa.Text, nullable=False),
            sa.Column("cache_key", sa.Text, nullable=False),
            sa.Column("parts", JSONB, nullable=False),
            sa.Column("code_version", sa.Text, nullable=False),
            sa.Column("data_version", sa.Text, nullable=False),
            sa.Column("content_hash", sa.Text),
            *(sa.Column(name, JSONB, nullable=False) for name in ("columns", "primary_key", "indexes")),
            sa.Column("rows", sa.BigInteger, nullable=False),
            sa.Column("bytes", sa.BigInteger, nullable=False),
            sa.Column("query", sa.Text),
            sa.Column("run_id", sa.Text, nullable=False),
            sa.Column("seconds", sa.Double, nullable=False),
            sa.Column("kind", sa.Text, nullable=False, server_default="table"),
            # Not JSONB, which has no NUL and no order of keys.
            sa.Column("value", sa.JSON(none_as_null=True)),
            sa.Column("shape", sa.JSON(none_as_null=True)),
            sa.Column("file", sa.Text),
            sa.Column("text", sa.Text),
            sa.Column("libraries", JSONB, nullable=False, server_default="{}"),
            sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
            sa.Index("table_version_task_key", "stage", "task_key"),
            sa.UniqueConstraint("stage", "physical"),
        )
        self.stage_version = sa.Table(
            "stage_version",
            metadata,
            sa.Column("stage", sa.Text, primary_key=True),
            sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("run_id", sa.Text, nullable=False),
            sa.Column("committed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
            sa.Column("sources", JSONB, nullable=False),
            sa.Column("restored", sa.Integer),
        )
        self.stage_table = sa.Table(
            "stage_table",
            metadata,
            sa.Column("stage", sa.Text, primary_key=True),
            sa.Column("number", sa.Integer, primary_key=True),
            sa.Column("table_version", sa.ForeignKey(self.table_version.c.id), primary_key=True),
            sa.ForeignKeyConstraint(
                ["stage", "number"], [self.stage_version.c.stage, self.stage_version.c.number], ondelete="CASCADE"
            ),
        )

    def _add_runs(self, metadata: sa.MetaData) -> None:
        """What runs did, found and read."""
        self.run_table = sa.Table(
            "run_table",
            metadata,
            *(sa.Column(name, sa.Text, primary_key=True) for name in ("run_id", "stage", "asset")),
            sa.Column("reason", sa.Text, nullable=False),
            sa.Column("details", JSONB, nullable=False, server_default="[]"),
            sa.Column("seconds", sa.Double, nullable=False),
            sa.Column("table_version", sa.BigInteger, nullable=False),
            sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
            *(sa.Column(name, sa.Text) for name in ("old_text", "new_text")),
            sa.Column("same", sa.Boolean),
            sa.Index("run_table_stage", "stage", "asset"),
        )
        self.text = sa.Table(
            "text", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("parts", JSONB, nullable=False)
        )
        self.check_result = sa.Table(
            "check_result",
            metadata,
            sa.Column("key", sa.Text, primary_key=True),
            sa.Column("table_version", sa.ForeignKey(self.table_version.c.id, ondelete="CASCADE"), nullable=False),
            sa.Column("bad_rows", sa.BigInteger, nullable=False),
            sa.Column("sample", sa.JSON, nullable=False),  # JSONB would lose the order of the columns
            sa.Column("seconds", sa.Double, nullable=False),
            sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
            sa.Index("check_result_table_version", "table_version"),
        )
        self.pins = sa.Table(
            "pin",
            metadata,
            sa.Column("role", sa.Text, primary_key=True),  # of the database, which has pinned it
            sa.Column("run_id", sa.Text, primary_key=True),
            sa.Column("stage", sa.Text, primary_key=True),
            sa.Column("number", sa.Integer, nullable=False),
            sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        )

    def _add_samples(self, metadata: sa.MetaData) -> None:
        """What was copied from a source, and what is known of the tables of a source."""
        self.samples = sa.Table(
            "sample",
            metadata,
            sa.Column("key", sa.Text, primary_key=True),
            sa.Column("subject", sa.Text, nullable=False),  # the names of its tables
            sa.Column("tables", sa.JSON, nullable=False),
            sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        )
        self.sample_rows = sa.Table(
            "sample_rows",
            metadata,
            sa.Column("sample", sa.ForeignKey(self.samples.c.key, ondelete="CASCADE"), primary_key=True),
            sa.Column("table_name", sa.Text, primary_key=True),
            sa.Column("why", sa.SmallInteger, primary_key=True, autoincrement=False),
            sa.Column("handles", _Handles, nullable=False),
        )
        self.profiles = sa.Table(
            "profile",
            metadata,
            *(sa.Column(name, sa.Text, primary_key=True) for name in ("stage", "physical", "key")),
            sa.Column("body", sa.JSON, nullable=False),
        )

    def create(self, connection: sa.Connection) -> None:
        """Make the tables. The schema exists."""
        self.metadata.create_all(connection, checkfirst=False)
        self._execute(connection, functions.STATEMENTS)
        connection.execute(self.meta.insert().values(format=FORMAT))

    def is_old(self, connection: sa.Connection) -> bool:
        """Whether the tables have an older format than this one."""
        return self._format(connection) < FORMAT

    def migrate(self, connection: sa.Connection) -> None:
        """Bring the tables to this format. The caller holds a lock: one at a time.

        Raises:
            DatabaseError: they have a newer format, or another role owns them.
        """
        found = self._format(connection)
        try:
            for before in range(found, FORMAT):
                self._execute(connection, _MIGRATIONS[before])
        except sa.exc.ProgrammingError as error:
            if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
                raise
            raise DatabaseError(
                f"The catalog {self.schema!r} has the older format {found}, and only its owner may change it: "
                f"{error.orig}. Run its own instance once."
            ) from None
        if found < FORMAT:
            connection.execute(self.meta.update().values(format=FORMAT))

    def _execute(self, connection: sa.Connection, statements: Iterable[str]) -> None:
        for statement in statements:
            execute(connection, functions.in_schema(statement, self.schema))

    def _format(self, connection: sa.Connection) -> int:
        found = int(connection.scalar(sa.select(self.meta.c.format)) or 0)
        if found > FORMAT:
            raise DatabaseError(
                f"The catalog {self.schema!r} has format {found}; this version of pipedag_dagster reads format "
                f"{FORMAT}. Use the version of the package that wrote it, or drop the instance's schemas and run it "
                "again."
            )
        return found
