"""The shop in which something has run already: that is done once, and each test gets a copy of the database."""

from __future__ import annotations

import pytest

from pipedag_dagster_tests.helpers.command_line import Command, ShopAfter

RUNS = {"full": ["full"], "full_and_midi": ["full", "midi"]}
"""What has run in the database of a test that uses a fixture of this name."""


@pytest.fixture
def database_template(request: pytest.FixtureRequest, shop_after: ShopAfter) -> str | None:
    for fixture, names in RUNS.items():
        if fixture in request.fixturenames:
            return shop_after(*names)
    return None


@pytest.fixture
def full(command: Command) -> Command:
    """The command, after a run of full."""
    return command


@pytest.fixture
def full_and_midi(command: Command) -> Command:
    """The command, after runs of full and midi (2 of 3 orders)."""
    return command
