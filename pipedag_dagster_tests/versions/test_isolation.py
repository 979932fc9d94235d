"""An instance never touches what is not its own, whatever things are called: it is right, or refused clearly.

Read back by somebody else: psycopg, with every name quoted.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, Table, materialize
from pipedag_dagster.data import frames
from pipedag_dagster.errors import (
    ConfigError,
    DatabaseError,
    InvalidName,
    NotOwned,
    PipedagError,
    UnstorableResult,
)
from pipedag_dagster.postgres.roles import statements
from pipedag_dagster_tests.helpers import SIZES, Connection, Instances

NAMES = [
    "select",
    "Table",
    "user",
    'say "hi"',
    "it's",
    "Größe",
    "名前",
    "👍",
    "50%",
    "%s",
    "%(a)s",
    "%%",
    "a;b",
    "a:b",
    ":a",
]
NAMES += [
    "a\\b",
    "\\",
    "a\nb",
    "a\tb",
    " a",
    "a ",
    " ",
    "a.b",
    '"',
    "{instance_id}",
    "$1",
    "--",
    "/*",
    "[bold]",
    "'; DROP",
]
LONGEST = ["x" * 63, "é" * 31, "名" * 21]
TOO_LONG = ["x" * 64, "é" * 32, "名" * 22]
PREFIXES = [
    "Full ",
    "select_",
    'a"b_',
    "it's_",
    "größe_",
    "50%_",
    "%s_",
    "a;b_",
    "a:b_",
    ":a_",
    "a\\\\b_",
    " _",
    "a.b_",
    "x" * 48,
]


def connected(url: sa.URL, **options: Any) -> Connection:
    return psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True, **options
    )


def rows(connection: Connection, schema: str, table: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The columns and rows of a table as somebody else sees them."""
    cursor = connection.execute(sql.SQL("SELECT * FROM {} ORDER BY 1").format(sql.Identifier(schema, table)))
    return [column.name for column in cursor.description or ()], cursor.fetchall()


def everything(connection: Connection) -> list[tuple[Any, ...]]:
    """All schemas and relations of the database, with their owners and marks, and the number of rows in each table."""
    query = """
        SELECT n.nspname, n.nspowner, obj_description(n.oid, 'pg_namespace'), c.relname, c.relkind, c.oid
        FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid
        WHERE n.nspname !~ '^(pg_|information_schema)' ORDER BY 1, 4
    """
    count = sql.SQL("SELECT count(*) FROM {}")
    return [
        (*row, connection.execute(count.format(sql.Identifier(row[0], row[3]))).fetchone())
        if row[4] in ("r", "v", b"r", b"v")
        else row
        for row in connection.execute(query).fetchall()
    ]


def flow_of(stage: str, frame: Any, *, name: str | None = None, key: str | None = None, input: bool = True) -> Flow:
    """A flow with the input task `orders` in one stage."""

    @materialize(input=input)
    def orders() -> Table:
        return Table(frame, name, primary_key=key)

    with Flow("shop") as flow, Stage(stage):
        orders()
    return flow


FRAME = pd.DataFrame({"id": [1, 2, 3]})


def run(flow: Flow, config: ConfigContext) -> None:
    flow.run(config=config, fail_fast=True)


# Names of tables and columns


@pytest.mark.parametrize("name", [*NAMES, *LONGEST])
def test_a_table_and_its_columns_may_have_any_name_on_the_source_and_on_the_copy(
    instances: Instances, connection: Connection, name: str
) -> None:
    config, table = instances(), name.replace("%%", "% %")  # in the name of a table, %% stands for a hash
    frame = pd.DataFrame({name: [1, 2, 3], f"{name}2"[-60:].lstrip("é名") or "b": ["x", None, "z"]})
    for instance, kept in (("full", 3), ("midi", 2)):
        run(flow_of("raw", frame, name=table, key=name), config.get(instance))
        columns, found = rows(connection, f"{instance}_raw", table.lower())
        assert columns == list(frame.columns)
        assert len(found) == kept
        assert set(found) <= {(1, "x"), (2, None), (3, "z")}


@pytest.mark.parametrize("name", [*TOO_LONG, "İ" * 30, "", "a\0b", "\ud800"], ids=ascii)
def test_a_table_name_that_postgresql_would_cut_or_cannot_hold_is_refused(
    instances: Instances, connection: Connection, name: str
) -> None:
    config = instances().get("full")
    with pytest.raises(UnstorableResult, match=r"table name .*(allows 63|cannot store)|needs a name"):
        run(flow_of("raw", FRAME, name=name), config)
    assert not connection.execute("SELECT FROM pg_views WHERE schemaname = 'full_raw'").fetchall()


@pytest.mark.parametrize("name", [*TOO_LONG, "", "a\0b", "ctid"], ids=ascii)
def test_a_column_name_that_postgresql_would_cut_or_cannot_hold_is_refused(instances: Instances, name: str) -> None:
    with pytest.raises(UnstorableResult, match="column name"):
        run(flow_of("raw", pd.DataFrame({name: [1]})), instances().get("full"))


@pytest.mark.parametrize("name", ["50%", ":a", 'say "hi"', "it's", "名前", "a\\b", "%s"])
def test_queries_read_tables_and_columns_of_any_name(instances: Instances, connection: Connection, name: str) -> None:
    @materialize(lazy=True, input_type=sa.Table)
    def query(table: sa.Alias) -> Table:
        return Table(sa.select((table.c[name] * 2).label(name)).where(table.c[name] > 1), name=f"{name}!")

    @materialize(input=True)
    def load() -> Table:
        return Table(pd.DataFrame({name: [1, 2]}), name)

    with Flow("shop") as flow:
        with Stage("raw"):
            loaded = load()
        with Stage("report"):
            query(loaded)
    for instance in ("full", "midi"):
        run(flow, instances().get(instance))
        assert rows(connection, f"{instance}_report", f"{name}!") == ([name], [(4,)])


@pytest.fixture(scope="module")
def one_database(
    server_url: sa.URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PipedagConfig, Connection]]:
    """One database and its full and midi for many examples."""
    name = f"names_{uuid.uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("names") / "instances"
    folder.mkdir()
    url = server_url.set(database=name)
    text = json.dumps(url.render_as_string(hide_password=False))
    args = f'{{url: {text}, schema_prefix: "{{instance_id}}_", create_database_if_not_exists: true}}'
    (folder / "__any__.yaml").write_text(f"name: shop\ntable_store: {{args: {args}}}\n")
    (folder / "full.yaml").write_text("")
    (folder / "midi.yaml").write_text("attrs: {copy_filtered_input: true, copy_source: full}\n")
    config = PipedagConfig(folder)
    config.get("full").store.table_store.prepare()
    with connected(url) as connection:
        yield config, connection
    with connected(server_url) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


NAME = st.one_of(
    st.text(max_size=24), st.text(st.characters(max_codepoint=127), min_size=1), st.text("é名x", min_size=20)
)


def storable(name: str) -> bool:
    """What PostgreSQL can have as the name of a column."""
    try:
        return 1 <= len(name.encode()) <= 63 and "\0" not in name and name not in SYSTEM
    except UnicodeEncodeError:  # a lone surrogate
        return False


SYSTEM = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=NAME, column=NAME)
@example(table="İ" * 21, column="İ" * 31)
def test_every_name_comes_back_or_is_refused(
    one_database: tuple[PipedagConfig, Connection], table: str, column: str
) -> None:
    config, connection = one_database
    flow = flow_of("raw", pd.DataFrame({column: [7, 8]}), name=table)
    try:
        run(flow, config.get("full"))
    except UnstorableResult:
        assert not (storable(table.lower()) and storable(column))
        return
    assert storable(table.lower())
    assert storable(column)
    # Always copied again: what an earlier example has left is not what this is about.
    flow.run(config=config.get("midi"), fail_fast=True, cache_validation_mode="force_cache_invalid")
    for schema in ("full_raw", "midi_raw"):
        assert rows(connection, schema, table.lower()) == ([column], [(7,), (8,)])


# Names of stages, prefixes and instances


@pytest.mark.parametrize(
    "stage", ["select", "user", "RAW", "input", "config", "default", "public", "information_schema", "x" * 48]
)
def test_a_stage_may_have_any_name_of_letters(instances: Instances, connection: Connection, stage: str) -> None:
    for instance in ("full", "midi"):
        run(flow_of(stage, FRAME), instances().get(instance))
        assert len(rows(connection, f"{instance}_{stage.lower()}", "orders")[1]) == {"full": 3, "midi": 2}[instance]


@pytest.mark.parametrize(
    "stage",
    [
        "",
        " ",
        "a b",
        "größe",
        "名前",
        'a"b',
        "a'b",
        "50%",
        "a;b",
        "a:b",
        "a\\b",
        "a\n",
        " a",
        "a-b",
        "a.b",
        "a\0b",
        "\ud800",
        "pipedag",
        "raw__versions",
        "raw__next",
        "raw__old",
        "raw__old2",
        "x" * 64,
    ],
    ids=ascii,
)
def test_a_stage_name_that_dagster_or_we_cannot_have_is_refused_when_the_flow_is_built(stage: str) -> None:
    with pytest.raises(InvalidName):
        flow_of(stage, FRAME)


def test_a_schema_name_over_63_bytes_is_refused_before_anything_runs(
    instances: Instances, connection: Connection
) -> None:
    with pytest.raises(InvalidName, match=r"'full_x+__versions', which has 64 bytes"):
        run(flow_of("x" * 49, FRAME), instances().get("full"))
    assert not connection.execute("SELECT FROM pg_namespace WHERE nspname LIKE 'full%'").fetchall()


def prefixed(prefix: str, suffix: str = "") -> str:
    return f"table_store: {{args: {{schema_prefix: {json.dumps(prefix)}, schema_suffix: {json.dumps(suffix)}}}}}\n"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_or_suffix_may_be_any_text(instances: Instances, connection: Connection, prefix: str) -> None:
    small = "attrs: {copy_filtered_input: true, copy_source: full, copy_filter_cnt: 2}\n"
    config = instances(full=prefixed(prefix), midi=small + prefixed("", f"_{prefix[-40:]}"))
    for instance, schema, kept in (("full", f"{prefix}raw", 3), ("midi", f"raw_{prefix[-40:]}", 2)):
        for _ in range(2):  # a first and a second commit
            flow = flow_of("raw", FRAME, key="id")
            flow.run(config=config.get(instance), fail_fast=True, cache_validation_mode="force_cache_invalid")
        assert rows(connection, schema, "orders") == (["id"], [(1,), (2,), (3,)][:kept])
        mark = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s"
        [(found,)] = connection.execute(mark, [schema]).fetchall()
        assert json.loads(found.partition(": ")[2])["instance"] == instance


@pytest.mark.parametrize("prefix", ["pg_", "é" * 30, "x" * 51])
def test_a_prefix_that_no_schema_can_have_is_refused(instances: Instances, prefix: str) -> None:
    with pytest.raises(InvalidName, match="schema_prefix"):
        run(flow_of("raw", FRAME), instances(full=prefixed(prefix)).get("full"))


@pytest.mark.parametrize("instance_id", ["full-1", "v1.2", "Full", "select", "x" * 40])
def test_an_instance_id_of_letters_is_taken_as_it_is(
    instances: Instances, connection: Connection, instance_id: str
) -> None:
    run(flow_of("raw", FRAME), instances(full=f"instance_id: {json.dumps(instance_id)}\n").get("full"))
    assert rows(connection, f"{instance_id}_raw", "orders")[1] == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    "instance_id", ["größe", "a b", " a", "a/b", "a\nb", 'a"b', "50%", "a;b", "a:b", "a\\b", "class", "config"]
)
def test_an_instance_id_that_dagster_cannot_have_is_refused_with_file_and_line(
    instances: Instances, instance_id: str
) -> None:
    config = instances(full=f"instance_id: {json.dumps(instance_id)}\n")
    with pytest.raises(ConfigError, match=r"full\.yaml:1: instance_id: Instance id .*Choose another") as caught:
        config.get("full")
    assert repr(instance_id) in str(caught.value)


# Schemas of others


@pytest.mark.parametrize("first", ["full", "full_fresh"])
def test_a_prefix_with_a_stage_that_makes_the_schema_of_another_instance_is_refused_either_way(
    instances: Instances, connection: Connection, first: str
) -> None:
    config = instances(full_fresh="")
    stage = {"full": "fresh_x", "full_fresh": "x"}
    second = "full_fresh" if first == "full" else "full"
    run(flow_of(stage[first], FRAME), config.get(first))
    before = everything(connection)
    with pytest.raises(NotOwned) as caught:
        run(flow_of(stage[second], FRAME), config.get(second))
    assert f"{stage[first]!r} of instance {first!r}" in str(caught.value)
    assert f"{stage[second]!r} of instance {second!r}" in str(caught.value)
    assert everything(connection) == before
    run(flow_of("elsewhere", FRAME), config.get(second))
    assert [row for row in everything(connection) if row in before] == before


@pytest.mark.parametrize("differs", ["name", "instance_id"])
def test_two_configurations_with_one_prefix_in_one_database_do_not_share(
    instances: Instances, connection: Connection, tmp_path: Path, differs: str
) -> None:
    run(flow_of("raw", FRAME), instances().get("full"))
    before = everything(connection)
    text = (tmp_path / "instances" / "__any__.yaml").read_text()
    second = tmp_path / "second"
    second.mkdir()
    changed = (
        text.replace("name: shop", "name: bakery") if differs == "name" else text.replace("{instance_id}_", "full_")
    )
    (second / "__any__.yaml").write_text(changed)
    name = "full" if differs == "name" else "ours"
    (second / f"{name}.yaml").write_text("")
    config = PipedagConfig(second).get(name)
    for stage in ("raw", "another"):
        with pytest.raises(NotOwned, match=r"the catalog of instance 'full' of pipeline 'shop' owns it"):
            run(flow_of(stage, FRAME), config)
        assert not config.store.table_store.current([stage])[stage].tables, "nor does it read what is not its own"
    assert everything(connection) == before


def test_two_pipelines_live_side_by_side_in_one_database(
    instances: Instances, connection: Connection, tmp_path: Path
) -> None:
    config = instances()
    text = (tmp_path / "instances" / "__any__.yaml").read_text()
    (tmp_path / "bakery").mkdir()
    bakery = text.replace("name: shop", "name: bakery").replace("{instance_id}_", "{name}_{instance_id}_")
    (tmp_path / "bakery" / "__any__.yaml").write_text(bakery)
    (tmp_path / "bakery" / "full.yaml").write_text("")
    run(flow_of("raw", FRAME), config.get("full"))
    run(flow_of("raw", FRAME * 10), PipedagConfig(tmp_path / "bakery").get("full"))
    assert rows(connection, "full_raw", "orders")[1] == [(1,), (2,), (3,)]
    assert rows(connection, "bakery_full_raw", "orders")[1] == [(10,), (20,), (30,)]


@pytest.mark.parametrize("schema", ["full_raw", "full_raw__versions", "full_raw__next", "full_pipedag"])
@pytest.mark.parametrize("content", ["", "CREATE TABLE orders (id int)", "CREATE VIEW orders AS SELECT 42 AS id"])
def test_a_schema_that_was_there_before_is_never_taken_empty_or_not(
    instances: Instances, connection: Connection, schema: str, content: str
) -> None:
    connection.execute(f"CREATE SCHEMA {schema} {content}")
    before = [row for row in everything(connection) if row[0] == schema]
    with pytest.raises(NotOwned, match=rf"Schema '{schema}' .* it was there before"):
        run(flow_of("raw", FRAME), instances().get("full"))
    assert [row for row in everything(connection) if row[0] == schema] == before
    connection.execute(f"DROP SCHEMA {schema} CASCADE")
    run(flow_of("raw", FRAME), instances().get("full"))
    assert rows(connection, "full_raw", "orders")[1] == [(1,), (2,), (3,)]


# Where the instances are


def test_instances_in_two_databases_need_no_prefix(
    instances: Instances, database_url: sa.URL, connection: Connection, server_url: sa.URL
) -> None:
    second = database_url.set(database=f"{database_url.database}_midi")
    base = prefixed("").replace("{args: {", "{args: {create_database_if_not_exists: true, ")
    url = json.dumps(second.render_as_string(hide_password=False))
    small = "attrs: {copy_filtered_input: true, copy_source: full, copy_filter_cnt: 2}\n"
    config = instances(full=base, midi=small + base.replace("{args: {", f"{{args: {{url: {url}, "))
    try:
        for instance in ("full", "midi"):
            run(flow_of("raw", FRAME, name="100%", key="id"), config.get(instance))
            config.get(instance).store.table_store.close()
        assert rows(connection, "raw", "100%")[1] == [(1,), (2,), (3,)]
        with connected(second) as connection:
            assert rows(connection, "raw", "100%")[1] == [(1,), (2,)]
    finally:
        with connected(server_url) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{second.database}" WITH (FORCE)')


# Roles


@pytest.fixture
def roles(connection: Connection) -> Iterator[dict[str, str]]:
    """Names for the roles of full and mini, which go with the test."""
    token = uuid.uuid4().hex[:8]
    names = {"full": f"full_{token}", "mini": f"mini_{token}"}
    yield names
    for name in names.values():
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchall():
            for statement in ("DROP OWNED BY {} CASCADE", "DROP ROLE {}"):
                connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


@pytest.fixture
def guarded(instances: Instances, connection: Connection, roles: dict[str, str]) -> PipedagConfig:
    """full, which has run, and mini, each with a role of its own."""
    small = "attrs: {copy_filtered_input: true, copy_source: full, copy_filter_cnt: 1}\n"
    role = {name: f"table_store: {{args: {{role: {json.dumps(role)}}}}}\n" for name, role in roles.items()}
    config = instances(full=role["full"], mini=small + role["mini"])
    make_roles(config, connection)
    run(flow_of("raw", FRAME, key="id"), config.get("full"))
    make_roles(config, connection)
    return config


def make_roles(config: PipedagConfig, connection: Connection) -> None:
    for statement in statements(config.files):
        connection.execute(statement.encode())


def owners(connection: Connection, like: str) -> set[str]:
    query = """
        SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname LIKE %(like)s UNION
        SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace::regnamespace::text LIKE %(like)s
    """
    return {row[0] for row in connection.execute(query, {"like": like})}


def test_everything_that_an_instance_makes_belongs_to_its_role(
    guarded: PipedagConfig, connection: Connection, roles: dict[str, str]
) -> None:
    run(flow_of("raw", FRAME), guarded.get("mini"))
    for instance, role in roles.items():
        assert owners(connection, f"{instance}\\_%") == {role}


def test_under_its_role_mini_copies_from_full_again_and_again(guarded: PipedagConfig, connection: Connection) -> None:
    for factor in (1, 10, 100):
        flow = flow_of("raw", FRAME * factor, key="id")
        run(flow, guarded.get("full"))
        before = everything(connection)
        run(flow, guarded.get("mini"))
        (row,) = rows(connection, "mini_raw", "orders")[1]
        assert row in rows(connection, "full_raw", "orders")[1]
        assert [row for row in everything(connection) if row[0].startswith("full")] == [
            row for row in before if row[0].startswith("full")
        ], "and leaves no pin there"


WRITES = [
    "INSERT INTO full_raw.orders VALUES (4)",
    "DROP VIEW full_raw.orders",
    "DROP SCHEMA full_raw CASCADE",
    "ALTER SCHEMA full_raw RENAME TO gone",
    "COMMENT ON SCHEMA full_raw IS 'mine'",
    "CREATE TABLE full_raw__versions.mine (a int)",
    "DROP SCHEMA full_raw__versions CASCADE",
    "DELETE FROM {physical}",
    "TRUNCATE {physical}",
    "DROP TABLE {physical}",
    "DELETE FROM full_pipedag.stage_version",
    "UPDATE full_pipedag.table_version SET rows = 0",
    "DROP TABLE full_pipedag.pin CASCADE",
    "DROP SCHEMA full_pipedag CASCADE",
]


@pytest.mark.parametrize("write", WRITES)
def test_the_role_of_mini_cannot_write_to_full_nor_drop_anything_of_it(
    guarded: PipedagConfig, connection: Connection, write: str
) -> None:
    before = everything(connection)
    found = connection.execute(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE relkind = 'r' AND relname ~ '^orders'"
    )
    (physical,) = found.fetchone() or ("",)
    database = guarded.get("mini").store.table_store.database
    with pytest.raises(psycopg.errors.InsufficientPrivilege), database.transaction() as writer:
        writer.execute(write.format(physical=physical).encode())
    assert everything(connection) == before


def test_mini_reads_full_with_its_own_rights_not_with_those_of_full(
    guarded: PipedagConfig, roles: dict[str, str]
) -> None:
    source = guarded.get("mini").source
    assert source is not None
    with (
        pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
        source.store.table_store.database.begin() as c,
    ):
        c.execute(sa.text("DELETE FROM full_pipedag.stage_version"))
    with pytest.raises(PipedagError):
        run(flow_of("raw", FRAME * 2), source)


@pytest.mark.parametrize("odd", ["{}", "Mini {}", "it's 5% \"\\ {}", " {} ", "größe:;{}", "a\nb{}"])
def test_every_driver_connects_under_the_role_whatever_it_is_called(
    instances: Instances, connection: Connection, roles: dict[str, str], odd: str
) -> None:
    roles |= {instance: odd.format(name) for instance, name in roles.items()}
    file = {name: f"{SIZES[name]}table_store: {{args: {{role: {json.dumps(role)}}}}}\n" for name, role in roles.items()}
    config = instances(**file)
    make_roles(config, connection)
    database = config.get("mini").store.table_store.database
    with database.read() as connection:
        assert connection.scalar(sa.text("SELECT current_user")) == roles["mini"]
    with database.connect("a lock") as lock:
        assert lock.execute("SELECT current_user").fetchone() == (roles["mini"],)
        lock.execute("RESET ROLE")
        assert lock.execute("SELECT current_user").fetchone() == (roles["mini"],)
    assert frames.read(database.uri, "SELECT current_user::text AS u").to_pydict() == {"u": [roles["mini"]]}
    database.close()


def test_a_role_goes_with_the_options_that_the_url_or_the_environment_has(
    instances: Instances,
    connection: Connection,
    roles: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    database_url: sa.URL,
) -> None:
    connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(roles["full"])))
    for url, environment in (
        (database_url.update_query_dict({"options": "-c work_mem=7MB"}), ""),
        (database_url, "-c work_mem=7MB"),
    ):
        monkeypatch.setenv("PGOPTIONS", environment)
        text = json.dumps(url.render_as_string(hide_password=False))
        file = f"table_store: {{args: {{url: {text}, role: {roles['full']}}}}}\n"
        with instances(full=file).get("full").store.table_store.database.read() as connection:
            found = connection.execute(sa.text("SELECT current_user, current_setting('work_mem')")).one()
        assert tuple(found) == (roles["full"], "7MB")


def test_a_role_that_does_not_exist_is_named(instances: Instances) -> None:
    config = instances(full="table_store: {args: {role: nobody_at_all}}\n").get("full")
    with pytest.raises(DatabaseError, match="nobody_at_all"):
        config.store.table_store.prepare()


def test_a_role_may_be_a_placeholder_and_is_checked(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> None:
    config = instances(full='table_store: {args: {role: "{name}_{instance_id}_{$WHO}"}}\n')
    monkeypatch.setenv("WHO", "x")
    assert config.get("full").config.role == "shop_full_x"
    monkeypatch.setenv("WHO", "x" * 60)
    with pytest.raises(ConfigError, match=r"full\.yaml:1: table_store\.args\.role: .*70 bytes"):
        config.get("full")


def test_a_role_needs_one_for_its_source(instances: Instances) -> None:
    with pytest.raises(ConfigError, match="'mini' has a role, but its copy_source 'full' has none"):
        statements(instances(mini=f"{SIZES['mini']}table_store: {{args: {{role: x}}}}\n").files)
