"""Roles keep instances apart: mini attacks full, with a login of its own, and gets nowhere.

Everything that mini may do in the database, it tries by plain SQL: nothing depends on its using this package.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import Flow, PipedagConfig, Stage, Table, materialize
from pipedag_dagster.errors import DatabaseError, NotOwned, PinLost
from pipedag_dagster.postgres.roles import statements
from pipedag_dagster.versions import renewal
from pipedag_dagster.versions.verify import differences

Instances = Callable[..., PipedagConfig]
Connection = psycopg.Connection[Any]


@dataclass
class Shop:
    """full and mini, each with a role and a login of its own."""

    config: PipedagConfig
    admin: Connection
    mini: Connection
    names: dict[str, str]

    def run(self, instance: str = "full", factor: int = 1, **more: Any) -> None:
        flow(factor).run(config=self.config.get(instance), fail_fast=True, **more)

    def orders(self, instance: str = "full") -> list[int]:
        return [row[0] for row in self.admin.execute(f"SELECT id FROM {instance}_raw.orders ORDER BY 1".encode())]

    def attack(self, sql: str, *parameters: Any) -> None:
        """As mini, by SQL."""
        self.mini.execute(sql.format(**self.names).encode(), parameters or None)

    def pins(self) -> list[tuple[Any, ...]]:
        return self.admin.execute(
            "SELECT role, run_id, stage, number FROM full_pipedag.pin ORDER BY 1, 2, 3"
        ).fetchall()


def flow(factor: int = 1) -> Flow:
    @materialize(input=True)
    def orders() -> Table:
        return Table(pd.DataFrame({"id": [1, 2, 3]}) * factor, primary_key="id")

    @materialize(lazy=True, input_type=sa.Table)
    def total(orders: sa.Alias) -> sa.Select[tuple[int]]:
        return sa.select(sa.func.sum(orders.c.id).label("total"))

    with Flow("shop") as made:
        with Stage("raw"):
            loaded = orders()
        with Stage("report"):
            total(loaded)
    return made


@pytest.fixture
def shop(instances: Instances, database_url: sa.URL) -> Iterator[Shop]:
    token = uuid.uuid4().hex[:8]
    names = {name: f"shop_{name}_{token}" for name in ("full", "mini")}
    url = database_url.render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as admin:
        args = {}
        for name, role in names.items():
            admin.execute(f"CREATE ROLE {role}_login LOGIN NOINHERIT".encode())
            login = database_url.set(username=f"{role}_login").render_as_string(hide_password=False)
            args[name] = f"table_store: {{args: {{role: {role}, url: {json.dumps(login)}}}}}\n"
        small = "attrs: {copy_filtered_input: true, copy_source: full, copy_filter_cnt: 1}\n"
        config = instances(full=args["full"], mini=small + args["mini"], midi="")
        for statement in statements(config.files):
            admin.execute(statement.encode())
        mini_url = database_url.set(username=f"{names['mini']}_login").render_as_string(hide_password=False)
        with psycopg.connect(mini_url, autocommit=True, options=f"-c role={names['mini']}") as mini:
            made = Shop(config, admin, mini, names)
            made.run("full")
            yield made
        for name in ("full", "mini"):
            config.get(name).store.table_store.close()
        for name in names.values():
            for role in (name, f"{name}_login"):
                admin.execute(f"DROP OWNED BY {role} CASCADE".encode())
                admin.execute(f"DROP ROLE {role}".encode())


def test_with_logins_of_their_own_mini_copies_from_full_again_and_again(shop: Shop) -> None:
    for factor in (1, 10):
        shop.run("full", factor)
        shop.run("mini", factor)
        assert len(shop.orders("mini")) == 1
        assert set(shop.orders("mini")) < set(shop.orders("full"))
    assert shop.pins() == [], "no pin is left"
    assert differences(shop.config.get("full").store.table_store) == []


TRAPS = {
    "a schema named like the role of full": "{full}",
    "the schema public": "public",
}
TRAP = """
    CREATE OR REPLACE FUNCTION {where}.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO trap.victims VALUES (current_user);
        RETURN NULL;
    END $$
"""
FUNCTIONS = [
    ("hashtextextended", "text, integer", "bigint"),
    ("obj_description", "oid, unknown", "text"),
    ("obj_description", "oid, text", "text"),
    ("to_regnamespace", "varchar", "regnamespace"),
    ("current_setting", "varchar", "text"),
    ("pg_try_advisory_xact_lock", "bigint", "boolean"),
    ("coalesce_max", "integer", "integer"),
    ("format_type", "oid, integer", "text"),
    ("pg_get_userbyid", "oid", "name"),
    ("starts_with", "name, varchar", "boolean"),
    ("quote_ident", "varchar", "text"),
    ("is_visible", "varchar, varchar", "boolean"),
    ("now", "", "timestamptz"),
    ("sum", "bigint", "numeric"),
]


@pytest.mark.parametrize("where", TRAPS)
def test_full_never_runs_a_function_of_mini(shop: Shop, where: str) -> None:
    shop.attack("CREATE SCHEMA trap")
    shop.attack("CREATE TABLE trap.victims (who text)")
    shop.attack("GRANT USAGE ON SCHEMA trap TO PUBLIC; GRANT INSERT ON trap.victims TO PUBLIC")
    schema = TRAPS[where].format(**shop.names)
    if schema == "public":
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            shop.attack("CREATE FUNCTION public.now(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
        return
    shop.attack(f"CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO PUBLIC")
    for name, arguments, result in FUNCTIONS:
        body = TRAP.replace("{where}", schema).replace("{name}", name)
        body = body.replace("{arguments}", arguments).replace("{result}", result)
        try:
            shop.mini.execute(body.encode())
        except psycopg.Error:
            continue  # no such type of an argument
    shop.attack(f"CREATE VIEW {schema}.orders AS SELECT 99 AS id")
    for factor in (1, 10, 10):
        shop.run("full", factor)
    assert shop.orders() == [10, 20, 30]
    assert shop.admin.execute("SELECT total FROM full_report.total").fetchall() == [(60,)]
    assert shop.admin.execute("SELECT * FROM trap.victims").fetchall() == []


PIN_ATTACKS = [
    "DELETE FROM full_pipedag.pin",
    "UPDATE full_pipedag.pin SET number = 1",
    "INSERT INTO full_pipedag.pin VALUES ('{full}', 'a run', 'raw', 1, 'infinity')",
    "TRUNCATE full_pipedag.pin",
]


@pytest.mark.parametrize("attack", PIN_ATTACKS)
def test_mini_cannot_write_to_the_pins_of_full(shop: Shop, attack: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        shop.attack(attack)


def test_mini_cannot_release_or_take_the_pins_of_a_run_of_full(shop: Shop) -> None:
    store = shop.config.get("full").store.table_store
    # mini guesses the id of a run, and pins first.
    shop.attack("SELECT full_pipedag.pin_stages('the run', '{{raw,report}}')")
    shop.run("full", 10)
    assert store.pin("the run", ["raw"])["raw"].number == 2, "not the version that mini has pinned"
    shop.attack("SELECT full_pipedag.release_pins('the run')")
    assert [pin[1:] for pin in shop.pins()] == [("the run", "raw", 2)]
    store.unpin("the run")


def test_mini_cannot_pin_for_ever(shop: Shop) -> None:
    shop.attack("SELECT full_pipedag.pin_stages('forever', '{{raw}}')")
    shop.attack("SELECT full_pipedag.renew_pins('forever')")
    longest = shop.admin.execute("SELECT max(until) - now() < '16 minutes' FROM full_pipedag.pin").fetchone()
    assert longest == (True,)
    shop.admin.execute("UPDATE full_pipedag.pin SET until = now() - interval '1 second'")
    for factor in (2, 3, 4):
        shop.run("full", factor)
    kept = shop.admin.execute("SELECT count(*) FROM full_pipedag.stage_version WHERE stage = 'raw'").fetchone()
    assert kept == (2,)


def test_other_logins_may_not_pin(shop: Shop) -> None:
    shop.admin.execute("CREATE ROLE stranger")
    try:
        shop.admin.execute("SET ROLE stranger")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            shop.admin.execute("SELECT full_pipedag.pin_stages('x', '{raw}')")
    finally:
        shop.admin.execute("RESET ROLE")
        shop.admin.execute("DROP ROLE stranger")


def mark(instance: str, stage: str) -> str:
    return "pipedag_dagster: " + json.dumps({"pipeline": "shop", "instance": instance, "stage": stage})


@pytest.mark.parametrize("schema", ["full_next", "full_next__versions"])
@pytest.mark.parametrize("marked", [True, False])
def test_full_refuses_a_schema_that_mini_has_squatted(shop: Shop, schema: str, marked: bool) -> None:
    """mini may drop whatever is put into its schema. So nothing is."""

    @materialize()
    def extra() -> pd.DataFrame:
        return pd.DataFrame({"secret": [1]})

    with Flow("shop") as made, Stage("next"):
        extra()
    shop.attack(f"CREATE SCHEMA {schema}")
    shop.attack(f"GRANT ALL ON SCHEMA {schema} TO PUBLIC")
    if marked:
        shop.attack(f"COMMENT ON SCHEMA {schema} IS '{mark('full', 'next')}'".replace("{", "{{").replace("}", "}}"))
    with pytest.raises(NotOwned, match=shop.names["mini"]):
        made.run(config=shop.config.get("full"), fail_fast=True)
    assert not shop.admin.execute("SELECT FROM pg_class WHERE relname ~ '^extra'").fetchall()


def test_a_forged_catalog_runs_no_code(shop: Shop) -> None:
    """mini makes the catalog of an instance that was never run, with a view that calls its own function."""
    shop.attack("CREATE SCHEMA midi_pipedag; GRANT USAGE ON SCHEMA midi_pipedag TO PUBLIC")
    shop.attack(
        "CREATE FUNCTION midi_pipedag.bang() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'bang'; END $$; "
        "CREATE VIEW midi_pipedag.meta AS SELECT midi_pipedag.bang() AS format; "
        "GRANT SELECT ON midi_pipedag.meta TO PUBLIC"
    )
    text = f"COMMENT ON SCHEMA midi_pipedag IS '{mark('midi', '')}'"
    shop.attack(text.replace("{", "{{").replace("}", "}}"))
    with pytest.raises(NotOwned):
        shop.config.get("midi").store.table_store.current(["raw"])


def test_a_lock_that_mini_takes_can_only_block_and_mini_is_named(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody who may connect can take an advisory lock. full waits, and its log says for whom."""
    monkeypatch.setattr("pipedag_dagster.postgres.advisory_lock._LONG", 0.2)
    keys = ["pipedag:full_raw", "pipedag:full_raw:gate", "pipedag:full_pipedag:pin"]
    for key in keys:
        caplog.clear()
        shop.attack("SELECT pg_advisory_lock(hashtextextended(%s, 0))", key)
        running = threading.Thread(target=shop.run, args=("full", len(key)))
        with caplog.at_level(logging.WARNING):
            running.start()
            until = time.monotonic() + 20
            while f"{shop.names['mini']}_login" not in caplog.text and time.monotonic() < until:
                time.sleep(0.05)
        assert f"login '{shop.names['mini']}_login'" in caplog.text, key
        shop.attack("SELECT pg_advisory_unlock_all()")
        running.join()
        assert shop.orders() == [len(key), 2 * len(key), 3 * len(key)]


# Pins are renewed, and a lost one is an error


def test_a_live_run_renews_its_pins_in_its_own_catalog_and_in_that_of_its_source(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "INTERVAL", 0.05)
    mini = shop.config.get("mini").store.table_store
    shop.run("mini")
    source = shop.config.get("mini").source
    assert source is not None
    pinned = {store: store.pin("a long run", ["raw"])["raw"].number for store in (mini, source.store.table_store)}
    ended = "UPDATE {}_pipedag.pin SET until = now() - interval '1 hour'"
    with renewal.renewed("a long run"):
        for name in ("full", "mini"):
            shop.admin.execute(ended.format(name).encode())
            alive = f"SELECT bool_and(until > now()) FROM {name}_pipedag.pin".encode()
            until = time.monotonic() + 20
            while shop.admin.execute(alive).fetchone() != (True,) and time.monotonic() < until:
                time.sleep(0.02)
            assert shop.admin.execute(alive).fetchone() == (True,)
    for factor in (5, 6, 7):
        shop.run("full", factor)
    for store, number in pinned.items():
        assert store.pin("a long run", ["raw"])["raw"].number == number, "still the version that it saw first"
        store.unpin("a long run")


def test_a_run_whose_pins_have_ended_sees_the_same_version_or_an_error(shop: Shop) -> None:
    store = shop.config.get("full").store.table_store
    assert store.pin("a run", ["raw"])["raw"].number == 1
    shop.admin.execute("UPDATE full_pipedag.pin SET until = now() - interval '1 hour'")
    shop.run("full", 2)  # keep_versions: 2
    assert store.pin("a run", ["raw"])["raw"].number == 1
    shop.admin.execute("UPDATE full_pipedag.pin SET until = now() - interval '1 hour'")
    shop.run("full", 3)
    with pytest.raises(PinLost, match=r"version 1 of stage 'raw'.*Start a new run"):
        store.pin("a run", ["raw"])
    store.unpin("a run")


def test_a_catalog_whose_pins_others_could_write_is_brought_to_this_format(shop: Shop) -> None:
    """The pins that are there stay, and the rights that others had on the table are gone."""
    shop.admin.execute(
        f"""
        DROP TABLE full_pipedag.sample_rows, full_pipedag.sample, full_pipedag.profile;
        ALTER TABLE full_pipedag.table_version DROP COLUMN content_hash;
        ALTER TABLE full_pipedag.run_table DROP COLUMN details;
        ALTER TABLE full_pipedag.stage_version DROP COLUMN restored;
        ALTER TABLE full_pipedag.stage_version ADD COLUMN note text;
        DROP FUNCTION full_pipedag.pin_stages, full_pipedag.renew_pins, full_pipedag.release_pins;
        ALTER TABLE full_pipedag.pin DROP CONSTRAINT pin_pkey;
        ALTER TABLE full_pipedag.pin DROP COLUMN role;
        ALTER TABLE full_pipedag.pin ADD PRIMARY KEY (run_id, stage);
        GRANT INSERT, DELETE ON full_pipedag.pin TO {shop.names["mini"]};
        INSERT INTO full_pipedag.pin VALUES ('an old run', 'raw', 1, now() + interval '1 day');
        UPDATE full_pipedag.meta SET format = 3;
        """.encode()
    )
    with pytest.raises(DatabaseError, match="Run its own instance 'full' once"):
        shop.run("mini")
    for factor in (2, 3, 4):
        shop.run("full", factor)
    assert shop.pins() == [("", "an old run", "raw", 1)]
    versions = shop.admin.execute("SELECT number FROM full_pipedag.stage_version WHERE stage = 'raw' ORDER BY 1")
    assert versions.fetchall() == [(1,), (3,), (4,)]
    shop.run("mini")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        shop.attack("DELETE FROM full_pipedag.pin")
