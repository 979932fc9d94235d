"""`make demo`: the flights on full, midi and mini, and a comparison of their results."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Grid

from pipedag_dagster.cli import main as cli
from pipedag_dagster.examples.flights import definitions
from pipedag_dagster.orchestration.workspace import locations, of_instance
from pipedag_dagster.sampling.committed import report_of
from pipedag_dagster.sampling.report import summary

SIZES = ("full", "midi", "mini")


def main() -> None:
    """Run the three instances, then compare their reports."""
    module = definitions.__name__
    for size in SIZES:
        cli.main(["run", size, "-m", module])
    found = locations(module)
    grid = Grid(title="\n[bold]Why do flights leave New York late? Three answers, one for each size[/]", box=None)
    grid.title_justify = "left"
    grid.add_column("", no_wrap=True)
    for size in SIZES:
        grid.add_column(size, no_wrap=True, overflow="ellipsis", max_width=16)
    reports = []
    for size in SIZES:
        (location,) = of_instance(found, size)
        store = location.instance.store.table_store
        reports.append(store.read(store.current(["report"])["report"].tables["summary"]).set_index("question"))
    for question in reports[0].index:
        answers = (report.loc[question] if question in report.index else None for report in reports)
        cells = ("-" if row is None else f"{row['value']:.2f} {row['answer']}" for row in answers)
        grid.add_row(question.partition(",")[0], *cells)
    console = Console()
    console.print(grid)
    (midi,) = of_instance(found, "midi")
    flows = list({id(stage.flow): stage.flow for stage in midi.resource.stages}.values())
    console.print(f"\nHow good is midi? {summary(report_of(midi.instance, flows))}", highlight=False)
    console.print(
        "More of it: [bold].venv/bin/pipedag-dagster sample report midi[/]"
        "\n\nEach size has its own schemas: full_report, midi_report, mini_report."
        "\nRun it again: everything is cached. Open the UI: [bold]make ui[/], then http://localhost:3000"
    )


if __name__ == "__main__":
    main()
