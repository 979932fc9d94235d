"""`make demo`: the flights on full, midi and mini, and a comparison of their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd
from rich.bar import Bar
from rich.console import Console
from rich.table import Table as Grid

from pipedag_dagster.cli import main as cli
from pipedag_dagster.examples.flights import definitions
from pipedag_dagster.orchestration.workspace import Location, locations, of_instance
from pipedag_dagster.sampling.committed import report_of
from pipedag_dagster.sampling.report import summary

SIZES = ("full", "midi", "mini")
CARRIERS = 6


def main() -> None:
    """Run the three instances, compare their results, and say how good the sample is."""
    module = definitions.__name__
    for size in SIZES:
        cli.main(["run", size, "-m", module])
    found = {size: of_instance(locations(module), size)[0] for size in SIZES}
    reports = {size: _report(location) for size, location in found.items()}
    console = Console()
    console.print(_answers({size: report("summary") for size, report in reports.items()}))
    console.print(_late({size: report("carrier_delays") for size, report in reports.items()}))
    flows = list({id(stage.flow): stage.flow for stage in found["midi"].stages}.values())
    console.print(f"\nHow good is midi? {summary(report_of(found['midi'].instance, flows))}", highlight=False)
    console.print("\nEach size has its own schemas: full_report, midi_report, mini_report. What next?")
    command = ".venv/bin/pipedag-dagster"
    for text, line in {
        "See the sample beside its source, with charts": f"{command} sample report midi --html midi.html",
        "Change pipedag_dagster/examples/flights/flow.py, and see what would run": f"{command} plan midi",
        "See it in Dagster, at http://localhost:3000": "make ui",
    }.items():
        console.print(f"  {text}:\n    [bold]{line}[/]", highlight=False, soft_wrap=True)


def _report(location: Location) -> Callable[[str], pd.DataFrame]:
    """Reads a table of the stage `report`."""
    store = location.instance.store.table_store
    tables = store.current(["report"])["report"].tables
    return lambda name: store.read(tables[name], pd.DataFrame)


def _answers(summaries: Mapping[str, pd.DataFrame]) -> Grid:
    """The questions, with the answer of each size."""
    grid = _grid("Why do flights leave New York late? Three answers, one for each size")
    grid.add_column("", no_wrap=True)
    for size in summaries:
        grid.add_column(size, no_wrap=True, overflow="ellipsis", max_width=16)
    answers = {size: frame.set_index("question") for size, frame in summaries.items()}
    for question in answers["full"].index:
        rows = (answer.loc[question] if question in answer.index else None for answer in answers.values())
        grid.add_row(
            question.partition(",")[0], *("-" if row is None else f"{row['value']:.2f} {row['answer']}" for row in rows)
        )
    return grid


def _late(delays: Mapping[str, pd.DataFrame]) -> Grid:
    """A bar for each of the largest carriers, in each size."""
    grid = _grid("Share of departures that were late, by carrier")
    shares = {size: frame.set_index("carrier")["late"] for size, frame in delays.items()}
    largest = delays["full"].nlargest(CARRIERS, "flights").set_index("carrier")["name"]
    highest = max(float(share.max()) for share in shares.values())
    for carrier, name in largest.items():
        for size, share in shares.items():
            late = share.get(carrier)
            label = str(name) if size == "full" else ""
            if late is None or pd.isna(late):
                grid.add_row(label, size, "-", "")
            else:
                grid.add_row(label, size, f"{late:.0%}", Bar(highest, 0, float(late), width=40))
    return grid


def _grid(title: str) -> Grid:
    grid = Grid(title=f"\n[bold]{title}[/]", box=None, show_header=title.startswith("Why"))
    grid.title_justify = "left"
    return grid


if __name__ == "__main__":
    main()
