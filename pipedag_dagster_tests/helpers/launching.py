"""Launching the job of an instance, as the UI does, and what Dagster has of it afterwards."""

from __future__ import annotations

from typing import Any

import dagster as dg


def launch(
    definitions: dg.Definitions,
    dagster: dg.DagsterInstance,
    job: str = "full",
    *tables: str,
    resource: dict[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """Launch the job, or some of its tables (`"full/stage_1/dfa"`), as the UI does. It may fail."""
    return definitions.resolve_job_def(job).execute_in_process(
        instance=dagster,
        run_config={"resources": {"instance": {"config": resource or {}}}},
        asset_selection=[dg.AssetKey.from_user_string(table) for table in tables] or None,
        raise_on_error=False,
    )


def materializations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    found = (event.step_materialization_data.materialization for event in result.get_asset_materialization_events())
    return {each.asset_key.to_user_string(): each for each in found}


def metadata(result: dg.ExecuteInProcessResult, key: str) -> dict[str, Any]:
    return {table: each.metadata[key].value for table, each in materializations(result).items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Everything that Dagster shows about why the run failed."""
    return "\n".join(
        event.event_specific_data.error.to_string()  # type: ignore[union-attr]
        for event in result.all_events
        if event.is_failure and getattr(event.event_specific_data, "error", None)
    )
