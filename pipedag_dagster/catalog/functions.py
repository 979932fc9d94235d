"""The functions in the schema of the catalog. `{schema}` and `{tag}` are filled in by `in_schema`."""

from __future__ import annotations

import secrets

from pipedag_dagster.names import quote

LEASE_MINUTES = 15
"""A pin that nobody renews ends after this time. A live run renews its pins three times as often."""

IS_VISIBLE = """
    CREATE OR REPLACE FUNCTION {schema}.is_visible(source regclass, view text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
    BEGIN
        IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.~~) 'read %'
            OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) source) THEN
            RETURN true;
        END IF;
        RAISE serialization_failure USING
            MESSAGE = view OPERATOR(pg_catalog.||) ' was committed after this transaction began',
            HINT = 'A transaction in REPEATABLE READ would find it empty. Begin it again, or use READ COMMITTED.';
    END $$
"""
"""Whether the rows of a physical table are visible to this transaction (see `commit._view`).

IMMUTABLE lets PostgreSQL ask while it plans a statement, wherever in it the view stands: nothing is left of the
question in the plan. That is right, because a plan is made anew when a commit moves the name that it was made for. In
READ COMMITTED, a statement is planned before it takes the snapshot by which it sees the rows, and that one sees them.

It runs in the sessions of readers, under their search path: so its operators name their schema.
"""

CALLER = (
    "CASE pg_catalog.current_setting('role') WHEN 'none' THEN SESSION_USER::pg_catalog.text "
    "ELSE pg_catalog.current_setting('role') END"
)
"""The role that calls, also within a function that has the rights of its owner."""

_OWNERS_RIGHTS = "LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS ${tag}$"

_PIN_STAGES = f"""
    CREATE OR REPLACE FUNCTION {{schema}}.pin_stages(of_run text, wanted text[])
    RETURNS TABLE (stage text, number integer, is_there boolean) {_OWNERS_RIGHTS}
        INSERT INTO {{schema}}.pin AS p (role, run_id, stage, number, until)
        SELECT {CALLER}, of_run, w.stage,
            coalesce((SELECT max(v.number) FROM {{schema}}.stage_version v WHERE v.stage = w.stage), 0),
            now() + interval '{LEASE_MINUTES} minutes'
        FROM unnest(wanted) AS w (stage) ORDER BY w.stage
        ON CONFLICT (role, run_id, stage) DO UPDATE SET until = excluded.until;
        SELECT p.stage, p.number, p.number = 0 OR EXISTS (
            SELECT FROM {{schema}}.stage_version v WHERE v.stage = p.stage AND v.number = p.number)
        FROM {{schema}}.pin p WHERE p.role = {CALLER} AND p.run_id = of_run AND p.stage = ANY (wanted)
    ${{tag}}$
"""
"""Pins the newest version of each stage, unless the run has pinned one before. Tells for each whether it is there."""

_RENEW_PINS = f"""
    CREATE OR REPLACE FUNCTION {{schema}}.renew_pins(of_run text) RETURNS bigint {_OWNERS_RIGHTS}
        WITH renewed AS (
            UPDATE {{schema}}.pin p SET until = now() + interval '{LEASE_MINUTES} minutes'
            WHERE p.role = {CALLER} AND p.run_id = of_run RETURNING 1)
        SELECT count(*) FROM renewed
    ${{tag}}$
"""
_RELEASE_PINS = f"""
    CREATE OR REPLACE FUNCTION {{schema}}.release_pins(of_run text) RETURNS void {_OWNERS_RIGHTS}
        DELETE FROM {{schema}}.pin p WHERE p.role = {CALLER} AND p.run_id = of_run
    ${{tag}}$
"""

SIGNATURES = {
    "is_visible": "regclass, text",
    "pin_stages": "text, text[]",
    "renew_pins": "text",
    "release_pins": "text",
}
PIN_FUNCTIONS = ("pin_stages", "renew_pins", "release_pins")

STATEMENTS = (
    IS_VISIBLE,
    _PIN_STAGES,
    _RENEW_PINS,
    _RELEASE_PINS,
    "GRANT EXECUTE ON FUNCTION {schema}.is_visible TO PUBLIC",
    # Those that may pin are named by `pipedag-dagster roles`.
    *(f"REVOKE EXECUTE ON FUNCTION {{schema}}.{name} FROM PUBLIC" for name in PIN_FUNCTIONS),
)


def in_schema(statement: str, schema: str) -> str:
    """The statement for the catalog in this schema."""
    # No name can be the end of a body that nobody could foresee.
    return statement.replace("{tag}", f"body{secrets.token_hex(8)}").replace("{schema}", quote(schema))
