"""A sample of two stages whose tables refer to each other, while their source commits one state after the other."""

from __future__ import annotations

import threading
from typing import Any

import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, Stage, Table, materialize
from pipedag_dagster.errors import PipedagError, SampleSplit, SeveralFailed
from pipedag_dagster_tests.helpers import Connection, Instances
from pipedag_dagster_tests.torture import count, tries

MIDI = """
attrs: {copy_filtered_input: true, copy_source: full}
sample:
  relations: [flights.plane -> planes.id]
  tables: {planes: {rows: 5}, flights: {children_of: planes}}
"""
RUNS = tries(6, 100)


def flow(state: int) -> Flow:
    """In each state, all ids are new ones: planes of one state have no flights of another."""

    @materialize(input=True, outputs=["planes"], cache=lambda: state, version="1")
    def planes() -> Table:
        return Table(sa.text(f"SELECT {state} * 100 + i AS id FROM generate_series(1, 20) AS i"), primary_key="id")

    @materialize(input=True, outputs=["flights"], cache=lambda: state, version="1")
    def flights() -> Table:
        return Table(sa.text(f"SELECT i AS id, {state} * 100 + i % 20 + 1 AS plane FROM generate_series(1, 200) AS i"))

    with Flow("fleet") as flow:
        with Stage("basis"):
            planes()
        with Stage("facts"):
            flights()
    return flow


def outcome(instance: ConfigContext, state: int) -> PipedagError | None:
    try:
        flow(state).run(instance, fail_fast=True)
    except PipedagError as error:
        return error
    return None


def is_split(error: PipedagError) -> bool:
    failures: tuple[Any, ...] = error.failures if isinstance(error, SeveralFailed) else (error,)
    return all(isinstance(failure, SampleSplit) for failure in failures)


def test_references_across_stages_hold_or_the_run_is_refused(instances: Instances, connection: Connection) -> None:
    counted = count("sampled across stages: no reference is broken while the source commits")
    files = instances(midi=MIDI)
    full, midi = files.get("full"), files.get("midi")
    assert outcome(full, 0) is None
    stop = threading.Event()

    def commit() -> None:
        state = 0
        while not stop.is_set():
            state += 1
            assert outcome(full, state) is None

    committing = threading.Thread(target=commit)
    committing.start()
    refused = 0
    try:
        for _ in range(RUNS):
            error = outcome(midi, 0)
            assert error is None or is_split(error), error
            refused += error is not None
            if error is None:
                counted.tries += 1
                query = "SELECT count(*) FILTER (WHERE p.id IS NULL), count(*) FROM midi_facts.flights AS f "
                row = connection.execute(
                    (query + "LEFT JOIN midi_basis.planes AS p ON p.id = f.plane").encode()
                ).fetchone()
                counted.violations += row[0] if row else 1
                assert row == (0, 50)
    finally:
        stop.set()
        committing.join()
    counted.note = f"{refused} of {RUNS} runs were refused"
