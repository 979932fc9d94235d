"""Configurations of pydiverse.pipedag: what loads, what is honoured, what is refused."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import Flow, PipedagConfig, Stage, Table, create_basic_pipedag_config, materialize
from pipedag_dagster.errors import ConfigError, NoConfig, TaskFailed, UnknownInstance
from pipedag_dagster_tests.helpers import Query

Written: TypeAlias = Callable[[str], PipedagConfig]


@pytest.fixture
def written(tmp_path: Path, database_url: sa.URL) -> Written:
    """Writes a `pipedag.yaml`, in which URL stands for the database of the test, and reads it."""

    def write(text: str) -> PipedagConfig:
        url = database_url.render_as_string(hide_password=False)
        file = tmp_path / "pipedag.yaml"
        file.write_text(textwrap.dedent(text).replace("URL", url))
        return PipedagConfig(file)

    return write


FOREIGN = """
    _anchors: &shared {fail_fast: true}
    name: shop
    table_store_connections:
      db: {args: {url: "URL", schema_prefix: "{instance_id}_"}}
      mssql: {args: {url: "mssql+pyodbc://sa:pw@h/{instance_id}?driver=x", disable_pytsql: true, schema_suffix: .dbo}}
      db2: {args: {url: "db2+ibm_db://u:p@h/d", anything: [1]}}
    instances:
      __any__:
        <<: *shared
        auto_table: [pandas.DataFrame, pydiverse.transform.Table]
        tags: pytest_mark_slow2
        stage_tags: {pytest_mark_slow3: [simple]}
        visualization: {default: {styles: {}}}
        table_store: {table_store_connection: db}
        blob_store: {class: pydiverse.pipedag.backend.blob.NoBlobStore}
      full:
        table_store:
          local_table_cache: {store_input: true, class: pydiverse.pipedag.backend.table.cache.ParquetTableCache}
          metadata_table_store: {class: pydiverse.pipedag.backend.table.SQLTableStore}
      mssql: {table_store: {table_store_connection: mssql}}
      db2: {table_store: {table_store_connection: db2, args: {x: y}}}
      duckdb: {table_store: {args: {url: "duckdb:////tmp/db.duckdb"}}}
      snowflake: {table_store: {args: {url: "snowflake://u@account/db"}}}
      parquet:
        table_store:
          class: pydiverse.pipedag.backend.table.ParquetTableStore
          args: {parquet_base_path: "s3://bucket", s3_endpoint_url: x}
      mistaken: {fail_fsat: true}
"""


def test_an_instance_loads_beside_others_that_could_not(written: Written) -> None:
    config = written(FOREIGN)
    full = config.get("full")
    assert (full.instance_name, full.config.fail_fast, full.config.schema_prefix) == ("full", True, "full_")
    assert any("auto_table[1]" in note for note in config.notes)
    assert full.config.stage_tags == {"pytest_mark_slow3": ("simple",)}


@pytest.mark.parametrize(
    ("instance", "says"),
    [
        ("mssql", "is for 'mssql', but only PostgreSQL is supported"),
        ("db2", "is for 'db2', but only PostgreSQL is supported"),
        ("duckdb", "is for 'duckdb', but only PostgreSQL is supported"),
        ("snowflake", "is for 'snowflake', but only PostgreSQL is supported"),
        ("parquet", r"no store '.*ParquetTableStore'. It has 'pipedag_dagster.PostgresStore'"),
        ("mistaken", "unknown key. Did you mean 'fail_fast'"),
    ],
)
def test_a_chosen_instance_that_cannot_work_says_why(written: Written, instance: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        written(FOREIGN).get(instance)


FLOWS = """
    instances:
      __any__: {attrs: {a: any, b: any, c: any, d: any, e: any, f: any}, table_store: {args: {url: "URL",
        schema_prefix: "{instance_id}_"}}}
      full: {attrs: {b: full, c: full, d: full, e: full, f: full}}
    flows:
      __any__:
        attrs: {c: any_flow, d: any_flow, e: any_flow, f: any_flow}
        instances: {full: {attrs: {d: any_flow_full, e: any_flow_full, f: any_flow_full}}}
      shop:
        attrs: {e: shop, f: shop}
        instances: {full: {attrs: {f: shop_full}}}
      other: {attrs: {a: other}}
"""


@pytest.mark.parametrize(
    ("instance", "flow", "values"),
    [
        ("full", "shop", "any full any_flow any_flow_full shop shop_full"),
        ("full", None, "any full any_flow any_flow_full any_flow_full any_flow_full"),
        (None, "shop", "any any any_flow any_flow shop shop"),
        ("full", "other", "other full any_flow any_flow_full any_flow_full any_flow_full"),
        ("full", "unwritten", "any full any_flow any_flow_full any_flow_full any_flow_full"),
    ],
)
def test_a_flow_has_settings_over_those_of_its_instance(
    written: Written, instance: str | None, flow: str | None, values: str
) -> None:
    assert list(written(FLOWS).get(instance, flow).attrs.values()) == values.split()


def test_a_folder_has_a_file_for_each_flow(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "__any__.yaml").write_text(
        'attrs: {x: any}\ntable_store: {args: {url: embedded, schema_prefix: "{instance_id}_"}}\n'
    )
    (tmp_path / "full.yaml").write_text("")
    (tmp_path / "flows" / "shop.yaml").write_text("attrs: {x: shop}\ninstances: {full: {attrs: {y: shop_full}}}\n")
    config = PipedagConfig(tmp_path)
    assert config.instance_names == ("full",)
    assert config.get("full", "shop").attrs == {"x": "shop", "y": "shop_full"}
    assert config.get("full").attrs == {"x": "any"}


def test_an_instance_that_only_a_flow_has(written: Written) -> None:
    config = written('flows: {shop: {instances: {small: {table_store: {args: {url: "URL"}}}}}}')
    assert config.get("small", "shop").instance_id == "small"
    with pytest.raises(UnknownInstance):
        config.get("small")


ONLY_ANY = 'instances: {__any__: {table_store: {args: {url: "URL", schema_prefix: "{instance_id}_"}}}}\n'


def test_a_file_with_settings_for_all_is_one_instance(written: Written) -> None:
    assert written(ONLY_ANY).get().instance_id == "pipeline"


def test_an_unknown_instance_is_found_only_where_lookup_is_not_strict(written: Written) -> None:
    with pytest.raises(AttributeError, match="has no instance 'dev'"):
        written(ONLY_ANY).get("dev")
    assert written(ONLY_ANY + "strict_instance_lookup: false").get("dev").instance_id == "dev"


def test_per_user_is_the_third_argument(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "anna")
    config = written(FLOWS)
    assert config.get("full", "shop").instance_id == "full"
    assert config.get("full", "shop", True).instance_id == "full_anna"
    # The program in the manual passes copy_per_user in the second place.
    assert (config.get("full", False).instance_id, config.get("full", True).instance_id) == ("full", "full_anna")


def test_the_default_configuration_is_the_one_that_is_found(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    inner = tmp_path / "src"
    inner.mkdir()
    monkeypatch.chdir(inner)
    with pytest.raises(FileNotFoundError) as caught:
        _ = PipedagConfig.default
    assert isinstance(caught.value, NoConfig)
    written("name: found\n" + ONLY_ANY)
    assert PipedagConfig.default.name == "found"
    monkeypatch.setenv("PIPEDAG_CONFIG", str(tmp_path))
    assert PipedagConfig.default.path == tmp_path / "pipedag.yaml"


def test_a_configuration_without_a_file_runs(database_url: sa.URL) -> None:
    config = create_basic_pipedag_config(
        database_url.render_as_string(hide_password=False), network_interface="127.0.0.1", disable_stage_locking=True
    )
    with Flow() as flow, Stage("s"):
        one = numbers()
    with config.get("default") as instance:
        assert flow.run().successful
    assert instance.instance_id == "pipeline"
    assert PipedagConfig(config.raw_config).get().config.url == instance.config.url
    assert len(flow.run(config=instance).get(one)) == 2


def test_a_configuration_for_another_database_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="only PostgreSQL"):
        create_basic_pipedag_config("duckdb:////tmp/db.duckdb").get()


# ---- keys that change results --------------------------------------------------------------------------------


@materialize
def numbers() -> Any:
    return Table(pd.DataFrame({"x": [1, 2]}), "numbers")


class Model:
    def __init__(self, weight: int) -> None:
        self.weight = weight


@materialize
def model() -> Any:
    return Model(7)


@materialize
def weight(model: Model) -> Any:
    return model.weight


AUTO_BLOB = 'instances: {full: {fail_fast: true, auto_blob: [%s], table_store: {args: {url: "URL"}}}}'


def test_objects_of_the_classes_of_auto_blob_are_blobs(written: Written) -> None:
    with Flow() as flow, Stage("s"):
        result = weight(model())
    assert flow.run(config=written(AUTO_BLOB % f"{__name__}.Model").get("full")).get(result) == 7


def test_other_objects_are_not(written: Written) -> None:
    with Flow() as flow, Stage("s"):
        weight(model())
    with pytest.raises(TaskFailed, match="Model"):
        flow.run(config=written(AUTO_BLOB % "builtins.complex").get("full"))


@materialize(input_type=pd.DataFrame)
def dtypes(frame: pd.DataFrame) -> Any:
    return str(frame.dtypes["x"])


@materialize(input_type=(pd.DataFrame, "arrow"))
def arrow_dtypes(frame: pd.DataFrame) -> Any:
    return str(frame.dtypes["x"])


HOOKS = 'instances: {full: {table_store: {hook_args: {pandas: {dtype_backend: %s}}, args: {url: "URL"}}}}'


@pytest.mark.parametrize(("backend", "dtype"), [("numpy", "Int64"), ("arrow", "int64[pyarrow]")])
def test_the_dtypes_of_inputs_are_those_that_the_instance_chooses(written: Written, backend: str, dtype: str) -> None:
    with Flow() as flow, Stage("s"):
        table = numbers()
        plain, arrow = dtypes(table), arrow_dtypes(table)
    result = flow.run(config=written(HOOKS % backend).get("full"))
    assert (result.get(plain), result.get(arrow)) == (dtype, "int64[pyarrow]")


def test_other_dtypes_are_other_arguments(written: Written) -> None:
    with Flow() as flow, Stage("s"):
        table = dtypes(numbers())
    assert flow.run(config=written(HOOKS % "numpy").get("full")).get(table) == "Int64"
    assert flow.run(config=written(HOOKS % "arrow").get("full")).get(table) == "int64[pyarrow]"


DETAILS = """
    instances:
      full:
        fail_fast: true
        table_store:
          args:
            url: "URL"
            default_materialization_details: %s
            materialization_details: {__any__: {unlogged: false}, fast: {unlogged: true}, safe:}
"""


@materialize
def labelled(label: str | None) -> Any:
    return Table(pd.DataFrame({"x": [1, 2]}), materialization_details=label)


@pytest.mark.parametrize(
    ("default", "stage", "label", "persistence"),
    [
        ("safe", None, None, "p"),
        ("fast", None, None, "u"),
        ("safe", "fast", None, "u"),
        ("fast", "fast", "safe", "p"),
        ("safe", None, "fast", "u"),
    ],
)
def test_a_table_is_unlogged_where_its_label_says_so(
    written: Written, query: Query, default: str, stage: str | None, label: str | None, persistence: str
) -> None:
    with Flow() as flow, Stage("s", materialization_details=stage):
        labelled(label)
    flow.run(config=written(DETAILS % default).get("full"))
    stored = "SELECT relpersistence FROM pg_class WHERE relnamespace = 's__versions'::regnamespace AND relkind = 'r'"
    assert query(stored) == [(persistence,)]


def test_an_unlogged_table_that_a_crash_has_emptied_is_made_again(written: Written, query: Query) -> None:
    with Flow() as flow, Stage("s"):
        table = labelled("fast")
    instance = written(DETAILS % "safe").get("full")
    flow.run(config=instance)
    [(name,)] = query("SELECT relname FROM pg_class WHERE relnamespace = 's__versions'::regnamespace AND relkind = 'r'")
    query(f'TRUNCATE s__versions."{name}"')  # as PostgreSQL does after a crash
    assert len(flow.run(config=instance).get(table)) == 2


def test_unknown_labels_are_refused(written: Written) -> None:
    with Flow() as flow, Stage("s"):
        labelled("fats")
    with pytest.raises(TaskFailed, match=r"no materialization_details 'fats'. Did you mean 'fast'"):
        flow.run(config=written(DETAILS % "safe").get("full"))
    with pytest.raises(ConfigError, match=r"no 'saef' in materialization_details. Did you mean 'safe'"):
        written(DETAILS % "saef").get("full")
