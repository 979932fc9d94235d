"""What small instances copy of tables that refer to each other, in whole runs: within one database, and between two."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, Table, View, materialize
from pipedag_dagster.errors import DatabaseError, PipedagError, SampleError, SampleSplit
from pipedag_dagster.execution.stage_run import run_stage
from pipedag_dagster_tests.helpers import libpq

RELATIONS = """
  relations:
    - flights.tailnum -> planes.tailnum
    - flights.origin -> airports.code
"""
PLANES = "{tables: {planes: {rows: 20}, flights: {children_of: planes}, airports: parents}}"


@dataclass
class Fleet:
    """An instance with everything, and small ones: airports and planes in one stage, flights in another."""

    folder: Path
    planes: int = 200
    flights: int = 4000
    fresh: int = 0
    as_view: bool = False
    ran: list[str] = field(default_factory=list)

    def flow(self) -> Flow:
        @materialize(input=True, outputs=["planes"], cache=lambda: self.fresh, version="1")
        def planes() -> Table:
            query = f"SELECT i AS tailnum, i % 7 AS maker FROM generate_series(1, {self.planes}) AS i"
            return Table(sa.text(query), primary_key="tailnum")

        @materialize(input=True, outputs=["airports"], version="1")
        def airports() -> Any:
            query = sa.text("SELECT chr(i) AS code, 'name of ' || i AS name FROM generate_series(65, 90) AS i")
            return View(query) if self.as_view else Table(query, primary_key="code")

        @materialize(input=True, outputs=["flights"], cache=lambda: self.fresh, version="1")
        def flights() -> Table:
            # Of twelve flights, one has no plane, and one names a plane that does not exist.
            query = f"""
                SELECT i AS id, CASE i % 12 WHEN 0 THEN NULL WHEN 1 THEN 1000000 + i ELSE i % {self.planes} + 1 END
                    AS tailnum, chr(65 + i % 26) AS origin, i % 50 = 7 AS cancelled,
                    CASE WHEN i = 77 THEN 'OO' ELSE 'AA' END AS carrier
                FROM generate_series(1, {self.flights}) AS i
            """
            return Table(sa.text(query), primary_key="id")

        @materialize(input_type=sa.Table, version="1")
        def report(flights: Any, planes: Any) -> Any:
            self.ran.append("report")
            return sa.select(sa.func.count().label("n")).select_from(flights)

        with Flow("fleet") as flow:
            with Stage("basis"):
                planes_table, _ = planes(), airports()
            with Stage("facts"):
                flights_table = flights()
            with Stage("report"):
                report(flights_table, planes_table)
        return flow

    def instance(self, name: str, sample: str = "") -> ConfigContext:
        """An instance; `sample` is its section `sample`, in the flow style of YAML."""
        file = self.folder / f"{name}.yaml"
        original = file.read_text()
        file.write_text(original + (f"sample: {sample}\n" if sample else ""))
        try:
            return PipedagConfig(self.folder).get(name)
        finally:
            file.write_text(original)

    def run(self, name: str, sample: str = "") -> ConfigContext:
        instance = self.instance(name, sample)
        self.flow().run(config=instance, fail_fast=True)
        return instance

    def run_stage(self, name: str) -> None:
        """Run one stage of full."""
        stage = next(stage for stage in self.flow().stages if stage.name == name)
        run_stage(self.instance("full"), stage, secrets.token_hex(8))

    def table(self, instance: ConfigContext, name: str) -> pd.DataFrame:
        stage = "facts" if name == "flights" else "basis"
        store = instance.store.table_store
        return store.read(store.current([stage])[stage].tables[name], pd.DataFrame)  # type: ignore[no-any-return]


@pytest.fixture(params=["one database", "two databases"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, database_url: sa.URL) -> Iterator[Fleet]:
    source, name = database_url, f"fleet_{secrets.token_hex(4)}"
    if request.param == "two databases":
        source = database_url.set(database=name)
        with psycopg.connect(libpq(database_url), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
    text = f'name: fleet\ntable_store: {{args: {{url: "{libpq(database_url)}", schema_prefix: "{{instance_id}}_"}}}}\n'
    (tmp_path / "__any__.yaml").write_text(f"{text}sample:{RELATIONS}")
    (tmp_path / "full.yaml").write_text(f'table_store: {{args: {{url: "{libpq(source)}"}}}}\n')
    for small in ("midi", "mini"):
        (tmp_path / f"{small}.yaml").write_text("attrs: {copy_filtered_input: true, copy_source: full}\n")
    yield Fleet(tmp_path)
    if request.param == "two databases":
        with psycopg.connect(libpq(database_url), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_references_hold_across_stages(fleet: Fleet) -> None:
    full, midi = fleet.run("full"), fleet.run("midi", PLANES)
    planes, flights = fleet.table(midi, "planes"), fleet.table(midi, "flights")
    assert len(planes) == 20
    known = set(fleet.table(full, "planes")["tailnum"])
    assert {number for number in flights["tailnum"].dropna() if number in known} == set(planes["tailnum"])
    assert set(flights["origin"]) == set(fleet.table(midi, "airports")["code"])


def test_flights_without_a_plane_come_at_the_rate_of_the_others(fleet: Fleet) -> None:
    fleet.flights = 40_000
    full, midi = fleet.run("full"), fleet.run("midi", PLANES)
    everything, sample = fleet.table(full, "flights"), fleet.table(midi, "flights")

    def rates(flights: pd.DataFrame) -> tuple[float, float]:
        return flights["tailnum"].isna().mean(), (flights["tailnum"] > 1_000_000).mean()

    # About 4,000 flights: three standard errors of a share of 1/12 are 1.3 %.
    assert rates(sample) == pytest.approx(rates(everything), abs=0.02)


def test_mini_is_part_of_midi(fleet: Fleet) -> None:
    fleet.run("full")
    midi = fleet.run("midi", PLANES)
    mini = fleet.run("mini", PLANES.replace("20", "4"))
    for name, key in (("planes", "tailnum"), ("flights", "id"), ("airports", "code")):
        assert set(fleet.table(mini, name)[key]) <= set(fleet.table(midi, name)[key])
    assert len(fleet.table(mini, "planes")) == 4


def test_nothing_is_written_while_the_sample_holds_the_same(fleet: Fleet) -> None:
    fleet.run("full")
    sample = "{tables: {planes: {where: tailnum <= 3}, flights: {where: id <= 50}, airports: parents}}"
    midi = fleet.run("midi", sample)
    before = midi.store.table_store.current(["basis", "facts", "report"])
    fleet.flights, fleet.fresh = 4100, 1
    fleet.ran.clear()
    fleet.run("full")
    fleet.run("midi", sample)
    assert fleet.ran == ["report"], "of full"
    assert midi.store.table_store.current(["basis", "facts", "report"]) == before


def test_the_second_stage_uses_what_the_first_has_chosen(fleet: Fleet) -> None:
    fleet.run("full")
    midi = fleet.run("midi", PLANES)
    with midi.store.table_store.database.read() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM midi_pipedag.sample")) == 1


def test_rows_that_are_kept_and_rare_rows_are_in_every_sample(fleet: Fleet) -> None:
    fleet.run("full")
    keep = "keep: [{table: flights, where: id = 1234, because: it broke the report}]"
    cases = "edge_cases: {per_value: 1, nulls: 1, orphans: 1}"
    mini = fleet.run("mini", PLANES.replace("20", "1").replace("{tables", f"{{{keep}, {cases}, tables"))
    flights = fleet.table(mini, "flights")
    assert 1234 in set(flights["id"])
    assert set(flights["carrier"]) == {"AA", "OO"}
    assert set(flights["cancelled"]) == {True, False}
    assert flights["tailnum"].isna().any()
    assert (flights["tailnum"] > 1_000_000).any()
    assert set(fleet.table(mini, "planes")["maker"]) == set(range(7))


def test_a_second_instance_scans_nothing_for_rare_rows(fleet: Fleet) -> None:
    full = fleet.run("full")
    cases = "{edge_cases: {per_value: 1, nulls: 1, extremes: 1, orphans: 1}, rows: 5}"
    fleet.run("midi", cases)
    profiles = "SELECT stage, physical, key FROM full_pipedag.profile ORDER BY 1, 2, 3"
    with full.store.table_store.database.read() as connection:
        before = connection.execute(sa.text(profiles)).all()
    fleet.run("mini", cases.replace("5", "2"))
    with full.store.table_store.database.read() as connection:
        assert connection.execute(sa.text(profiles)).all() == before != []


def test_the_rows_of_a_view_are_sampled(fleet: Fleet) -> None:
    fleet.as_view = True
    fleet.run("full")
    midi = fleet.run("midi", "{tables: {planes: {rows: 20}, flights: {where: id <= 5}, airports: parents}}")
    assert set(fleet.table(midi, "airports")["code"]) == set(fleet.table(midi, "flights")["origin"])


def test_a_function_chooses(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    (fleet.folder / "fleet_sampling.py").write_text(
        "import sqlalchemy as sa\ndef late(tables):\n    flights = tables['facts.flights']\n"
        "    return sa.select(flights.c.id).where(flights.c.id > 3990)\n"
    )
    monkeypatch.syspath_prepend(fleet.folder)
    fleet.run("full")
    midi = fleet.run("midi", "{tables: {planes: parents, airports: parents, flights: {choose: 'fleet_sampling:late'}}}")
    assert set(fleet.table(midi, "flights")["id"]) == set(range(3991, 4001))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("{max_rows: 100, tables: {planes: {rows: 20}, flights: {children_of: planes}}}", r"max_rows is 100"),
        ("{tables: {planes: parents, airports: parents, flights: {where: id < 0}}}", r"has no rows.*4,226"),
        ("{tables: {flights: {where: '1 / (id - 5) > 0'}}}", "division by zero"),
    ],
)
def test_a_sample_that_makes_no_sense_is_refused_before_anything_is_written(
    fleet: Fleet, sample: str, message: str
) -> None:
    fleet.run("full")
    with pytest.raises(SampleError, match=message):
        fleet.run("midi", sample)
    midi = fleet.instance("midi")
    assert midi.store.table_store.current(["basis"])["basis"].number == 0


def test_a_sample_that_has_everything_is_refused(fleet: Fleet) -> None:
    fleet.flights = 20_000
    fleet.run("full")
    sample = "{tables: {planes: {where: tailnum > 0}, flights: {where: id > 0}, airports: {where: code <> ''}}}"
    with pytest.raises(SampleError, match=r"has all of their 20,226 rows, although its rules ask for less"):
        fleet.run("midi", sample)


def test_stages_of_two_states_of_the_source_are_refused(fleet: Fleet) -> None:
    fleet.run("full")
    fleet.fresh, fleet.planes = 1, 300
    fleet.run_stage("basis")
    with pytest.raises(SampleSplit, match=r"'basis' and 'facts' of 'full'.*pipedag-dagster run full"):
        fleet.run("midi", PLANES)
    fleet.run("full")
    midi = fleet.run("midi", PLANES)
    assert len(fleet.table(midi, "planes")) == 20


def test_a_table_that_is_referred_to_must_be_there(fleet: Fleet) -> None:
    fleet.run_stage("facts")
    with pytest.raises(PipedagError, match=r"has no table basis\.planes yet"):
        fleet.run("midi", PLANES)


def test_the_right_to_make_temporary_tables_is_asked_for(fleet: Fleet, database_url: sa.URL) -> None:
    full = fleet.run("full")
    role = f"reader_{secrets.token_hex(4)}"
    with full.store.table_store.database.begin() as connection:
        name = connection.scalar(sa.text("SELECT current_database()"))
        connection.execute(sa.text(f'REVOKE TEMPORARY ON DATABASE "{name}" FROM PUBLIC'))
        connection.execute(sa.text(f"CREATE ROLE {role}"))
        connection.execute(sa.text(f'GRANT CREATE ON DATABASE "{name}" TO {role}'))
    try:
        with pytest.raises(DatabaseError, match=rf"GRANT TEMPORARY ON DATABASE .*{name}.* TO .*{role}"):
            _choose_as(full, role)
    finally:
        with full.store.table_store.database.begin() as connection:
            connection.execute(sa.text(f'GRANT TEMPORARY ON DATABASE "{name}" TO PUBLIC'))
            connection.execute(sa.text(f"DROP OWNED BY {role}"))
            connection.execute(sa.text(f"DROP ROLE {role}"))


def _choose_as(full: ConfigContext, role: str) -> None:
    from pipedag_dagster.postgres import temporary_tables  # noqa: PLC0415

    with full.store.table_store.database.transaction() as connection:
        connection.execute(f"SET LOCAL ROLE {role}".encode())
        temporary_tables.require(connection, "Choosing a sample")
