"""What Dagster shows about a table before it is made."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import WiringError
from pipedag_dagster.execution.cache_key import task_code_version
from pipedag_dagster.frame_types import FrameType, batch_class, data_type, is_sql
from pipedag_dagster.graph.flow import Output, Stage, TaskCall
from pipedag_dagster.graph.task import Task
from pipedag_dagster.orchestration.keys import asset_key, group_name, identifier
from pipedag_dagster.sampling.copies import copied_from, source_of


@dataclass(frozen=True)
class TableProps:
    """The properties of a table that are known before it is made.

    Attributes:
        instance: the instance that the table belongs to, with `.instance_id` and `.attrs`.
        stage, table: the names of the stage and the table.
        task: the task that makes the table: `.fn` is the user's function; `.lazy`, `.input` and `.about` are options.
        copied_from: the instance from which a sample is copied and the task is not run; else None.
        deps: the keys of the tables that the task reads.
        code_version: the code version of the task.
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
        """`[instance_id, stage, table]`. A translator cannot change it."""
        return asset_key(self.instance.instance_id, self.stage, self.table)


class PipedagTranslator:
    """Decides what Dagster shows about each table. Override `get_asset_spec`, and pass an object of your class to
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
        """The spec of one table. You may add to its `deps`. You may not change its key: two instances could then share
        an asset."""
        about = props.task.about
        return dg.AssetSpec(
            props.key,
            deps=props.deps,
            group_name=group_name(props.instance, props.stage),
            code_version=props.code_version,
            description=_description(props),
            owners=list(about.owners),
            tags=about.tags,
            metadata=_code_reference(props),
            # The lineage graph shows nothing else that tells the tables of several instances apart.
            kinds={identifier(props.instance.instance_id), "postgres", _library(props), *about.kinds},
        )


def asset_specs(
    instance: ConfigContext, stage: Stage, translator: PipedagTranslator
) -> Iterator[tuple[TableProps, dg.AssetSpec]]:
    """The specs of all tables of a stage.

    Raises:
        WiringError: Dagster does not allow a description, or the translator has changed a key or a dependency.
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
                changed = "the key" if spec.key != props.key else f"the dependency on {min(lost).to_user_string()}"
                raise WiringError(
                    f"{type(translator).__name__}.get_asset_spec() changes {changed} of {props.key.to_user_string()}. "
                    "Leave keys and the dependencies of the flow: they keep the instances apart. You may change "
                    "group_name, tags, owners, kinds, description, metadata and automation_condition."
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
    version = "copy" if copied else task_code_version(call)
    return TableProps(instance, stage, asset, call.task, copied, tuple(deps), version)


def _needed(inputs: list[Output]) -> Iterator[tuple[str, str]]:
    for output in inputs:
        for slot in output.slots:
            yield output.call.stage.name, slot.asset


def _description(props: TableProps) -> str | None:
    text = props.task.about.description_of(props.table) or inspect.getdoc(props.task.fn)
    if props.copied_from is None:
        return text
    return f"A sample of {props.deps[0].to_user_string()}, copied in place of this task:\n\n{text or props.task.name}"


def _code_reference(props: TableProps) -> dict[str, dg.CodeReferencesMetadataValue]:
    """Where the task is written. `dg.link_code_references_to_git` makes links to a repository of such references."""
    code = inspect.unwrap(props.task.fn)
    try:
        file, line = inspect.getsourcefile(code), inspect.getsourcelines(code)[1]
    except (TypeError, OSError):
        return {}  # not written in a file
    if file is None:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        reference = dg.LocalFileCodeReference(
            file_path=str(Path(file).absolute()), line_number=line, label=props.task.name
        )
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}


def _library(props: TableProps) -> str:
    if props.copied_from is not None:
        return "table"
    input_type = batch_class(props.task.input_type) or props.task.input_type
    if is_sql(input_type):
        return "sql"
    if input_type is None or data_type(input_type) is FrameType.PANDAS:
        return "pandas"
    return input_type.__module__.partition(".")[0]
