"""The SQL that makes the database roles of the instances (`role:` in the args of the table store).

Somebody who may create roles runs it, in the database of the instances:

    from pipedag_dagster.config.instances import ConfigFiles
    from pipedag_dagster.postgres.roles import statements
    print("\n".join(statements(ConfigFiles("instances"))))
"""

from __future__ import annotations

import sqlalchemy as sa

from pipedag_dagster.config.instances import ConfigFiles, InstanceConfig
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.names import CATALOG, literal, quote


def statements(files: ConfigFiles) -> list[str]:
    """What gives each instance with a role what it needs, and no more. To be run again at any time.

    A small instance may read its `copy_source`, and pin what it reads: only when the tables of the catalog are there,
    so this is run once more after the first run of the source.

    Raises:
        ConfigError: an instance has a role, but not the one from which it copies.
        MissingVariable: an instance uses an environment variable or attribute file that is not there.
    """
    found: list[str] = []
    configs = [files.instance(name) for name in files.instance_names]
    for config in configs:
        if config.role is not None:
            found += _owner(config, config.role)
    for config in configs:
        if config.role is not None and config.copy_source is not None:
            source = files.instance(config.copy_source, config.copy_per_user)
            if source.role is None:
                raise ConfigError(f"{config.name!r} has a role, but its copy_source {config.copy_source!r} has none.")
            found += _reader(source, source.role, config.role)
    return list(dict.fromkeys(found))


def _owner(config: InstanceConfig, role: str) -> list[str]:
    """The role makes schemas in the database; who logs in may take it."""
    name = quote(role)
    made = (
        f"IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)}) THEN CREATE ROLE {name} NOLOGIN; END IF;"
    )
    lines = [_do(made), _do(f"EXECUTE format('GRANT CREATE ON DATABASE %I TO {_inner(name)}', current_database());")]
    if isinstance(config.url, sa.URL) and config.url.username not in (None, role):
        lines.append(f"GRANT {name} TO {quote(str(config.url.username))};")
    return lines


def _reader(source: InstanceConfig, owner: str, role: str) -> list[str]:
    """The role reads what the owner has made and will make, and writes the pins of the source's catalog."""
    if owner == role:
        return []
    who, whose = quote(role), quote(owner)
    pins = quote(f"{source.schema_prefix}{CATALOG}{source.schema_suffix}", "pin")
    grant = f"GRANT USAGE ON SCHEMA %1$I TO {_inner(who)}; GRANT SELECT ON ALL TABLES IN SCHEMA %1$I TO {_inner(who)}"
    there = f"SELECT nspname FROM pg_namespace WHERE nspowner = {literal(whose)}::regrole"
    return [
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {whose} GRANT USAGE ON SCHEMAS TO {who};",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {whose} GRANT SELECT ON TABLES TO {who};",
        _do(f"FOR s IN {there} LOOP EXECUTE format('{grant}', s); END LOOP;", "s name;"),
        _do(
            f"IF to_regclass({literal(pins)}) IS NULL "
            "THEN RAISE NOTICE 'Run this again after the source has run once.'; "
            f"ELSE GRANT INSERT, DELETE ON {pins} TO {who}; END IF;"
        ),
    ]


def _do(body: str, declare: str = "") -> str:
    text = f"DECLARE {declare} BEGIN {body} END" if declare else f"BEGIN {body} END"
    return f"DO {literal(text)};"


def _inner(name: str) -> str:
    """A quoted name inside of a text for format()."""
    return name.replace("'", "''").replace("%", "%%")
