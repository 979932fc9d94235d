"""What `pipedag-dagster check` refuses of definitions that were put together by hand."""

from __future__ import annotations

import dagster as dg

from pipedag_dagster.errors import ConfigError, WiringError
from pipedag_dagster.orchestration.project import refuse_checks_of_nobody
from pipedag_dagster.orchestration.workspace import Location


def refuse_unloadable(location: Location) -> None:
    """
    Raises:
        ConfigError: a check, a job, a schedule or a sensor belongs to assets that nobody makes, or Dagster could not
            load it.
    """
    definitions = location.definitions
    try:
        graph = definitions.resolve_asset_graph()
        refuse_checks_of_nobody(graph.asset_check_keys, graph.materializable_asset_keys)
        dg.Definitions.validate_loadable(definitions)
    except (dg.DagsterError, WiringError) as error:
        causes = [error, *filter(None, (error.__cause__,))]
        raise ConfigError(f"{location.name}: {': '.join(map(str, causes))}") from None
