"""One measured run, in a process of its own: prints how many seconds it took.

    BENCH_LIBRARY=pipedag_dagster python benchmarks/compare/worker.py '{"flow": "small", "tables": 30, "revision": 0}'

The working directory has the `pipedag.yaml`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

PRELOADED = ("adbc_driver_postgresql.dbapi", "pandas", "pyarrow.compute", "sqlalchemy.dialects.postgresql", "sqlglot")
"""What a library may import while it runs: imported before the clock starts, where it is installed."""


def run_flow(instance: str, flow: str, before: Iterable[int] = (), **sizes: Any) -> float:
    """Run a flow of `flows.py` on an instance. The time of importing and wiring is not counted.

    Args:
        before: revisions to run before, which are not counted.
    """
    import flows  # noqa: PLC0415

    config = _pipedag_config()("pipedag.yaml")
    context = config.get(instance)
    if flow == "copy":
        sizes["source"] = None if instance == "full" else config.get("full")
    for module in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for revision in before:
        getattr(flows, f"{flow}_flow")(**sizes | {"revision": revision}).run(config=context, fail_fast=True)
    wired = getattr(flows, f"{flow}_flow")(**sizes)
    started = time.perf_counter()
    result = wired.run(config=context, fail_fast=True)
    seconds = time.perf_counter() - started
    if not result.successful:
        sys.exit("the flow failed")
    return seconds


def _pipedag_config() -> Any:
    if os.environ["BENCH_LIBRARY"] == "pydiverse.pipedag":
        import structlog  # noqa: PLC0415
        from pydiverse.pipedag.core.config import PipedagConfig  # noqa: PLC0415

        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        return PipedagConfig
    from pipedag_dagster import PipedagConfig as OurConfig  # noqa: PLC0415

    return OurConfig


def bare_adbc(rows: int, url: str) -> float:
    """What `frame_flow` does, with ADBC alone: write a DataFrame, read it, write it again."""
    import adbc_driver_postgresql.dbapi as adbc  # noqa: PLC0415
    import flows  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    frame = flows.frame_data(rows)
    started = time.perf_counter()
    with adbc.connect(url) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("bare_1", pa.Table.from_pandas(frame, preserve_index=False))
        connection.commit()
        cursor.execute("SELECT * FROM bare_1")
        again = cursor.fetch_arrow_table().to_pandas()
        cursor.adbc_ingest("bare_2", pa.Table.from_pandas(again, preserve_index=False))
        connection.commit()
        seconds = time.perf_counter() - started
        cursor.execute("DROP TABLE bare_1, bare_2")
        connection.commit()
    return seconds


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    given = json.loads(sys.argv[1])
    logging.disable(logging.WARNING)
    seconds = bare_adbc(given["rows"], given["url"]) if given["flow"] == "bare" else run_flow(**given)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
