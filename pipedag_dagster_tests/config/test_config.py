"""What a configuration may say, what an instance becomes, and what is said about mistakes."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipedag_dagster.config.instances import AUTO_TABLE, CacheMode, ConfigFiles, database_url
from pipedag_dagster.config.yaml_file import load
from pipedag_dagster.errors import ConfigError, MissingVariable, UnknownInstance

SEED = Path(__file__).parents[1] / "examples" / "seed" / "pipedag.yaml"
SHARED = 'table_store: {args: {url: "postgresql://db/shop", schema_prefix: "{instance_id}_"}}\n'


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """Write a folder of instances: `folder(any, full="…", midi="…")`; without an instance, an empty `full`."""

    def make(shared: str = "", **instances: str) -> Path:
        write(tmp_path / "instances" / "__any__.yaml", SHARED + textwrap.dedent(shared))
        for name, text in (instances or {"full": ""}).items():
            write(tmp_path / "instances" / f"{name}.yaml", text)
        return tmp_path / "instances"

    return make


def mistakes(path: Path) -> list[str]:
    """Every mistake as `file name:line: message`."""
    with pytest.raises(ConfigError) as caught:
        ConfigFiles(path).check()
    return [f"{p.file.name if p.file else ''}:{p.line}: {p.message}" for p in caught.value.problems]


def the_mistake(path: Path) -> str:
    [mistake] = mistakes(path)
    return mistake


# ---- the seed document ---------------------------------------------------------------------------------------


@pytest.fixture
def passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = write(tmp_path / "pw.yaml", "username: sa\npassword: 'P@ss:w/rd%'\nhost: localhost\nport: 6543\n")
    monkeypatch.setenv("POSTGRES_PASSWORD_CFG", str(file))
    monkeypatch.delenv("POSTGRES_USERNAME", raising=False)
    monkeypatch.delenv("POSTGRES_PASSWORD", raising=False)
    return file


def test_seed_needs_only_the_variables_of_the_chosen_instance(passwords: Path) -> None:
    files = ConfigFiles(SEED)
    assert (files.name, files.instance_names) == ("data_pipeline", ("full", "midi", "mini"))
    full = files.instance("full")
    assert full.url == sa.URL.create("postgresql", "sa", "P@ss:w/rd%", "localhost", 6543, "pipedag")
    assert (full.pipeline, full.name, full.instance_id, full.per_user) == ("data_pipeline", "full", "full", False)
    assert (full.schema_prefix, full.schema_suffix) == ("full_", "")
    assert full.create_database_if_not_exists
    assert full.print_materialize
    assert full.print_sql
    assert full.fail_fast
    assert full.attrs == {"copy_filtered_input": False}
    assert full.copy_source is None
    assert full.auto_table == (
        "pandas.DataFrame",
        "sqlalchemy.sql.expression.TextClause",
        "sqlalchemy.sql.expression.Selectable",
    )
    assert full.cache_validation.mode is CacheMode.normal
    assert full.file == SEED


@pytest.mark.parametrize(("name", "rows"), [("midi", 2), ("mini", 1)])
def test_seed_small_instances_copy_from_full(passwords: Path, name: str, rows: int) -> None:
    small = ConfigFiles(SEED).instance(name)
    assert small.schema_prefix == f"{name}_"
    assert (small.copy_source, small.copy_per_user, small.default_rows) == ("full", False, rows)


def test_seed_says_what_is_not_needed(passwords: Path) -> None:
    notes = ConfigFiles(SEED).notes
    assert f"not needed: technical_setups.default.kroki_url ({SEED}:33)" in notes
    assert any("technical_setups.default.lock_manager " in note for note in notes)
    assert not any("fail_fast" in note for note in notes)


def test_user_modules_are_names_of_modules(folder: Any) -> None:
    assert ConfigFiles(folder("user_modules: [my_pipeline, shared.helpers]\n")).instance("full").user_modules == (
        "my_pipeline",
        "shared.helpers",
    )


def test_an_instance_shows_no_secret(folder: Any) -> None:
    config = ConfigFiles(folder(full="attrs: {token: hush-hush}\n")).instance("full")
    for text in (repr(config), str(config), f"{config}"):
        assert "hush-hush" not in text
        assert "full" in text


# ---- two forms, one model ------------------------------------------------------------------------------------


def test_an_empty_file_is_an_instance_with_the_defaults(folder: Any) -> None:
    config = ConfigFiles(folder()).instance("full")
    assert config.instance_id == "full"
    assert config.url == sa.make_url("postgresql://db/shop")
    assert (config.keep_versions, config.max_concurrent, config.fail_fast) == (2, 4, False)
    assert config.lock_timeout is None
    assert config.auto_table == AUTO_TABLE
    assert (config.executor.name, dict(config.executor.options)) == ("in_process", {})
    assert (config.schedule, config.refresh, config.poll) == (None, None, None)
    assert config.pipeline == "pipeline"
    assert config.attrs == {}
    assert config.default_rows is None


def test_a_folder_has_one_file_an_instance(folder: Any) -> None:
    path = folder("name: shop\n", midi="fail_fast: true", full="")
    write(path / ".hidden.yaml", "no: such key")
    write(path / "README.md", "# not an instance")
    write(path / "mini.yml")
    files = ConfigFiles(path)
    assert (files.name, files.instance_names) == ("shop", ("full", "midi", "mini"))
    assert files.instance("midi").fail_fast
    assert files.instance("midi").file == path / "midi.yaml"


def test_a_folder_needs_no_shared_file(tmp_path: Path) -> None:
    write(tmp_path / "full.yaml", "table_store: {args: {url: embedded}}")
    assert ConfigFiles(tmp_path).instance("full").url == "embedded"


def test_later_layers_win_and_mappings_are_merged(tmp_path: Path) -> None:
    file = write(
        tmp_path / "pipedag.yaml",
        """
        table_store_connections:
          pg: {args: {url: "postgresql://h/connection", schema_prefix: connection_, schema_suffix: _connection}}
        technical_setups:
          small: {max_concurrent: 1, keep_versions: 1, fail_fast: true, attrs: {a: setup, b: setup}}
        instances:
          __any__:
            technical_setup: small
            keep_versions: 3
            attrs: {b: {x: any, y: any}, c: any}
            table_store: {table_store_connection: pg, args: {schema_prefix: any_}}
          full:
            attrs: {b: {y: full}}
            max_concurrent: 8
        """,
    )
    config = ConfigFiles(file).instance("full")
    assert config.attrs == {"a": "setup", "b": {"x": "any", "y": "full"}, "c": "any"}
    assert (config.max_concurrent, config.keep_versions, config.fail_fast) == (8, 3, True)
    assert (config.schema_prefix, config.schema_suffix) == ("any_", "_connection")


def test_a_key_with_nothing_behind_it_counts_as_not_written(folder: Any) -> None:
    files = ConfigFiles(folder("instance_id:\nattrs:\ncache_validation:\n"))
    assert files.instance("full").instance_id == "full"


@pytest.mark.parametrize(
    ("mark", "project"), [(".pipedag", "."), ("pyproject.toml", "."), ("instances/workspace.yaml.d", ".")]
)
def test_project_is_the_nearest_marked_folder(folder: Any, tmp_path: Path, mark: str, project: str) -> None:
    path = folder()
    (tmp_path / mark).mkdir()
    assert ConfigFiles(path).instance("full").project == tmp_path / project


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("attrs: {copy_filter_cnt: 3}", 3),
        ("sample: {rows: 100}\nattrs: {copy_filter_cnt: 3}", 100),
        ("sample: {tables: {customers: {rows: 7}, orders: }}", None),
    ],
)
def test_the_rows_of_a_table_that_no_rule_names(folder: Any, text: str, rows: int | None) -> None:
    assert ConfigFiles(folder(midi=text)).instance("midi").default_rows == rows


def test_per_user_makes_an_instance_of_ones_own(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    path = folder(full="", midi='per_user_template: "{username}-{id}"')
    assert ConfigFiles(path).instance("full", per_user=True).schema_prefix == "full_ada_"
    assert ConfigFiles(path).instance("full", per_user=True).per_user
    assert ConfigFiles(path).instance("midi", per_user=True).instance_id == "ada-midi"


def test_per_user_refuses_what_all_users_would_share(tmp_path: Path) -> None:
    write(tmp_path / "full.yaml", "table_store: {args: {url: embedded, schema_prefix: full_}}")
    with pytest.raises(ConfigError, match="instances of all users share"):
        ConfigFiles(tmp_path).instance("full", per_user=True)


# ---- placeholders --------------------------------------------------------------------------------------------


def test_environment_variables_are_filled_in_everywhere(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", "ada")
    path = folder(full='instance_id: "full_{$WHO}"\nattrs: {a: [{b: "{$WHO}!", c: "{name} {d}", n: 1}]}')
    config = ConfigFiles(path).instance("full")
    assert config.schema_prefix == "full_ada_"
    assert config.attrs == {"a": [{"b": "ada!", "c": "{name} {d}", "n": 1}]}


def test_name_and_instance_id_are_filled_in(tmp_path: Path) -> None:
    shared = """
    name: shop
    table_store: {args: {url: "postgresql://h/{name}_{instance_id}", schema_prefix: "p_", schema_suffix: "_{name}"}}
    """
    write(tmp_path / "__any__.yaml", shared)
    write(tmp_path / "full.yaml", "instance_id: f1")
    config = ConfigFiles(tmp_path).instance("full")
    assert isinstance(config.url, sa.URL)
    assert (config.url.database, config.schema_suffix) == ("shop_f1", "_shop")


@pytest.mark.parametrize(("text", "kind"), [("postgresql://u:p%40@h/d", sa.URL), ("embedded", str)])
def test_a_url_that_is_one_placeholder_is_verbatim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: type
) -> None:
    write(tmp_path / "full.yaml", 'table_store: {args: {url: "{$SHOP_DB}"}}')
    monkeypatch.setenv("SHOP_DB", text)
    url = ConfigFiles(tmp_path).instance("full").url
    assert isinstance(url, kind)
    assert url == (text if text == "embedded" else sa.make_url(text))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(user=st.text(min_size=1), password=st.text(min_size=1))
@example(user="a@b:c/d?e#f%41+ ", password="{instance_id}{$HOME}@:/%2F")
def test_any_user_and_password_survive_the_url(tmp_path: Path, user: str, password: str) -> None:
    import yaml  # noqa: PLC0415

    write(tmp_path / "c" / "full.yaml", 'table_store: {args: {url: "postgresql://{u}:{p}@h/d", url_attrs_file: .pw}}')
    (tmp_path / "c" / ".pw").write_text(yaml.safe_dump({"u": user, "p": password}, default_style='"'))
    config = ConfigFiles(tmp_path / "c").instance("full")
    assert isinstance(config.url, sa.URL)
    assert (config.url.username, config.url.password) == (user, password)
    assert (config.url.host, config.url.database) == ("h", "d")


def test_values_of_the_attribute_file_are_taken_as_written(tmp_path: Path) -> None:
    """YAML would take 0123 for an octal number and no for false."""
    write(tmp_path / "full.yaml", 'table_store: {args: {url: "postgresql://{u}:{p}@h/d", url_attrs_file: .pw}}')
    write(tmp_path / ".pw", "u: no\np: 0123\n")
    config = ConfigFiles(tmp_path).instance("full")
    assert isinstance(config.url, sa.URL)
    assert (config.url.username, config.url.password) == ("no", "0123")


@pytest.mark.parametrize(
    "url",
    ["postgresql://u@h:1/d", "postgresql+psycopg2://u@h:1/d", "postgresql+psycopg://u@h:1/d", "postgres://u@h:1/d"],
)
def test_the_driver_in_a_url_does_not_matter(url: str) -> None:
    assert database_url(url) == sa.make_url("postgresql://u@h:1/d")


def test_no_repr_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "sesame")
    url = "postgresql://{$TOKEN}:{$TOKEN}@h/d?password={$TOKEN}&sslpassword={$TOKEN}"
    write(tmp_path / "full.yaml", f'table_store: {{args: {{url: "{url}"}}}}\nattrs: {{key: "{{$TOKEN}}"}}')
    config = ConfigFiles(tmp_path).instance("full")
    assert "sesame" not in repr(config)
    assert "password=sesame" not in repr(config.url).replace("sslpassword=sesame", "")


# ---- what an instance lacks ----------------------------------------------------------------------------------


def refusal(path: Path, name: str = "full") -> str:
    files = ConfigFiles(path)
    with pytest.raises(ConfigError) as caught:
        files.instance(name)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "a traceback may show a secret"
    return str(caught.value)


def test_a_missing_variable_is_named_with_what_to_type(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH", raising=False)
    path = folder(full="\nattrs:\n  deep:\n    - key: '{$NO_SUCH}'\n", midi="")
    assert refusal(path) == (
        f"{path / 'full.yaml'}:4: attrs.deep[0].key: the instance 'full' needs the environment variable NO_SUCH: "
        "export NO_SUCH=…"
    )
    ConfigFiles(path).instance("midi")


def test_all_missing_variables_are_named_at_once(folder: Any) -> None:
    path = folder(full="attrs: {a: '{$NO_A}', b: '{$NO_B}'}")
    with pytest.raises(MissingVariable) as caught:
        ConfigFiles(path).instance("full")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        (None, "pw, a mapping of names to values: there is no such file"),
        ("usernam: secret1\npassword: secret1", "a value for {username}. Did you mean 'usernam'?"),
        ("username: u\npassword: [secret1]", "line 2 is not a name and a value in quotes"),
        ("username: u\nusername: u\npassword: secret1", "line 2 is not a name and a value in quotes"),
        ("username: u\npassword: *secret1", "line 2 is not a name and a value in quotes"),
        ("secret1", "line 1 is not a name and a value in quotes"),
    ],
)
def test_an_attribute_file_that_does_not_help(tmp_path: Path, attributes: str | None, says: str) -> None:
    url = "postgresql://{username}:{password}@h/d"
    path = write(tmp_path / "c" / "full.yaml", f'table_store: {{args: {{url: "{url}", url_attrs_file: ../pw}}}}').parent
    if attributes is not None:
        write(tmp_path / "pw", attributes)
    message = refusal(path)
    assert says in message
    assert "the instance 'full' needs" in message
    assert "secret1" not in message


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u:secret1@h/d", "is for 'mysql', but only PostgreSQL is supported"),
        ("secret1", "is not a database url. Write one like postgresql://"),
        ("postgresql://u:p@h:secret1/d", "is not a database url"),
        ("postgresql://u:p@secret1@h/d", "has an @ in the user name or password. Write it as %40"),
        ("", "is not a database url"),
    ],
)
def test_a_url_that_is_none_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, says: str) -> None:
    monkeypatch.setenv("SHOP_DB", url)
    in_environment = write(tmp_path / "a" / "full.yaml", 'table_store: {args: {url: "{$SHOP_DB}"}}').parent
    in_file = write(tmp_path / "b" / "full.yaml", f'table_store: {{args: {{url: "{url}"}}}}').parent
    for message in (refusal(in_environment), the_mistake(in_file)):
        assert f"table_store.args.url: {says}" in message
        assert "secret1" not in message


@pytest.mark.parametrize(("name", "hint"), [("midii", "Did you mean 'midi'?"), ("xyz", "Known: 'full', 'midi'.")])
def test_an_unknown_instance(folder: Any, name: str, hint: str) -> None:
    with pytest.raises(UnknownInstance, match=f"has no instance '{name}'") as caught:
        ConfigFiles(folder(full="", midi="")).instance(name)
    assert hint in str(caught.value)


# ---- mistakes in the files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keep_version: 3", "keep_version: unknown key. Did you mean 'keep_versions'?"),
        ("table_store: {args: {urll: x}}", "table_store.args.urll: unknown key. Did you mean 'url'?"),
        ("sample: {tables: {t: {row: 1}}}", "sample.tables.t.row: unknown key. Did you mean 'rows'?"),
        ("lock_manager: {clas: x}", "lock_manager.clas: unknown key. Did you mean 'class'?"),
        ("name: shop", "name: unknown key."),
        ("fail_fast: yes please", "fail_fast: must be true or false, not 'yes please'."),
        ('fail_fast: "true"', "fail_fast: must be true or false, not 'true'."),
        ("fail_fast: 1", "fail_fast: must be true or false, not 1."),
        ("keep_versions: true", "keep_versions: must be a whole number, not True."),
        ('keep_versions: "3"', "keep_versions: must be a whole number, not '3'."),
        ("keep_versions: 0", "keep_versions: must be at least 1, not 0."),
        ("lock_timeout: soon", "lock_timeout: must be a number, not 'soon'."),
        ("lock_timeout: .inf", "lock_timeout: must be a number, not inf."),
        ("lock_timeout: -1", "lock_timeout: must be at least 0, not -1."),
        ("max_concurrent: 0", "max_concurrent: must be at least 1, not 0."),
        ("sample: {rows: 0}", "sample.rows: must be at least 1, not 0."),
        ("instance_id: 2024", "instance_id: must be text (put it into quotes), not 2024."),
        ("executor: celry", "executor: there is no executor 'celry'. Did you mean 'celery'?"),
        ("executor: {celry: {}}", "executor.celry: unknown key. Did you mean 'celery'?"),
        ("executor: {celery: {}, dask: {}}", "executor: choose one of celery and dask."),
        (
            "executor: {multiprocess: {max_concurent: 2}}",
            "executor.multiprocess.max_concurent: unknown key. Did you mean 'max_concurrent'?",
        ),
        ("executor: {multiprocess: {max_concurrent: hush}}", "executor.multiprocess.max_concurrent: must be a whole"),
        (
            'schedule: "6 a.m."',
            "schedule.cron: '6 a.m.' is not a cron expression. Write five fields, as in \"0 6 * * 1-5\"",
        ),
        ('schedule: "0 6 30 2 *"', "schedule.cron: '0 6 30 2 *' is not a cron expression."),
        ('schedule: "* * * * * *"', "schedule.cron: '* * * * * *' is not a cron expression."),
        ("schedule: 6", "schedule: must be a mapping of keys to values."),
        ("schedule: true", "schedule: must be a mapping of keys to values."),
        ("schedule: {timezone: UTC}", 'schedule: has no cron. Write `schedule: "0 6 * * *"`.'),
        (
            'schedule: {cron: "@daily", timezone: Europe/Berln}',
            "schedule.timezone: there is no time zone 'Europe/Berln'. Did you mean 'Europe/Berlin'?",
        ),
        (
            'schedule: {cron: "@daily", timezone: home}',
            "schedule.timezone: there is no time zone 'home'. Write one like \"Europe/Berlin\".",
        ),
        (
            'schedule: {cron: "@daily", default_status: runing}',
            "schedule.default_status: unknown status 'runing'. Did you mean 'running'?",
        ),
        ("schedule: {crn: '@daily'}", "schedule.crn: unknown key. Did you mean 'cron'?"),
        ("refresh: on_sorce", "refresh.when: unknown event 'on_sorce'. Did you mean 'on_source'?"),
        ("refresh: on_source", "refresh: has no source to follow, because attrs.copy_filtered_input is not true."),
        ("poll: 0", "poll.interval: must be at least 1, not 0."),
        ("poll: {default_status: running}", "poll: has no interval. Write `poll: 60`, in seconds."),
        (
            "{poll: 60, cache_validation: {disable_cache_function: true}}",
            "poll: its runs would not call the cache functions, because cache_validation.disable_cache_function is",
        ),
        (
            "cache_validation: {mode: norml}",
            "cache_validation.mode: there is no mode 'norml'. Did you mean 'normal'?",
        ),
        ("auto_table: pandas.DataFrame", "auto_table: must be a list."),
        ("user_modules: my_package", "user_modules: must be a list."),
        ("user_modules: [src/my_package]", "user_modules[0]: 'src/my_package' is not the name of a module."),
        (
            "auto_table: [pandas.DataFrame, pandas.Dataframe]",
            "auto_table[1]: unknown class 'pandas.Dataframe'. Did you mean 'pandas.DataFrame'?",
        ),
        (
            "table_store: {class: pydiverse.pipedag.backend.table.SQLTablestore}",
            "table_store.class: this package has no store 'pydiverse.pipedag.backend.table.SQLTablestore'. Did",
        ),
        ("blob_store: {class: os.system}", "blob_store.class: this package has no store 'os.system'."),
        ("table_store: postgres", "table_store: must be a mapping of keys to values."),
        ("technical_setup: default", "technical_setup: there is no 'default' in technical_setups."),
        ("attrs: {copy_filter_cnt: 0}", "attrs.copy_filter_cnt: must be a whole number of at least 1, not 0."),
        ("attrs: {copy_filter_cnt: true}", "attrs.copy_filter_cnt: must be a whole number of at least 1"),
        ("attrs: {key: {$HOME}}", '{$HOME} must be in quotes: "{$HOME}".'),
        ("instance_id: {$HOME}", '{$HOME} must be in quotes: "{$HOME}".'),
        ("fail_fast: true\nfail_fast: true", "the key 'fail_fast' is written twice; first in line 1."),
        ("- a", "must be a mapping of keys to values at its top level."),
        ("5: x", "[5]: unknown key."),
        ("instance_id: {id}_", 'A value that begins with { must be in quotes: "{…}".'),
        ("attrs: {a: [}", "is not valid YAML: "),
        ("attrs: &a {b: *a}", "is not valid YAML: Circular reference"),
        ("attrs: {day: 2024-13-45}", "is not valid YAML: "),
    ],
)
def test_a_mistake_in_plain_words(folder: Any, text: str, says: str) -> None:
    mistake = the_mistake(folder(full=text, midi=""))
    assert mistake.startswith("full.yaml:")
    assert says in mistake


@pytest.mark.parametrize("key", ["schema_prefix", "print_sql", "url", "url_attrs_file", "max_query_print"])
def test_values_of_args_are_never_shown(folder: Any, key: str) -> None:
    assert "7351" not in the_mistake(folder(full=f"table_store: {{args: {{{key}: 7351}}}}"))


def test_attrs_are_free(folder: Any) -> None:
    text = "attrs: {1: {any: [thing, null, 1.5]}, fail_fas: maybe}"
    assert ConfigFiles(folder(full=text)).instance("full").attrs[1] == {"any": ["thing", None, 1.5]}


def test_the_key_is_named_from_the_top_of_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "pipedag.yaml",
        """\
        table_store_connections:
          pg:
            args: {urll: "postgresql://u:secret1@h/d"}
        technical_setups: {default: {table_store: {table_store_connection: gp}}}
        instances:
          full:
          midi: {attrs: {copy_source: fill, copy_filtered_input: true}}
          mini: {attrs: {copy_source: mini, copy_filtered_input: true}}
          empty: {attrs: {copy_filtered_input: true}}
        """,
    )
    assert mistakes(file) == [
        "pipedag.yaml:3: table_store_connections.pg.args.urll: unknown key. Did you mean 'url'?",
        "pipedag.yaml:4: technical_setups.default.table_store.table_store_connection: "
        "there is no 'gp' in table_store_connections. Known: 'pg'.",
        "pipedag.yaml:7: instances.midi.attrs.copy_source: no other instance is called 'fill', "
        "but copy_filtered_input is true. Did you mean 'full'?",
        "pipedag.yaml:8: instances.mini.attrs.copy_source: no other instance is called 'mini', "
        "but copy_filtered_input is true. Did you mean 'midi'?",
        "pipedag.yaml:9: instances.empty.attrs.copy_source: has no value, but copy_filtered_input is true. "
        "Known: 'full', 'midi', 'mini'.",
    ]


def test_a_slip_in_an_attr_that_has_a_meaning(folder: Any) -> None:
    """It would let a small instance run on the real sources."""
    path = folder(
        full="",
        midi="attrs: {copy_filterd_input: true, copy_filter_count: 3, copy_source: full, copy_filter_percent: 2}\n",
        mini="attrs: {copy_source: full, copy_filtered_input: false}\n",
    )
    assert mistakes(path) == [
        "midi.yaml:1: attrs.copy_filterd_input: is not known. Did you mean 'copy_filtered_input'?",
        "midi.yaml:1: attrs.copy_filter_count: is not known. Did you mean 'copy_filter_cnt'?",
    ]


def test_a_source_without_a_copy_is_only_noted(folder: Any) -> None:
    files = ConfigFiles(folder(full="", midi="attrs: {copy_source: full}\n"))
    assert files.instance("midi").attrs == {"copy_source": "full"}
    assert files.instance("midi").copy_source is None
    assert any("attrs.copy_source: has no effect of its own" in note for note in files.notes)


def test_all_mistakes_of_all_files_at_once(folder: Any) -> None:
    path = folder(
        "blob_store_connections: {file: {args: {base_path: /tmp/x}}}\nblob_store: {blob_store_connection: fil}\n",
        broken="attrs: [\n",
        full="\nfail_fast: maybe\n\nkeep_versions: 0\nkeep_versions: 0\nattrs:\n  x: {$X}\n",
        midi="attrs:\n  copy_source: brocken\n  copy_filtered_input: true\ntag: x\n",
    )
    said = mistakes(path)
    assert [line.split(" ")[0:2] for line in said] == [
        ["__any__.yaml:3:", "blob_store.blob_store_connection:"],
        ["broken.yaml:2:", "is"],
        ["full.yaml:2:", "fail_fast:"],
        ["full.yaml:5:", "the"],
        ["full.yaml:5:", "keep_versions:"],
        ["full.yaml:7:", "{$X}"],
        ["midi.yaml:2:", "attrs.copy_source:"],
        ["midi.yaml:4:", "tag:"],
    ]


def test_instances_that_would_share_their_schemas(tmp_path: Path) -> None:
    write(tmp_path / "__any__.yaml", "table_store: {args: {url: embedded}}")
    write(tmp_path / "full.yaml")
    write(tmp_path / "midi.yaml")
    write(tmp_path / "mini.yaml", "table_store: {args: {schema_suffix: _mini}}")
    said = mistakes(tmp_path)
    assert len(said) == 2  # one for each of them
    assert "'full' and 'midi' would share their schemas. Put '{instance_id}' into schema_prefix or url" in said[1]


def test_instances_with_one_instance_id_would_share_their_schemas(folder: Any) -> None:
    assert "'full' and 'midi' would share" in mistakes(folder("instance_id: same", full="", midi=""))[-1]


def test_without_a_database_there_is_no_instance(tmp_path: Path) -> None:
    write(tmp_path / "full.yaml")
    said = the_mistake(tmp_path)
    assert "the instance 'full' has no database. Write `table_store: {args: {url:" in said
    assert "`url: embedded`" in said


@pytest.mark.parametrize("text", ["", "instances: {__any__: {}}"])
def test_no_instance_in_a_file(tmp_path: Path, text: str) -> None:
    assert "there is no instance. Write `instances: {full: {}}`" in the_mistake(write(tmp_path / "p.yaml", text))


def test_no_instance_in_a_folder(tmp_path: Path) -> None:
    assert "there is no instance. Write a file for each, like" in the_mistake(tmp_path)


def test_an_instance_twice(folder: Any) -> None:
    path = folder(full="")
    write(path / "full.yml")
    assert "full.yml:None: has the same name as" in the_mistake(path)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: there is no such file or folder"):
        ConfigFiles(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["2024", "true", "2024-01-01", "1.5"])
def test_an_instance_name_must_be_text(tmp_path: Path, name: str) -> None:
    mistake = the_mistake(write(tmp_path / "p.yaml", f"instances:\n  {name}: {{}}\n"))
    assert mistake.endswith("a name must be text. Put it into quotes.")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"a: \xff\xfe\xfa")
    assert "is not a text file in UTF-8" in the_mistake(file)


# ---- lines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 1),
        (("a", "b"), 2),
        (("a", "c", 1), 5),
        (("a", "none"), 1),
        (("none",), None),
        (("m", "b"), 2),
        ((), None),
    ],
)
def test_lines_of_keys(tmp_path: Path, path: tuple[str | int, ...], line: int | None) -> None:
    file = write(tmp_path / "p.yaml", "a: &a\n  b: 1\n  c:\n  - 1\n  - 2\nm:\n  <<: *a\n  c: own\n")
    assert load(file).line(path) == line
    assert load(file).line(("m", "c")) == 8
    assert load(file).data["m"] == {"b": 1, "c": "own"}


# ---- when an instance runs by itself, and where ----------------------------------------------------------------


def test_an_instance_switches_off_or_changes_what_all_share(folder: Any) -> None:
    shared = """
        schedule: {cron: "0 6 * * *", timezone: Europe/Berlin, default_status: running}
        poll: 60
        executor: {multiprocess: {max_concurrent: 2}}
    """
    own = """
        schedule: "0 7 * * *"
        executor: in_process
    """
    files = ConfigFiles(folder(shared, full="", midi=own, mini="schedule: false\npoll: false\n"))
    full, midi, mini = (files.instance(name) for name in ("full", "midi", "mini"))
    assert full.schedule is not None
    assert midi.schedule is not None
    assert (full.schedule.cron, full.schedule.timezone) == ("0 6 * * *", "Europe/Berlin")
    assert (midi.schedule.cron, midi.schedule.timezone, midi.schedule.default_status) == (
        "0 7 * * *",
        "Europe/Berlin",
        "running",
    )
    assert (mini.schedule, mini.poll) == (None, None)
    assert (full.executor.name, full.executor.options) == ("multiprocess", {"max_concurrent": 2})
    assert (midi.executor.name, midi.executor.options) == ("in_process", {})


def test_the_options_of_an_executor_take_environment_variables_and_are_never_shown(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "hush")
    files = ConfigFiles(folder('executor: {celery: {broker: "redis://:{$REDIS_PASSWORD}@queue/0"}}'))
    executor = files.instance("full").executor
    assert executor.options == {"broker": "redis://:hush@queue/0"}
    assert "hush" not in repr(executor) + repr(files.instance("full"))
    monkeypatch.delenv("REDIS_PASSWORD")
    with pytest.raises(MissingVariable, match=r"executor.celery.broker: .* export REDIS_PASSWORD"):
        files.instance("full")
