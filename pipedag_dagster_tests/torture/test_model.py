"""Whatever happens, in whatever order, to two instances: the database shows what a small model in memory says."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipedag_dagster import ConfigContext, PipedagConfig
from pipedag_dagster.errors import NotMaterialized, TaskFailed
from pipedag_dagster.orchestration.run import rollback
from pipedag_dagster.versions import history, removal
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Connection, Instances
from pipedag_dagster_tests.torture import Count, count, shop, tries, victim
from pipedag_dagster_tests.torture.shop import SAMPLE, STAGES, Tables, World

INSTANCES = st.sampled_from(["full", "midi"])
AMOUNTS = st.integers(1, 3)
_examples = itertools.count(1)


@dataclass
class Shown:
    """What the model knows of one stage of one instance: its versions, and which of them is visible (0: none)."""

    versions: dict[int, Tables] = field(default_factory=dict)
    current: int = 0

    @property
    def tables(self) -> Tables:
        return self.versions.get(self.current, {})

    def became(self, tables: Tables, number: int) -> None:
        """A commit has made `tables` visible; a number that stays means that there was none."""
        assert number in (self.current, self.current + 1)
        assert number == self.current + 1 or tables == self.tables
        self.versions[number], self.current = tables, number


class Machine(RuleBasedStateMachine):
    """Runs, changes, failures, kills, rollbacks, clean-ups and drops on `full` and `midi`, in any order."""

    def __init__(self, files: PipedagConfig, connection: Connection, counted: Count) -> None:
        super().__init__()
        self.path = str(files.path)
        self.contexts: dict[str, ConfigContext] = {name: files.get(name) for name in ("full", "midi")}
        self.outsider = connection
        self.counted = counted
        self.world = World()
        self.shown = {(name, stage): Shown() for name in self.contexts for stage in STAGES}

    def expected(self, instance: str) -> dict[str, Tables]:
        """What a run would show, by stage; nothing when midi has nothing to copy from."""
        rows = self.world.source()
        if instance == "midi":
            original = self.shown["full", "raw"].tables
            if not original:
                return {}
            rows = [(id, amount) for id, amount in original["orders"][:SAMPLE]]
        raw = shop.raw_tables(rows)
        return {"raw": raw, "report": shop.report_tables(raw, self.world.code)}

    def number(self, instance: str, stage: str) -> int:
        return self.contexts[instance].store.table_store.current([stage])[stage].number

    # What people do

    @initialize(instance=INSTANCES)
    def somebody_has_run_it(self, instance: str) -> None:
        for name in dict.fromkeys(["full", instance]):
            self.run(name)

    @rule(head=AMOUNTS, tail=AMOUNTS)
    def the_source_changes(self, head: int, tail: int) -> None:
        self.world = replace(self.world, head=head, tail=tail)

    @rule(code=AMOUNTS)
    def the_code_changes(self, code: int) -> None:
        self.world = replace(self.world, code=code)

    @rule(instance=INSTANCES)
    def run(self, instance: str) -> None:
        expected, ran = self.expected(instance), list[str]()
        result = shop.run(self.path, instance, self.world, ran=ran)
        if not expected:
            assert isinstance(result.error, NotMaterialized)
            return
        assert result.successful, result.error
        if all(self.shown[instance, stage].tables == expected[stage] for stage in STAGES):
            assert ran == []
        for stage in STAGES:
            self.shown[instance, stage].became(expected[stage], self.number(instance, stage))
        assert differences(self.contexts[instance].store.table_store) == []

    @rule(instance=INSTANCES, broken=st.sampled_from(["load", "scaled", "rows"]))
    def a_task_fails(self, instance: str, broken: str) -> None:
        """What does not need the task is committed, if it is a whole stage."""
        expected, ran = self.expected(instance), list[str]()
        result = shop.run(self.path, instance, self.world, broken, ran)
        if not expected:
            assert isinstance(result.error, NotMaterialized)
            return
        assert result.successful == (broken not in ran)
        assert result.successful or isinstance(result.error, TaskFailed)
        done = STAGES if result.successful else () if broken == "load" else ("raw",)
        for stage in done:
            self.shown[instance, stage].became(expected[stage], self.number(instance, stage))

    @rule(instance=INSTANCES, step=st.sampled_from(sorted(victim.ALL_STEPS)), calls=st.integers(1, 3))
    def a_run_is_killed(self, instance: str, step: str, calls: int) -> None:
        expected = self.expected(instance)
        job = functools.partial(shop.run, self.path, instance, self.world)
        process = victim.start_job(job, step, calls)
        process.join(60)
        assert process.exitcode in (0, -9)
        if not expected:
            return
        for stage in STAGES:
            shown = self.shown[instance, stage]
            number = self.number(instance, stage)
            if number != shown.current:
                shown.became(expected[stage], number)

    @rule(instance=INSTANCES, stage=st.sampled_from(STAGES), data=st.data())
    def roll_back(self, instance: str, stage: str, data: st.DataObject) -> None:
        shown, context = self.shown[instance, stage], self.contexts[instance]
        there = [one.number for one in history.versions(context.store.table_store, stage)]
        older = [number for number in there if number != shown.current]
        if not older:
            with pytest.raises(NotMaterialized):
                rollback(context, stage)
            return
        to = data.draw(st.sampled_from([None, *older]))
        after = rollback(context, stage, to)
        shown.became(shown.versions[max(older) if to is None else to], after.number)

    @rule(instance=INSTANCES)
    def clean_up(self, instance: str) -> None:
        removal.gc(self.contexts[instance].store.table_store, "gc")
        assert differences(self.contexts[instance].store.table_store) == []

    @precondition(lambda self: all(shown.current > 2 for shown in self.shown.values()))  # or little is ever there
    @rule(instance=INSTANCES)
    def drop(self, instance: str) -> None:
        removal.drop(self.contexts[instance].store.table_store, force=True)  # runs that were killed have left pins
        for stage in STAGES:
            self.shown[instance, stage] = Shown()

    # What is always so

    @invariant()
    def the_database_equals_the_model(self) -> None:
        self.counted.tries += 1
        try:
            for (instance, stage), shown in self.shown.items():
                self.compare(instance, stage, shown)
        except AssertionError:
            self.counted.violations += 1
            raise

    def compare(self, instance: str, stage: str, shown: Shown) -> None:
        store = self.contexts[instance].store.table_store
        assert self.visible(store.schemas(stage).current) == shown.tables
        assert [one.message for one in differences(store) if not one.harmless] == []
        there = {one.number for one in history.versions(store, stage)}
        assert there >= {number for number in shown.versions if number > shown.current - store.config.keep_versions}
        for number in there:
            with store.database.read() as connection:
                tables = store.catalog.versions(connection, {stage: number})[stage].tables.values()
            rows = {table.name: self.rows(store.schemas(stage).versions, table.physical) for table in tables}
            assert rows == shown.versions[number]

    def visible(self, schema: str) -> Tables:
        names = self.outsider.execute("SELECT viewname FROM pg_views WHERE schemaname = %s", (schema,)).fetchall()
        return {str(name): self.rows(schema, str(name)) for (name,) in names}

    def rows(self, schema: str, table: str) -> list[tuple[int, ...]]:
        return self.outsider.execute(f'SELECT * FROM "{schema}"."{table}" ORDER BY 1'.encode()).fetchall()

    def teardown(self) -> None:
        for context in self.contexts.values():
            removal.drop(context.store.table_store, force=True)
            context.store.table_store.close()


def test_the_database_equals_the_model(instances: Instances, connection: Connection) -> None:
    counted = count("all: after any sequence of runs, changes, faults and rollbacks: as the model says")
    files = instances(full="fail_fast: false\n", midi=shop.MIDI)

    def machine() -> Machine:
        return Machine(files, connection, counted)

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=tries(4, 60),
            stateful_step_count=tries(12, 40),
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=not tries(0, 1),
        ),
    )
