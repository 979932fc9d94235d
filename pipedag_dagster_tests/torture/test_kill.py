"""Nothing half-done: a run that is killed at any instant leaves the old or the new stage version, whole. The next run
finishes."""

from __future__ import annotations

import random

import pytest

from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.torture import Count, count, tries, victim
from pipedag_dagster_tests.torture.ward import Ward


@pytest.fixture(scope="module")
def counted() -> Count:
    return count("nothing half-done: killed at a named step, old or new, whole; no lock left; the next run finishes")


@pytest.mark.parametrize("step", victim.STEPS)
def test_killed_at_a_named_step(instances: Instances, counted: Count, step: str) -> None:
    ward = Ward(instances(), counted)
    for _ in range(tries(1, 10)):
        assert ward.kill(step)


def test_killed_at_any_time(instances: Instances) -> None:
    """From the start of its process to its end: the later, the likelier, because it commits at the end."""
    counted = count("nothing half-done: the same, killed at a random time")
    ward = Ward(instances(), counted)
    ward.seconds()  # the first process imports what the others share
    chance = random.Random(0)
    while counted.tries < tries(8, 870):
        if counted.tries % 20 == 0:  # again and again: the machine may have other things to do
            whole = ward.seconds()
        ward.kill(None, delay=chance.triangular(0, whole, whole))
    counted.note = f"{ward.left['old']} left the old version, {ward.left['new']} the new one"


def test_what_a_killed_run_has_staged_is_used_by_the_next(instances: Instances) -> None:
    counted = count("resumed: what a killed run has staged is not made again")
    files = instances()
    victim.run(str(files.path), 1)
    for generation in range(2, 2 + tries(2, 50)):
        victim.start(files.path, generation, "before the commit").join(60)
        result = victim.run(str(files.path), generation)
        ran = [record.asset for record, _ in result.tables if not record.cached]
        counted.tries += 1
        counted.violations += bool(ran)
        assert ran == []
