"""What pydiverse.pipedag draws, and this package does not."""

from __future__ import annotations

from typing import Any, NoReturn

from pipedag_dagster.errors import WiringError


class NotDrawn:
    """Flows and results are not drawn: Dagster does that."""

    def visualize(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: Dagster draws the flow.

        Raises:
            WiringError: it says what to type instead.
        """
        raise WiringError(
            "Flows are not drawn here, because Dagster does that. Type `dagster dev -m MODULE`, where MODULE has the "
            "definitions of the flow (build_definitions), and look at the lineage. It also shows what became of each "
            "table in the last run."
        )

    visualize_url = visualize
    visualize_pydot = visualize
