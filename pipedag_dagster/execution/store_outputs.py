"""Storing what a task has returned, so that nobody sees it yet: tables, views, blobs, and what is around them."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass, field, replace

from pipedag_dagster.catalog.catalog import Column, TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.data import json_values, polars_plans
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.execution import cache_key
from pipedag_dagster.execution.decide import Work, canonical, for_people
from pipedag_dagster.execution.returned import Returned, Unpacked, check, fill_scripts, slot_of_script
from pipedag_dagster.execution.run_log import code_of, with_query
from pipedag_dagster.graph.flow import TaskCall
from pipedag_dagster.names import physical_name
from pipedag_dagster.versions.write_table import Made

log = logging.getLogger(__name__)


@dataclass
class Staging:
    """Stores the outputs of one execution of one call.

    Args:
        work: what there was to do.
    """

    instance: ConfigContext
    call: TaskCall
    run_id: str
    work: Work
    _staged: list[TableVersion] = field(default_factory=list)
    _scripts: dict[int, dict[str, str]] = field(default_factory=dict)
    _plans: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = self.instance.store.table_store
        self.stage = self.call.stage.name
        self.execution = secrets.token_hex(8)

    def run(self) -> list[TableVersion]:
        """Do the work, store what it makes, and record it in the catalog for this or a later run.

        Raises:
            UnstorableResult: something cannot be stored.
        """
        self._started = time.monotonic()
        unpacked = self.work.make()
        for number, item in enumerate(unpacked.items):
            if item.kind == "script":
                self._script(number, item)
            elif item.kind != "json":
                self._add(item, self._store(item))
        if self._scripts:
            self._check(unpacked)
        for item in unpacked.items:  # innermost first
            if item.kind == "json":
                self._add(*self._value(item))
        shape = None if unpacked.shape is None else self._small(fill_scripts(unpacked.shape, self._scripts), "")
        code = code_of(self.call, self.work.key, keep_text=self.instance.config.keep_code)
        versions, texts = [], {}
        for table in self._staged:
            text = with_query(code.text, f"{self.stage}.{table.asset}", table.query or self._plans.get(table.asset))
            texts[text.key] = text
            versions.append(replace(table, shape=shape, text=text.key, libraries=code.libraries))
        return self.store.add(versions, texts.values())

    def _store(self, item: Returned) -> Made:
        """Store one table, view or blob."""
        self._print(item.name, item.frame if item.query is None else item.query, item.query is not None)
        if item.kind == "blob":
            file, size = self.store.stage_blob(self.stage, item.frame)
            return Made(physical_name(item.name), (), 0, size, item.content, "blob", file=file)
        if item.kind == "view":
            assert item.query is not None
            made = self.store.stage_view(self.stage, item.name, item.query)
            return replace(made, content=canonical(item, self.work.inputs, versions=True))
        if item.query is None:
            self._plans[item.slot.asset] = polars_plans.text(item.frame)
            return self.store.stage_frame(self.stage, item.name, item.frame, item.constraints)
        return self.store.stage_query(self.stage, item.name, item.query, item.constraints, self.work.source)

    def _script(self, number: int, item: Returned) -> None:
        """Run a script, and take the tables that it has made."""
        what = f"{self.call}: {item.name}"
        if self.work.source is not None and not self.store.database.same_as(self.work.source.database):
            raise UnstorableResult(f"{what}: a script cannot read from the other database. Return tables.")
        for text in item.scripts:
            self._print(item.name, text, True)
        made = self.store.stage_script(self.stage, item.scripts, what)
        text = ";\n".join(item.scripts)
        self._scripts[number] = {}
        for name, one in made.items():
            slot = slot_of_script(self.call, item.slot.path, name)
            self._scripts[number][name] = slot.asset
            if one.kind == "view":
                one = replace(one, content=digest(canonical(item, self.work.inputs, versions=True), name))
            self._add(replace(item, slot=slot, name=name, query=text, kind=one.kind), one)

    def _check(self, unpacked: Unpacked) -> None:
        slots = [item.slot for item in unpacked.items if item.kind == "json"]
        names = [item.name for item in unpacked.items if item.kind == "json"]
        known = {slot.asset: slot for slot in self.call.slots}
        for table in self._staged:
            slots.append(known.get(table.asset) or replace(self.call.slots[0], asset=table.asset))
            names.append(table.name)
        check(self.call, slots, names)

    def _value(self, item: Returned) -> tuple[Returned, Made]:
        value = self._small(fill_scripts(item.frame, self._scripts), item.slot.asset)
        inside = {table.asset: table.data_version for table in self._staged}
        text = json_values.text(value)
        content = digest(text, *(inside[asset] for asset in json_values.outputs(value)))
        made = Made(physical_name(item.name), (), 0, len(text), content, "json")
        return replace(item, frame=value), made

    def _small(self, value: object, asset: str) -> object:
        size = len(json_values.text(value))
        if size > json_values.LARGEST:
            what = f"{self.stage}.{asset}" if asset else str(self.call)
            raise UnstorableResult(
                f"{what} is a value of {size:,} characters as JSON, and the catalog takes {json_values.LARGEST:,}. "
                "Return Blob(…) of it, or a table."
            )
        return value

    def _print(self, name: str, shown: object, is_sql: bool) -> None:
        config = self.instance.config
        if not isinstance(shown, bytes) and (config.print_materialize or (config.print_sql and is_sql)):
            log.info("%s.%s:\n%s", self.stage, name, shown)

    def _add(self, item: Returned, made: Made) -> None:
        work = self.work
        constraints = made.constraints or item.constraints
        self._staged.append(
            TableVersion(
                stage=self.stage,
                asset=item.slot.asset,
                name=item.name,
                physical=made.physical,
                flow=self.call.stage.flow.name,
                task=self.call.name,
                execution=self.execution,
                slot=".".join(map(str, item.slot.path)),
                task_key=work.key.task_key,
                cache_key=work.key.cache_key,
                parts=work.key.parts,
                code_version=cache_key.task_code_version(self.call),
                data_version=made.content or digest(work.key.cache_key, item.slot.asset),
                columns=self._with_origins(made.columns, item),
                primary_key=constraints.primary_key,
                indexes=constraints.indexes,
                rows=made.rows,
                bytes=made.bytes,
                query=item.query and for_people(item.query, work.source or self.store, work.inputs.values()),
                run_id=self.run_id,
                seconds=time.monotonic() - self._started,
                kind=made.kind,
                value=item.frame if made.kind == "json" else None,
                file=made.file,
            )
        )
        self._started = time.monotonic()

    def _with_origins(self, columns: tuple[Column, ...], item: Returned) -> tuple[Column, ...]:
        """The columns, with what those of a query come from."""
        if item.query is None or item.scripts:
            return columns
        store = self.work.source or self.store
        instance = store.config.instance_id
        tables = [(instance, store.schemas(table.stage).versions, table) for table in self.work.inputs.values()]
        # Imported here: sqlglot takes half a second, and a run that finds all cached needs none of it.
        from pipedag_dagster.execution.column_lineage import column_origins  # noqa: PLC0415

        origins = column_origins(item.query, tables)
        return tuple(replace(column, origins=origins.get(column.name, ())) for column in columns)
