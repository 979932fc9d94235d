"""Names in the database: the rules for them, and how they are made from instance, stage and table.

For the prefix `midi_` and the stage `raw`:

    midi_raw              the views that people query: one per table
    midi_raw__versions    the immutable physical tables
    midi_raw__next        the views of the next stage version, while a commit prepares them
    midi_raw__old         the views of the version before, until they are dropped
    midi_pipedag          the catalog
"""

from __future__ import annotations

import keyword
import re
import secrets
from dataclasses import dataclass
from typing import TypeAlias

from psycopg import sql

from pipedag_dagster.errors import InvalidName

MAX_BYTES = 63  # PostgreSQL cuts longer identifiers without an error (NAMEDATALEN - 1)
CATALOG = "pipedag"
_TAKEN_BY_DAGSTER = {
    "context",
    "conf",
    "config",
    "meta",
    "int",
    "str",
    "float",
    "bool",
    "dict",
    "type",
    "input",
    "output",
}
_TAKEN_BY_DAGSTER |= {"arg_dict", "input_arg_dict", "output_arg_dict"}
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_SUFFIXES = ("__versions", "__next", "__old")


def table_name(name: str) -> str:
    """The name under which a table is stored: lower-case. Names that PostgreSQL cannot store are refused."""
    return _checked(name, "table")


def asset_name(name: str) -> str:
    """The name of a table that is also a Dagster asset: lower-case letters, digits and `_`."""
    lowered = table_name(name)
    if not re.fullmatch(r"[a-z0-9_]+", lowered):
        raise InvalidName(
            f"Table name {name!r}: Dagster's assets allow only letters, digits and '_'. Give the task another name, or "
            "write names in outputs=[…]. A table may still have any name in SQL: Table(…, name=…)."
        )
    return lowered


def stage_name(name: str) -> str:
    """The name under which a stage is stored: lower-case. Names that Dagster or PostgreSQL do not allow are refused."""
    lowered = _checked(name, "stage")
    if not re.fullmatch(r"[a-z0-9_]+", lowered):
        raise InvalidName(f"Stage name {name!r}: Dagster's asset groups allow only letters, digits and '_'.")
    if lowered == CATALOG or re.search(rf"({'|'.join(_SUFFIXES)})\d*$", lowered):  # a commit may need __old2
        raise InvalidName(
            f"Stage name {name!r} is reserved, like {CATALOG!r} and all names that end in {', '.join(_SUFFIXES)}. "
            "Choose another name."
        )
    return lowered


def instance_id(name: str) -> str:
    """The id of an instance, unchanged. Ids that Dagster does not allow in asset keys and job names are refused."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or keyword.iskeyword(name) or name in _TAKEN_BY_DAGSTER:
        raise InvalidName(
            f"Instance id {name!r}: Dagster's assets and jobs allow only letters, digits, '_', '-' and '.', and some "
            "words are reserved. Choose another instance_id."
        )
    return name


def role_name(name: str) -> str:
    """The name of a database role, unchanged. Names that PostgreSQL cannot store are refused."""
    _checked(name, "role")
    return name


def _checked(name: str, noun: str) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidName(f"A {noun} needs a name of at least one character, but got {name!r}.")
    lowered = name.lower()
    if UNSTORABLE.search(lowered):
        raise InvalidName(f"The {noun} name {name!r} has characters that PostgreSQL cannot store. Remove them.")
    # The lower-case form may be longer: İ has two bytes, and its lower-case form has three.
    if len(lowered.encode()) > MAX_BYTES:
        raise InvalidName(
            f"The {noun} name {name!r} has {len(lowered.encode())} bytes; PostgreSQL allows {MAX_BYTES}. Shorten it."
        )
    return lowered


def physical_name(table: str) -> str:
    """A new name for one immutable version of a table: unique, but still readable."""
    token = secrets.token_hex(6)
    stem = table.encode()[: MAX_BYTES - len(token) - 1].decode(errors="ignore")
    return f"{stem}_{token}"


@dataclass(frozen=True)
class StageSchemas:
    """The four schemas of one stage in one instance."""

    current: str
    versions: str
    next: str
    old: str

    @classmethod
    def of(cls, prefix: str, stage: str, suffix: str = "") -> StageSchemas:
        """The schemas of a stage.

        Raises:
            InvalidName: PostgreSQL does not allow one of the names, or would cut it because it has more than 63 bytes.
        """
        current = f"{prefix}{stage_name(stage)}{suffix}"
        longest = f"{current}{max(_SUFFIXES, key=len)}"
        if UNSTORABLE.search(current) or current.startswith("pg_"):
            raise InvalidName(
                f"Stage {stage!r} with schema_prefix {prefix!r} needs the schema name {current!r}, but PostgreSQL "
                "reserves names that begin with pg_, and cannot store some characters. Choose another prefix."
            )
        if len(longest.encode()) > MAX_BYTES:
            raise InvalidName(
                f"Stage {stage!r} with schema_prefix {prefix!r} needs the schema name {longest!r}, which has "
                f"{len(longest.encode())} bytes; PostgreSQL allows {MAX_BYTES}. Shorten the stage or the prefix."
            )
        return cls(current, *(f"{current}{end}" for end in _SUFFIXES))


def quote(*parts: str) -> str:
    """A quoted, dotted SQL identifier.

    >>> quote("full_raw", "orders")
    '"full_raw"."orders"'
    """
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def literal(value: object) -> str:
    """An SQL constant. Texts are right whatever the server's `standard_conforming_strings` says.

    >>> print(literal("it's"), literal(3), literal(None))
    E'it''s' 3 NULL
    """
    if isinstance(value, str):
        return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
    return sql.Literal(value).as_string()


@dataclass(frozen=True)
class TableRef:
    """A table of a stage. Its text is what people see.

    >>> str(TableRef("raw", "orders"))
    'raw.orders'
    """

    stage: str
    name: str

    def __str__(self) -> str:
        return f"{self.stage}.{self.name}"


@dataclass(frozen=True)
class ScriptTable:
    """A table that a script makes. `script` is the task and the script.

    >>> str(ScriptTable("raw.load: totals", "orders"))
    'raw.load: totals: orders'
    """

    script: str
    name: str

    def __str__(self) -> str:
        return f"{self.script}: {self.name}"


Label: TypeAlias = TableRef | ScriptTable
"""A table that is being written, for messages: its text says which one it is, `name` is its name alone."""
