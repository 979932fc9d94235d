"""What Dagster shows about a table that was made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import dagster as dg
from rich import filesize

from pipedag_dagster.catalog.catalog import Column, OutputKind, TableVersion
from pipedag_dagster.data import json_values
from pipedag_dagster.execution.stage_result import Outcome, StageResult
from pipedag_dagster.graph.description import TableDescription
from pipedag_dagster.orchestration.keys import asset_key
from pipedag_dagster.versions.table_store import TableStore

Metadata: TypeAlias = dict[str, dg.MetadataValue]
Value = dg.MetadataValue
_LONGEST_LINE = 100
_SHOWN_ORIGINS = 5
_SHOWN = 1000  # characters of a value


def of_outcome(outcome: Outcome, asset: str, result: StageResult) -> Metadata:
    """What a run did about a table, and why."""
    return {
        "pipedag/reason": Value.text(str(outcome.reason_of(asset))),
        "pipedag/cached": Value.bool(asset not in outcome.written),
        "pipedag/seconds": Value.float(round(outcome.seconds, 3)),
        **of_version(result.version, result.previous),
    }


def of_version(number: int, previous: int) -> Metadata:
    """The version of the stage and the one before. They are numbers so that Dagster plots them over time."""
    return {**of_stage_version(number), "pipedag/previous_stage_version": Value.int(previous)}


def of_stage_version(number: int) -> Metadata:
    """The version of the stage."""
    return {"pipedag/stage_version": Value.int(number)}


def of_tables(store: TableStore, tables: Iterable[tuple[TableVersion, TableDescription | None]]) -> dict[str, Metadata]:
    """The name, size, columns, query and first rows of tables, by asset."""
    listed = list(tables)
    readable = [table for table, _ in listed if table.in_database]
    heads = store.reader.heads(readable, store.config.preview) if store.config.preview else {}
    return {table.asset: _of_table(store, table, about, heads.get(table.physical)) for table, about in listed}


def _of_table(
    store: TableStore, table: TableVersion, about: TableDescription | None, head: Sequence[Sequence[str | None]] | None
) -> Metadata:
    where = f"{store.database.engine.url.database}.{store.schemas(table.stage).current}.{table.name}"
    descriptions = about.columns_of(table.asset) if about else {}
    instance = store.config.instance_id
    columns = [_column(column, table, descriptions.get(column.name), instance) for column in table.columns]
    metadata: Metadata = {"pipedag/kind": Value.text(table.kind.value), "pipedag/bytes": Value.int(table.bytes)}
    metadata["pipedag/size"] = Value.text(filesize.decimal(table.bytes))
    if table.in_database:
        metadata |= {
            "dagster/table_name": Value.text(where),
            "dagster/row_count": Value.int(table.rows),
            "dagster/column_schema": Value.table_schema(dg.TableSchema(columns)),
        }
    elif table.kind is OutputKind.value and store.config.preview:
        metadata["pipedag/preview"] = Value.text(json_values.text(table.value)[:_SHOWN])
    lineage = {
        column.name: [dg.TableColumnDep(asset_key(*origin[:3]), origin[3]) for origin in column.origins]
        for column in table.columns
        if column.origins
    }
    if lineage:
        metadata["dagster/column_lineage"] = Value.column_lineage(dg.TableColumnLineage(lineage))
    if head is not None:
        names = [column.name for column in table.columns[: len(head[0])]] if head else []
        more = len(table.columns) - len(names) if head else 0
        text = markdown(names, head) + (f"\n\nand {more} more columns" if more else "") if head else "no rows"
        metadata["pipedag/preview"] = Value.md(text)
    if table.query is not None:
        metadata["pipedag/query"] = Value.md(sql(table.query))
    if table.parts.get("notes"):
        metadata["pipedag/notes"] = Value.text("\n".join(table.parts["notes"]))
    metadata |= _of_sample(table.parts.get("sample"))
    if table.libraries:
        metadata["pipedag/libraries"] = Value.json(dict(table.libraries))
    return metadata


def _of_sample(sample: Mapping[str, Any] | None) -> Metadata:
    """Which part of the source a copied table has, and why."""
    if sample is None:
        return {}
    share = sample["rows"] / sample["source_rows"] if sample["source_rows"] else 1.0
    return {
        "pipedag/source_rows": Value.int(sample["source_rows"]),
        "pipedag/share_of_source": Value.float(round(share, 6)),
        "pipedag/rows_by_reason": Value.json(dict(sample["reasons"])),
    }


def of_relations(relations: Sequence[Mapping[str, Any]]) -> Metadata:
    """How the rows of a sample refer to others, beside its source."""
    if not relations:
        return {}
    names = ("relation", "broken", "orphans", "orphans of source", "NULL", "NULL of source")
    rows = [
        [_share(one[name]) if isinstance(one[name], float) else str(one[name]) for name in names] for one in relations
    ]
    return {
        "pipedag/broken_references": Value.int(sum(one["broken"] for one in relations)),
        "pipedag/relations": Value.md(markdown(names, rows)),
    }


def _share(share: float) -> str:
    return f"{share:.2%}"


def _column(column: Column, table: TableVersion, description: str | None, instance: str) -> dg.TableColumn:
    # Only the UI of Dagster+ draws column lineage, so it is also written as text. For a copy, the lineage of the table
    # is enough.
    origins = [".".join(origin[1:]) for origin in column.origins if origin[0] == instance]
    if origins:
        text = f"From {', '.join(origins[:_SHOWN_ORIGINS])}{', …' if len(origins) > _SHOWN_ORIGINS else ''}"
        description = f"{description} {text}" if description else text
    constraints = dg.TableColumnConstraints(
        nullable=column.nullable,
        unique=table.primary_key == (column.name,),
        other=["primary key"] * (column.name in table.primary_key),
    )
    return dg.TableColumn(column.name, column.type, description, constraints)


def sql(query: str) -> str:
    """A query as a code block of Markdown, without long lines. Backticks in it are safe."""
    query = "\n".join(map(_broken, query.splitlines()))
    longest = max((len(run) for run in re.findall("`+", query)), default=0)
    fence = "`" * max(longest + 1, 3)
    return f"{fence}sql\n{query}\n{fence}"


def _broken(line: str) -> str:
    """A long line of SQL, broken after commas that are outside of parentheses and quotes."""
    if len(line) <= _LONGEST_LINE or "--" in line or "$" in line:
        return line
    parts, depth, quote, start = [], 0, "", 0
    for place, character in enumerate(line):
        if quote or character in "'\"":
            quote = "" if character == quote else quote or character
        else:
            depth += (character == "(") - (character == ")")
            if character == "," and depth == 0:
                parts.append(line[start : place + 1].strip())
                start = place + 1
    return "\n    ".join([*parts, line[start:].strip()])


def markdown(names: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    """Rows as a Markdown table. Values are escaped: they are shown as text and never become markup.

    >>> print(markdown(["a"], [["x|y"], [None]]))
    | a |
    | --- |
    | x\\|y |
    | *NULL* |
    """
    lines = [
        names,
        ["---"] * len(names),
        *(["*NULL*" if cell is None else _plain(cell) for cell in row] for row in rows),
    ]
    lines[0] = [_plain(name) for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", " ".join(text.split()))


def as_text(row: Mapping[str, object]) -> list[str | None]:
    """The values of a row for `markdown`."""
    return [None if value is None else str(value) for value in row.values()]
