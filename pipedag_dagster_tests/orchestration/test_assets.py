"""What Dagster shows of a table: what the code says, columns and their lineage, a preview; and how to change it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa
import sqlglot.lineage

from pipedag_dagster import (
    ConfigContext,
    Flow,
    PipedagTranslator,
    Stage,
    Table,
    TableProps,
    build_definitions,
    materialize,
)
from pipedag_dagster.catalog.catalog import Column, TableVersion
from pipedag_dagster.errors import WiringError
from pipedag_dagster.execution.column_lineage import column_origins
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.helpers.launching import launch, materializations, metadata

ORDERS = pd.DataFrame({"id": [1, 2], "customer": [7, 8], "Note": ["a|b", None]})


@materialize(
    input=True,
    outputs=["orders", "customers"],
    version="1",
    owners=["team:sales", "ann@example.com"],
    tags={"pii": "yes"},
    kinds={"csv"},
    description={"customers": "Who buys."},
    columns={"orders": {"id": "The number | of the order."}},
)
def load() -> tuple[Table, Table]:
    """What is sold."""
    customers = pd.DataFrame({"id": [7, 8], "name": ["Ann", "Bob"]})
    return Table(ORDERS, primary_key="id"), Table(customers, primary_key="id")


@materialize(lazy=True, input_type=sa.Table, columns={"who": "The name."})
def bought(orders: sa.Alias, customers: sa.Alias) -> sa.Select[Any]:
    return sa.select(
        orders.c.id, customers.c.name.label("who"), (orders.c.id + customers.c.id).label("both")
    ).join_from(orders, customers, orders.c.customer == customers.c.id)


@materialize(version="1")
def copied(bought: pd.DataFrame) -> pd.DataFrame:
    return bought


def build(instance: ConfigContext) -> Flow:
    with Flow("shop") as flow:
        with Stage("raw"):
            orders, customers = load()
        with Stage("report"):
            copied(bought(orders, customers))
    return flow


def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    own = (assets for assets in definitions.assets or () if isinstance(assets, dg.AssetsDefinition))
    return {"/".join(spec.key.path[1:]): spec for assets in own for spec in assets.specs}


# ---- what the code says ----------------------------------------------------------------------------------------


def test_owners_tags_kinds_and_descriptions_are_those_of_the_task(instances: Instances) -> None:
    found = specs(build_definitions(build, instances(), instance="full"))
    for name, description in (("raw/orders", "What is sold."), ("raw/customers", "Who buys.")):
        assert found[name].owners == ["team:sales", "ann@example.com"]
        assert found[name].tags["pii"] == "yes"
        assert found[name].kinds == {"full", "postgres", "pandas", "csv"}
        assert found[name].description == description
    assert found["report/copied"].owners == []


def test_what_dagster_does_not_allow_names_the_table(instances: Instances) -> None:
    def wrong(instance: ConfigContext) -> Flow:
        @materialize(owners=["sales"])
        def orders() -> None: ...

        with Flow("shop") as flow, Stage("raw"):
            orders()
        return flow

    with pytest.raises(WiringError, match=r"raw\.orders: .*sales"):
        build_definitions(wrong, instances(), instance="full")


def test_changing_what_is_said_about_a_table_makes_nothing_run(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    def flow(**about: Any) -> Callable[[ConfigContext], Flow]:
        @materialize(**about)
        def numbers() -> pd.DataFrame:
            return ORDERS

        def build(instance: ConfigContext) -> Flow:
            with Flow("shop") as flow, Stage("raw"):
                numbers()
            return flow

        return build

    config = instances()
    launch(build_definitions(flow(owners=["team:a"], columns={"id": "One."}), config, instance="full"), dagster)
    again = launch(build_definitions(flow(owners=["team:b"], columns={"id": "Two."}), config, instance="full"), dagster)
    assert metadata(again, "pipedag/reason") == {"full/raw/numbers": "cached"}
    (columns,) = metadata(again, "dagster/column_schema").values()
    assert columns.columns[0].description == "Two.", "shown at once, all the same"


# ---- what was made ---------------------------------------------------------------------------------------------


def test_column_lineage_leads_through_stages_and_to_the_instance_that_was_copied_from(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    config = instances()
    assert launch(build_definitions(build, config, instance="full"), dagster).success
    result = launch(build_definitions(build, config, instance="midi"), dagster, "midi")

    def deps(table: str) -> dict[str, set[str]]:
        lineage = materializations(result)[table].metadata["dagster/column_lineage"].value
        return {
            column: {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in found}
            for column, found in lineage.deps_by_column.items()
        }

    assert deps("midi/report/bought") == {
        "id": {"midi/raw/orders.id"},
        "who": {"midi/raw/customers.name"},
        "both": {"midi/raw/orders.id", "midi/raw/customers.id"},
    }
    assert deps("midi/raw/orders") == {name: {f"full/raw/orders.{name}"} for name in ("id", "customer", "Note")}
    assert "dagster/column_lineage" not in materializations(result)["midi/report/copied"].metadata, "not a query"


def test_column_lineage_is_kept_and_not_parsed_again(
    instances: Instances, dagster: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions = build_definitions(build, instances(), instance="full")
    first = launch(definitions, dagster)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(sqlglot, "parse_one", refuse)
    monkeypatch.setattr(sqlglot.lineage, "maybe_parse", refuse)
    second = launch(definitions, dagster)
    key, name = "full/report/bought", "dagster/column_lineage"
    assert materializations(second)[key].metadata[name] == materializations(first)[key].metadata[name]


def table(name: str, *columns: str) -> tuple[str, str, TableVersion]:
    empty = dict.fromkeys((field for field in TableVersion.__dataclass_fields__), "")
    values = empty | {
        "stage": "raw",
        "asset": name,
        "physical": f"{name}_1",
        "columns": tuple(Column(column, "text") for column in columns),
    }
    return "full", "full_raw__versions", TableVersion(**values)  # type: ignore[arg-type]


T, U = '"full_raw__versions"."t_1"', "full_raw__versions.u_1"
QUERIES: dict[str, tuple[str, dict[str, set[str]]]] = {
    "columns": (f"SELECT t.a, b AS x FROM {T} AS t", {"a": {"t.a"}, "x": {"t.b"}}),
    "star": (f"SELECT * FROM {T}", {"a": {"t.a"}, "b": {"t.b"}, "C d": {"t.C d"}}),
    "odd names": (f'SELECT t."C d" AS "E.f" FROM {T} t', {"E.f": {"t.C d"}}),
    "common table expression": (f"WITH w AS (SELECT a + b AS s FROM {T}) SELECT s FROM w", {"s": {"t.a", "t.b"}}),
    "union": (f"SELECT a FROM {T} UNION ALL SELECT k FROM {U}", {"a": {"t.a", "u.k"}}),
    "window": (f"SELECT count(*) OVER (PARTITION BY a, b) AS n FROM {T}", {"n": {"t.a", "t.b"}}),
    "subquery": (f"SELECT a, (SELECT max(k) FROM {U}) AS m FROM {T}", {"a": {"t.a"}, "m": {"u.k"}}),
    "constant": ("SELECT 1 AS one", {"one": set()}),
    "of another table": ("SELECT x FROM elsewhere.t", {"x": set()}),
    "nonsense": ("SELEC a FRM t WHERE (", {}),
    "not a query": ("DROP TABLE t", {}),
    "empty": ("", {}),
    "enormous": (f"SELECT a FROM {T} WHERE a IN ({', '.join(['1'] * 50_000)})", {}),
    "deep": (f"SELECT {'(' * 3000}a{')' * 3000} AS a FROM {T}", {}),
}


@pytest.mark.parametrize(("query", "expected"), QUERIES.values(), ids=QUERIES)
def test_the_origins_of_columns_are_found_or_left_out(query: str, expected: dict[str, set[str]]) -> None:
    found = column_origins(query, [table("t", "a", "b", "C d"), table("u", "k")])
    assert {name: {f"{origin[2]}.{origin[3]}" for origin in origins} for name, origins in found.items()} == expected


def test_columns_have_types_keys_and_descriptions(instances: Instances, dagster: dg.DagsterInstance) -> None:
    schemas = metadata(launch(build_definitions(build, instances(), instance="full"), dagster), "dagster/column_schema")
    assert [(one.name, one.type, one.description) for one in schemas["full/raw/orders"].columns] == [
        ("id", "bigint", "The number | of the order."),
        ("customer", "bigint", None),
        ("Note", "text", None),
    ]
    assert [one.description for one in schemas["full/report/bought"].columns] == [
        "From raw.orders.id",
        "The name. From raw.customers.name",
        "From raw.customers.id, raw.orders.id",
    ]


def test_size_seconds_rows_and_versions_are_numbers_that_dagster_plots(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    result = launch(build_definitions(build, instances(), instance="full"), dagster)
    numbers = (dg.IntMetadataValue, dg.FloatMetadataValue)
    for found in materializations(result).values():
        for name in ("dagster/row_count", "pipedag/bytes", "pipedag/seconds", "pipedag/stage_version"):
            assert isinstance(found.metadata[name], numbers), name


def test_the_query_is_shown_in_short_lines_and_means_the_same(
    instances: Instances, dagster: dg.DagsterInstance, database_url: sa.URL
) -> None:
    many = ", ".join(f"concat('a, b', {number}, '(') AS \"column, {number}\"" for number in range(20))

    @materialize(lazy=True, input_type=sa.Table)
    def wide() -> sa.TextClause:
        return sa.text(f"SELECT {many}")

    def one(instance: ConfigContext) -> Flow:
        with Flow("shop") as flow, Stage("raw"):
            wide()
        return flow

    result = launch(build_definitions(one, instances(), instance="full"), dagster)
    (text,) = metadata(result, "pipedag/query").values()
    query = text.removeprefix("```sql\n").removesuffix("\n```")
    assert len(query.splitlines()) == 20
    with sa.create_engine(database_url.set(drivername="postgresql+psycopg")).connect() as connection:
        shown = connection.execute(sa.text(query)).one()
        assert shown == connection.execute(sa.text(f"SELECT {many}")).one()
        assert shown._fields[3] == "column, 3"


def test_a_preview_shows_values_as_they_are_and_lets_them_do_nothing(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    nasty = ["a|b", "line\nbreak", "<script>alert(1)</script>", "![x](http://e.vil/x.png)", "`*_~", "\\", "x" * 500]

    @materialize(version="1")
    def odd() -> pd.DataFrame:
        return pd.DataFrame({"value": nasty, "pi|pe": None})

    def one(instance: ConfigContext) -> Flow:
        with Flow("shop") as flow, Stage("raw"):
            odd()
        return flow

    result = launch(build_definitions(one, instances(any="preview: 20\n"), instance="full"), dagster)
    (text,) = metadata(result, "pipedag/preview").values()
    header, _, *rows = text.splitlines()
    assert header == r"| value | pi\|pe |"
    assert len(rows) == len(nasty)
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 3, "as many cells as columns"
        assert not re.search(r"(?<!\\)[<>\[\]`!]", row.replace("\\\\", ""))
    assert len(rows[-1]) < 200


def test_preview_0_shows_no_row(instances: Instances, dagster: dg.DagsterInstance) -> None:
    result = launch(build_definitions(build, instances(any="preview: 0\n"), instance="full"), dagster)
    assert result.success
    assert all("pipedag/preview" not in found.metadata for found in materializations(result).values())
    assert "a|b" not in str(result.all_events)


# ---- the translator --------------------------------------------------------------------------------------------


def test_a_translator_changes_what_dagster_shows(instances: Instances, dagster: dg.DagsterInstance) -> None:
    upstream = dg.AssetKey(["crm", "export"])

    class Ours(PipedagTranslator):
        def get_asset_spec(self, props: TableProps) -> dg.AssetSpec:
            spec = super().get_asset_spec(props)
            if props.task.input:
                spec = spec.merge_attributes(deps=[upstream])
            return spec.merge_attributes(tags={"layer": props.stage}).replace_attributes(
                group_name="everything",
                description=f"{props.table} of {props.instance.instance_id}",
                owners=["team:ours"],
                automation_condition=dg.AutomationCondition.eager(),
            )

    definitions = build_definitions(build, instances(), instance="full", translator=Ours())
    found = specs(definitions)
    assert {spec.group_name for spec in found.values()} == {"everything"}
    assert found["raw/orders"].description == "orders of full"
    assert found["raw/orders"].tags["layer"] == "raw"
    assert [dep.asset_key for dep in found["raw/orders"].deps] == [upstream]
    assert found["report/copied"].automation_condition is not None
    assert launch(definitions, dagster).success


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec.replace_attributes(key="orders"), "changes the key of full/raw/orders"),
        (lambda spec: spec.replace_attributes(deps=[]), "changes the dependency on"),
    ],
)
def test_a_translator_keeps_keys_and_dependencies(
    instances: Instances, change: Callable[[dg.AssetSpec], dg.AssetSpec], said: str
) -> None:
    class Theirs(PipedagTranslator):
        def get_asset_spec(self, props: TableProps) -> dg.AssetSpec:
            return change(super().get_asset_spec(props))

    with pytest.raises(WiringError, match=f"Theirs.*{said}"):
        build_definitions(build, instances(), instance="full", translator=Theirs())
