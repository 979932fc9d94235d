"""Grants on the views of a stage survive a commit: the new schema and its views get the grants of the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.database import execute


def copy_to_schema(connection: sa.Connection, old: str, new: str) -> None:
    """Give a new schema the grants of the old one, also those for tables to come (ALTER DEFAULT PRIVILEGES)."""
    _execute(connection, _default_grants(connection, old, new))
    _execute(connection, _grants(connection, old, new, ()))


def copy_to_views(connection: sa.Connection, old: str, new: str, tables: Sequence[TableVersion]) -> None:
    """Give new views the grants of the old views of the same names, and no others."""
    _execute(connection, _revoked(connection, old, new, tables))
    _execute(connection, _grants(connection, old, new, tables))


def _execute(connection: sa.Connection, statements: Sequence[str]) -> None:
    if statements:
        execute(connection, ";\n".join(statements))


_GRANTS = """
    SELECT NULL::name AS relname, NULL::name AS attname, a.privilege_type, a.grantee, a.is_grantable
    FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = :schema AND a.grantee <> n.nspowner
    UNION ALL
    SELECT c.relname, NULL, a.privilege_type, a.grantee, a.is_grantable
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
    WHERE n.nspname = :schema AND c.relkind = 'v' AND a.grantee <> c.relowner
    UNION ALL
    SELECT c.relname, t.attname, a.privilege_type, a.grantee, a.is_grantable
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute t ON t.attrelid = c.oid,
    aclexplode(t.attacl) a
    WHERE n.nspname = :schema AND c.relkind = 'v' AND a.grantee <> c.relowner
"""


def _grants(connection: sa.Connection, old: str, new: str, tables: Sequence[TableVersion]) -> list[str]:
    """The statements that give the new schema and its views the grants of the old ones."""
    columns = {table.name: {column.name for column in table.columns} for table in tables}
    query = f"SELECT g.*, r.rolname FROM ({_GRANTS}) g LEFT JOIN pg_roles r ON r.oid = g.grantee"
    statements = []
    for row in connection.execute(sa.text(query), {"schema": old}):
        target, column = f"SCHEMA {quote(new)}", ""
        if row.relname is not None:
            if row.relname not in columns or (row.attname and row.attname not in columns[row.relname]):
                continue
            target, column = f"TABLE {quote(new, row.relname)}", f" ({quote(row.attname)})" if row.attname else ""
        statements.append(f"GRANT {row.privilege_type}{column} ON {target} {_to(row)}")
    return statements


_GIVEN = """
    SELECT DISTINCT c.relname, a.grantee, r.rolname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
    LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE n.nspname = :new AND c.relname = ANY(:names) AND a.grantee <> c.relowner AND EXISTS (
        SELECT FROM pg_class o JOIN pg_namespace m ON m.oid = o.relnamespace
        WHERE m.nspname = :old AND o.relname = c.relname AND o.relkind = 'v')
"""


def _revoked(connection: sa.Connection, old: str, new: str, tables: Sequence[TableVersion]) -> list[str]:
    """The statements that revoke default privileges on new views: on the old ones they may have been revoked."""
    given = {"old": old, "new": new, "names": [table.name for table in tables]}
    return [
        f"REVOKE ALL ON TABLE {quote(new, row.relname)} FROM {_grantee(row)}"
        for row in connection.execute(sa.text(_GIVEN), given)
    ]


_DEFAULT_GRANTS = """
    SELECT a.privilege_type, a.grantee, a.is_grantable, r.rolname
    FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
    LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE n.nspname = :schema AND d.defaclobjtype = 'r' AND d.defaclrole = quote_ident(current_user)::regrole
"""


def _default_grants(connection: sa.Connection, old: str, new: str) -> list[str]:
    """The statements that let tables to come have the same grants in the new schema (ALTER DEFAULT PRIVILEGES)."""
    return [
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {quote(new)} GRANT {row.privilege_type} ON TABLES {_to(row)}"
        for row in connection.execute(sa.text(_DEFAULT_GRANTS), {"schema": old})
    ]


def _to(row: sa.Row[Any]) -> str:
    return f"TO {_grantee(row)}" + (" WITH GRANT OPTION" if row.is_grantable else "")


def _grantee(row: sa.Row[Any]) -> str:
    return "PUBLIC" if row.grantee == 0 else quote(row.rolname)
