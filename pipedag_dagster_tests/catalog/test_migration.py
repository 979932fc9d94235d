"""A catalog that an older version of the package wrote is read by this one, with all that it says."""

from __future__ import annotations

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster.catalog.reason import Reason, ReasonKind
from pipedag_dagster.versions.history import rollback, versions
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.helpers.stage import Stage

SENTENCES = {
    "cached": Reason(ReasonKind.cached),
    "new": Reason(ReasonKind.new),
    "code changed (helper(), LIMIT)": Reason(ReasonKind.code, ("helper()", "LIMIT")),
    "code changed (1.0 → 1.1)": Reason(ReasonKind.version, ("1.0", "1.1")),
    "query changed": Reason(ReasonKind.query),
    "argument changed (by, rows of orders)": Reason(ReasonKind.argument, ("by", "rows of orders")),
    "input changed: full: raw.orders, raw.items": Reason(ReasonKind.input, ("full: raw.orders", "raw.items")),
    "fresh input": Reason(ReasonKind.fresh_input),
    "forced": Reason(ReasonKind.forced),
    "written": Reason(ReasonKind.written),
    "unchanged": Reason(ReasonKind.unchanged),
}
"""Every reason, as people see it. Format 4 kept this text."""


@pytest.fixture
def stage(instances: Instances) -> Stage:
    stage = Stage(instances().get("full").store.table_store)
    stage.commit(orders=pd.DataFrame({"id": [1]}))
    return stage


def make_format_6(stage: Stage) -> None:
    """What a catalog of format 6 has: no content hash of its own."""
    with stage.store.database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE full_pipedag.table_version DROP COLUMN content_hash"))
        connection.execute(sa.text("UPDATE full_pipedag.meta SET format = 6"))


def make_format_4(stage: Stage) -> None:
    """What a catalog of format 4 has in place of reasons as data and of the column `restored`; and no samples."""
    make_format_6(stage)
    with stage.store.database.begin() as connection:
        for statement in (
            "DROP TABLE full_pipedag.sample_rows, full_pipedag.sample, full_pipedag.profile",
            "ALTER TABLE full_pipedag.run_table DROP COLUMN details",
            "ALTER TABLE full_pipedag.stage_version ADD COLUMN note text",
            "UPDATE full_pipedag.stage_version SET note = 'rollback to ' || restored WHERE restored IS NOT NULL",
            "ALTER TABLE full_pipedag.stage_version DROP COLUMN restored",
            "UPDATE full_pipedag.meta SET format = 4",
        ):
            connection.execute(sa.text(statement))


@pytest.mark.parametrize(("sentence", "reason"), SENTENCES.items())
def test_a_reason_is_shown_as_a_sentence(sentence: str, reason: Reason) -> None:
    assert str(reason) == sentence


def test_sentences_of_format_4_become_reasons(stage: Stage) -> None:
    make_format_4(stage)
    with stage.store.database.begin() as connection:
        insert = sa.text(
            "INSERT INTO full_pipedag.run_table (run_id, stage, asset, reason, seconds, table_version) "
            "VALUES (:reason, 'raw', 'orders', :reason, 0, 1)"
        )
        connection.execute(insert, [{"reason": sentence} for sentence in SENTENCES])
    assert stage.store.exists()
    records = stage.store.records.runs("raw", "orders", 100)
    assert {record.run_id: record.reason for record in records} == SENTENCES


def test_a_rollback_of_format_4_is_known(stage: Stage) -> None:
    stage.commit(orders=pd.DataFrame({"id": [2]}))
    rollback(stage.store, "raw", None, "back")
    make_format_4(stage)
    assert versions(stage.store, "raw")[0].restored == 1


COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'full_pipedag' AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'i')
    ORDER BY 1, 2
"""


def test_a_catalog_of_format_4_becomes_what_a_new_one_is(stage: Stage) -> None:
    with stage.store.database.read() as connection:
        new = connection.execute(sa.text(COLUMNS)).all()
    make_format_4(stage)
    stage.store.exists()
    with stage.store.database.read() as connection:
        assert connection.execute(sa.text(COLUMNS)).all() == new


def test_a_data_version_of_format_6_is_a_content_hash(stage: Stage) -> None:
    before = stage.version.tables["orders"]
    make_format_6(stage)
    after = stage.version.tables["orders"]
    assert after.content_hash == after.data_version == before.data_version
