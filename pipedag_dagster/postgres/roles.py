"""The SQL that makes the database roles of the instances (`role:` in the args of the table store).

`pipedag-dagster roles` prints it. Somebody who may create roles runs it, in the database of the instances.
"""

from __future__ import annotations

import sqlalchemy as sa

from pipedag_dagster.config.instances import ConfigFiles, InstanceConfig
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.names import literal, quote


def statements(files: ConfigFiles) -> list[str]:
    """The statements that give each instance with a role what it needs, and no more. They can be run at any time, and
    again after the configuration has changed.

    Raises:
        ConfigError: an instance has a role, but not the one from which it copies.
        MissingVariable: an instance uses an environment variable or attribute file that is not there.
    """
    # Functions and tables that one role makes there, another one would find by its search path.
    found = ["REVOKE CREATE ON SCHEMA public FROM PUBLIC;"]
    configs = [files.instance(name) for name in files.instance_names]
    for config in configs:
        if config.role is not None:
            found += _owner(config, config.role)
    for config in configs:
        if config.role is not None and config.copy_source is not None:
            source = files.instance(config.copy_source, config.flow, config.copy_per_user)
            if source.role is None:
                raise ConfigError(f"{config.name!r} has a role, but its copy_source {config.copy_source!r} has none.")
            found += _reader(source.role, config.role)
    return list(dict.fromkeys(found)) if len(found) > 1 else []


def _owner(config: InstanceConfig, role: str) -> list[str]:
    """The role makes schemas in the database. The login of the url may change to it."""
    name = quote(role)
    made = (
        f"IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)}) THEN CREATE ROLE {name} NOLOGIN; END IF;"
    )
    lines = [_do(made), _do(f"EXECUTE format('GRANT CREATE ON DATABASE %I TO {_inner(name)}', current_database());")]
    if isinstance(config.url, sa.URL) and config.url.username not in (None, role):
        lines.append(f"GRANT {name} TO {quote(str(config.url.username))};")
    return lines


def _reader(owner: str, role: str) -> list[str]:
    """The role reads what the owner has made and will make. In the catalog of the source it may call the functions that
    pin what it reads, and write to no table."""
    if owner == role:
        return []
    who, whose = quote(role), quote(owner)
    rights = ("USAGE ON", "SELECT ON ALL TABLES IN", "EXECUTE ON ALL FUNCTIONS IN")
    grants = "; ".join(f"GRANT {right} SCHEMA %1$I TO {_inner(who)}" for right in rights)
    there = f"SELECT nspname FROM pg_namespace WHERE nspowner = {literal(whose)}::regrole"
    return [
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {whose} GRANT USAGE ON SCHEMAS TO {who};",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {whose} GRANT SELECT ON TABLES TO {who};",
        # The owner makes no functions but those of the catalog.
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {whose} GRANT EXECUTE ON FUNCTIONS TO {who};",
        _do(f"FOR s IN {there} LOOP EXECUTE format('{grants}', s); END LOOP;", "s name;"),
    ]


def _do(body: str, declare: str = "") -> str:
    text = f"DECLARE {declare} BEGIN {body} END" if declare else f"BEGIN {body} END"
    return f"DO {literal(text)};"


def _inner(name: str) -> str:
    """A quoted name inside of a text for format()."""
    return name.replace("'", "''").replace("%", "%%")
