"""From a table to what Dagster knows of it before it is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
import pandas as pd
import sqlalchemy as sa

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import WiringError
from pipedag_dagster.execution.cache_key import task_code_version
from pipedag_dagster.graph.flow import Output, Stage, TaskCall
from pipedag_dagster.graph.task import Task
from pipedag_dagster.orchestration.keys import asset_key, identifier
from pipedag_dagster.sampling.copies import copied_from, source_of


@dataclass(frozen=True)
class TableProps:
    """A table of a stage, as it is known before it is made.

    Attributes:
        instance: whose table it is; `.instance_id`, `.attrs`.
        stage, table: their names.
        task: what makes it; `.fn` is the user's function, `.lazy`, `.input` and `.about` are its options.
        copied_from: the instance from which a sample is copied in place of the task; else None.
        deps: the keys of the tables that it is made of.
        code_version: of the task.
    """

    instance: ConfigContext
    stage: str
    table: str
    task: Task
    copied_from: ConfigContext | None
    deps: tuple[dg.AssetKey, ...]
    code_version: str

    @property
    def key(self) -> dg.AssetKey:
        """`[instance_id, stage, table]`: fixed."""
        return asset_key(self.instance.instance_id, self.stage, self.table)


class PipedagTranslator:
    """Says what Dagster shows of each table: override `get_asset_spec`, and pass an object of your class to
    `build_definitions(translator=…)`.

    Example:
        class Ours(PipedagTranslator):
            def get_asset_spec(self, props):
                spec = super().get_asset_spec(props)
                if props.stage == "report" and props.instance.instance_id == "full":
                    spec = spec.replace_attributes(automation_condition=dg.AutomationCondition.eager())
                return spec.merge_attributes(tags={"layer": props.stage})
    """

    def get_asset_spec(self, props: TableProps) -> dg.AssetSpec:
        """The spec of one table. Its key stays as it is: with another one, two instances could share an asset. Its
        `deps` may get more."""
        about = props.task.about
        return dg.AssetSpec(
            props.key,
            deps=props.deps,
            group_name=props.stage,
            code_version=props.code_version,
            description=_description(props),
            owners=list(about.owners),
            tags=about.tags,
            # The lineage graph shows nothing else by which to tell the tables of several instances apart.
            kinds={identifier(props.instance.instance_id), "postgres", _kind(props), *about.kinds},
        )


def asset_specs(
    instance: ConfigContext, stage: Stage, translator: PipedagTranslator
) -> Iterator[tuple[TableProps, dg.AssetSpec]]:
    """The specs of all tables of a stage.

    Raises:
        WiringError: Dagster does not allow what a task says, or the translator has changed what must stay.
    """
    for call in stage.calls:
        call.task.about.refuse_unknown_tables(str(call), call.assets)
        for slot in call.slots:
            props = _props(instance, call, slot.asset)
            try:
                spec = translator.get_asset_spec(props)
            except dg.DagsterInvalidDefinitionError as error:
                raise WiringError(f"{stage.name}.{slot.asset}: {error}") from error
            lost = set(props.deps) - {dep.asset_key for dep in spec.deps}
            if spec.key != props.key or lost:
                what = "the key" if spec.key != props.key else f"the dependency on {_said(min(lost))}"
                raise WiringError(
                    f"{type(translator).__name__}.get_asset_spec() changes {what} of {_said(props.key)}. Keys and the "
                    "dependencies of the flow must stay: they keep the instances apart. Change group_name, tags, "
                    "owners, kinds, description, metadata or automation_condition."
                )
            yield props, spec


def _props(instance: ConfigContext, call: TaskCall, asset: str) -> TableProps:
    stage = call.stage.name
    copied, source = copied_from(instance, call), source_of(instance, call)
    if source is not None:
        source_stage = stage if copied else getattr(call.source_stage, "name", stage)
        deps = [asset_key(source.instance_id, source_stage, asset)]
    else:
        deps = [asset_key(instance.instance_id, *pair) for pair in dict.fromkeys(_needed(call.inputs))]
    version = "copy" if copied else task_code_version(call, again=True)
    return TableProps(instance, stage, asset, call.task, copied, tuple(deps), version)


def _needed(inputs: list[Output]) -> Iterator[tuple[str, str]]:
    for output in inputs:
        for slot in output.slots:
            yield output.call.stage.name, slot.asset


def _description(props: TableProps) -> str | None:
    text = props.task.about.description_of(props.table) or inspect.getdoc(props.task.fn)
    if props.copied_from is None:
        return text
    return f"A sample of {_said(props.deps[0])}, copied in place of this task:\n\n{text or props.task.name}"


def _kind(props: TableProps) -> str:
    if props.copied_from is not None:
        return "table"
    kind = props.task.input_type
    if kind is not None and issubclass(kind, sa.FromClause):
        return "sql"
    return "pandas" if kind is None or issubclass(kind, pd.DataFrame) else kind.__module__.partition(".")[0]


def _said(key: dg.AssetKey) -> str:
    return key.to_user_string()
