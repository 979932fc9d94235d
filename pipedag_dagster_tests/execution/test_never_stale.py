# ruff: noqa: E501
"""A project of many modules is run, one thing is changed for each task, and it is run again: no result is stale without
a word.

Each attempt is a module with a task, and often other modules. All attempts are in one flow, so that three runs, each in
a process of its own, are enough: the first, one after all changes, and one without a change, in which nothing may run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster_tests.helpers import libpq

HEAD = """
import functools, importlib, os, sys
from pathlib import Path
import pandas as pd
from pipedag_dagster import Blob, environment, file_content, materialize

def frame(value):
    return pd.DataFrame({"value": [value]})
"""

RUN = """
import json
from pathlib import Path
from pipedag_dagster import Flow, PipedagConfig, Stage, setup_logging
import attempts

setup_logging()
config = PipedagConfig(Path(__file__).parent / "instances").get("full")
with Flow("attempts") as flow:
    with Stage("stage"):
        for module in attempts.MODULES:
            module.wire()
result = flow.run(config)
store = config.store.table_store
reasons = {record.asset: str(record.reason) for record, _ in result.tables}
values = {
    table.asset: int(store.read(table, __import__("pandas").DataFrame)["value"].iloc[0])
    for _, table in result.tables if table.in_database
}
print(json.dumps({"reasons": reasons, "values": values}))
"""


@dataclass(frozen=True)
class Attempt:
    """A task `task` in the module `name`, which stores `value`, and a change.

    Attributes:
        task: the text of the module, after `HEAD`.
        files: other files; `NAME` in them is the name of the attempt.
        change: a text and what it becomes, wherever it is in the files. A pair that begins with `$` is a variable.
        told: the change is not noticed, but the run has said so, in these words.
    """

    name: str
    task: str
    files: dict[str, str] = field(default_factory=dict)
    change: tuple[str, str] = ("return 1", "return 2")
    told: str = ""


TASK = "@materialize\ndef NAME():\n    return frame({})\n\ndef wire():\n    NAME()\n"
ONE = "def helper():\n    return 1\n"
BY_NAME = "def find(name):\n    module, _, function = name.partition(':')\n"


def call(expression: str, before: str = "") -> str:
    return before + "\n" + TASK.format(expression)


ATTEMPTS = [
    Attempt(
        "accessor",
        call("frame(3).NAME_shop.total()", "import NAME_lib"),
        {
            "NAME_lib.py": "import pandas as pd\n@pd.api.extensions.register_dataframe_accessor('NAME_shop')\nclass Shop:\n"
            "    def __init__(self, df):\n        self.df = df\n    def total(self):\n        return 1\n"
        },
    ),
    Attempt(
        "registry",
        call("registry_base.RULES['rule']()", "import registry_base, registry_rules"),
        {
            "registry_base.py": "RULES = {}\ndef rule(fn):\n    RULES[fn.__name__] = fn\n    return fn\n",
            "registry_rules.py": "from registry_base import rule\n@rule\ndef rule():\n    return 1\n",
        },
    ),
    Attempt(
        "plugin",
        call("importlib.import_module('_'.join(['NAME', 'lib'])).helper()"),
        {"NAME_lib.py": ONE},
    ),
    Attempt(
        "entry_point",
        call("load('NAME_lib:helper')()", "from entry_loader import load"),
        {
            "entry_loader.py": "import pkgutil\ndef load(name):\n    return pkgutil.resolve_name(name)\n",
            "NAME_lib.py": ONE,
        },
    ),
    Attempt(
        "dynamic_import",
        call("NAME_helper.compute()", "import NAME_helper"),
        {
            "NAME_helper.py": "def compute():\n    return __import__('NAME_' + 'lib').helper()\n",
            "NAME_lib.py": ONE,
        },
    ),
    Attempt(
        "singledispatch",
        call("NAME_base.area(2.5)", "import NAME_base, NAME_lib"),
        {
            "NAME_base.py": "import functools\n@functools.singledispatch\ndef area(x):\n    return 0\n",
            "NAME_lib.py": "from NAME_base import area\n@area.register\ndef _(x: float):\n    return 1\n"
            "@area.register\ndef _(x: str):\n    return 3\n",
        },
    ),
    Attempt(
        "monkeypatch",
        call("frame(3).NAME_total()", "import NAME_lib"),
        {
            "NAME_lib.py": "import pandas as pd\ndef total(self):\n    return 1\nsetattr(pd.DataFrame, 'NAME_total', total)\n"
        },
    ),
    Attempt(
        "patched_function",
        call("NAME_base.rate()", "import NAME_base, NAME_lib"),
        {
            "NAME_base.py": "def rate():\n    return 0\n",
            "NAME_lib.py": "import NAME_base\ndef other():\n    return 1\nsetattr(NAME_base, 'rate', other)\n",
        },
    ),
    Attempt("getattr_module", call("getattr(NAME_lib, 'hel' + 'per')()", "import NAME_lib"), {"NAME_lib.py": ONE}),
    Attempt("globals_lookup", call("globals()['hel' + 'per']()", "def helper():\n    return 1\n")),
    Attempt("evaluated", call("eval('hel' + 'per()')", "from NAME_lib import helper"), {"NAME_lib.py": ONE}),
    Attempt("sys_modules", call("sys.modules['NAME_' + 'lib'].helper()", "import NAME_lib"), {"NAME_lib.py": ONE}),
    Attempt(
        "subclasses",
        call("NAME_base.Rule.__subclasses__()[0]().value()", "import NAME_base, NAME_lib"),
        {
            "NAME_base.py": "class Rule:\n    pass\n",
            "NAME_lib.py": "from NAME_base import Rule\nclass A(Rule):\n    def value(self):\n        return 1\n",
        },
    ),
    Attempt(
        "init_subclass",
        call("NAME_base.Rule.known[0]().value()", "import NAME_base, NAME_lib"),
        {
            "NAME_base.py": "class Rule:\n    known = []\n    def __init_subclass__(cls):\n        Rule.known.append(cls)\n",
            "NAME_lib.py": "from NAME_base import Rule\nclass A(Rule):\n    def value(self):\n        return 1\n",
        },
    ),
    Attempt(
        "methodcaller",
        call("operator.methodcaller('val' + 'ue')(NAME_lib.make())", "import operator, NAME_lib"),
        {"NAME_lib.py": "class A:\n    def value(self):\n        return 1\ndef make():\n    return A()\n"},
    ),
    Attempt(
        "thread",
        call(
            "in_thread()",
            "import threading\nfrom entry_loader_NAME import load\ndef in_thread():\n    found = []\n"
            "    one = threading.Thread(target=lambda: found.append(load('NAME_lib:helper')()))\n    one.start(); one.join()\n"
            "    return found[0]\n",
        ),
        {
            "entry_loader_NAME.py": "import pkgutil\ndef load(name):\n    return pkgutil.resolve_name(name)\n",
            "NAME_lib.py": ONE,
        },
    ),
    Attempt(
        "thread_pool",
        call(
            "list(ThreadPoolExecutor(1).map(lambda _: __import__('NAME_lib').helper(), [0]))[0]",
            "from concurrent.futures import ThreadPoolExecutor",
        ),
        {"NAME_lib.py": ONE},
    ),
    Attempt(
        "plugin_folder",
        call("NAME_plugins.total()", "import NAME_plugins"),
        {
            "NAME_plugins/__init__.py": "import importlib, pkgutil\ndef total():\n    names = [m.name for m in pkgutil.iter_modules(__path__)]\n"
            "    return sum(importlib.import_module(f'{__name__}.{n}').helper() for n in names)\n",
            "NAME_plugins/first.py": ONE,
        },
    ),
    Attempt(
        "lambda_in_plugin",
        call("__import__('NAME_lib').RULES['a']()"),
        {"NAME_lib.py": "RULES = {'a': lambda: 1}\n"},
        ("lambda: 1", "lambda: 2"),
    ),
    Attempt(
        "constant_of_plugin",
        call("__import__('NAME_lib').helper()"),
        {"NAME_lib.py": "LIMIT = 1\ndef helper():\n    return LIMIT\n"},
        ("LIMIT = 1", "LIMIT = 2"),
    ),
    Attempt(
        "decorated_plugin",
        call("__import__('NAME_lib').helper()"),
        {"NAME_lib.py": "import functools\n@functools.lru_cache\ndef helper():\n    return 1\n"},
    ),
    Attempt(
        "property_of_plugin",
        call("__import__('NAME_lib').A().value"),
        {"NAME_lib.py": "class A:\n    @property\n    def value(self):\n        return 1\n"},
    ),
    Attempt(
        "generator_of_plugin",
        call("next(__import__('NAME_lib').values())"),
        {"NAME_lib.py": "def values():\n    yield 1\n"},
        ("yield 1", "yield 2"),
    ),
    Attempt(
        "closure_of_plugin",
        call("__import__('NAME_lib').make()()"),
        {"NAME_lib.py": "def make():\n    def inner():\n        return 1\n    return inner\n"},
    ),
    Attempt(
        "module_getattr",
        call("NAME_lib.anything", "import NAME_lib"),
        {"NAME_lib.py": "def __getattr__(name):\n    return 1\n"},
    ),
    Attempt(
        "script",
        call("__import__('runpy').run_path(str(Path(__file__).parent / 'NAME_script.txt'))['value']"),
        {"NAME_script.txt": "value = 1\n"},
        ("value = 1", "value = 2"),
        # Before, a script is a file that the task reads.
        told="" if sys.version_info >= (3, 12) else "stage.script read script_script.txt",
    ),
    Attempt(
        "mutable_state",
        call("NAME_base.run()", "import NAME_base, NAME_lib"),
        {
            "NAME_base.py": "SEEN = []\nHOOKS = []\ndef run():\n    SEEN.append(1)\n    return sum(hook() for hook in HOOKS)\n",
            "NAME_lib.py": "import NAME_base\ndef hook():\n    return 1\nNAME_base.HOOKS.append(hook)\n",
        },
    ),
    Attempt(
        "blob_class",
        "from NAME_lib import Model\n@materialize\ndef make_NAME():\n    return Blob(Model(), 'make_NAME')\n"
        "@materialize\ndef NAME(model):\n    return frame(model.value())\ndef wire():\n    NAME(make_NAME())\n",
        {"NAME_lib.py": "class Model:\n    def value(self):\n        return 1\n"},
    ),
    Attempt(
        "class_inside_of_a_blob",
        "from NAME_lib import Model\n@materialize(version='1')\ndef make_NAME():\n    return Blob({'a': [Model()]}, 'make_NAME')\n"
        "@materialize\ndef NAME(model):\n    return frame(model['a'][0].value())\ndef wire():\n    NAME(make_NAME())\n",
        {"NAME_lib.py": "class Model:\n    def value(self):\n        return 1\n"},
    ),
    Attempt(
        "dataclass_argument",
        "from NAME_lib import Options\n@materialize\ndef NAME(options):\n    return frame(options.value())\n"
        "def wire():\n    NAME(Options(3))\n",
        {
            "NAME_lib.py": "from dataclasses import dataclass\n@dataclass\nclass Options:\n    a: int\n    def value(self):\n        return 1\n"
        },
    ),
    Attempt(
        "dataclass_output",
        "from NAME_lib import Options\n@materialize(version='1')\ndef make_NAME():\n    return Options(3)\n"
        "@materialize\ndef NAME(options):\n    return frame(options.value())\ndef wire():\n    NAME(make_NAME())\n",
        {
            "NAME_lib.py": "from dataclasses import dataclass\n@dataclass\nclass Options:\n    a: int\n    def value(self):\n        return 1\n"
        },
    ),
    Attempt(
        "config_file",
        call("int((Path(__file__).parent / 'NAME.json').read_text())"),
        {"NAME.json": "1"},
        ("1", "2"),
        "stage.config_file read config_file.json, whose change will not be noticed. "
        'Write @materialize(cache=file_content("config_file.json"))',
    ),
    Attempt(
        "csv_file",
        call("pd.read_csv(Path(__file__).parent / 'NAME.csv')['a'][0]"),
        {"NAME.csv": "a\n1\n"},
        ("1", "2"),
        'Write @materialize(cache=file_content("csv_file.csv"))',
    ),
    Attempt(
        "variable",
        call("int(os.environ['ATTEMPT_variable'])"),
        change=("$ATTEMPT_variable", "2"),
        told='Write @materialize(cache=environment("ATTEMPT_variable"))',
    ),
    Attempt(
        "file_with_helper",
        call("int((Path(__file__).parent / 'NAME.json').read_text())").replace(
            "@materialize", "@materialize(cache=file_content('NAME.json'))"
        ),
        {"NAME.json": "1"},
        ("1", "2"),
    ),
    Attempt(
        "variable_with_helper",
        call("int(os.environ['ATTEMPT_variable_with_helper'])").replace(
            "@materialize", "@materialize(cache=[environment('ATTEMPT_variable_with_helper')])"
        ),
        change=("$ATTEMPT_variable_with_helper", "2"),
    ),
]


@dataclass(frozen=True)
class Run:
    """What one run has done: the reason and the value of each task, and its log."""

    reasons: dict[str, str]
    values: dict[str, int]
    log: str


class Project:
    """The attempts as files."""

    def __init__(self, folder: Path, url: sa.URL) -> None:
        self.folder = folder
        self.variables = {one.change[0][1:]: "1" for one in ATTEMPTS if one.change[0].startswith("$")}
        (folder / "instances").mkdir()
        text = f'name: attempts\ntable_store: {{args: {{url: "{libpq(url)}", schema_prefix: "{{instance_id}}_"}}}}\n'
        (folder / "instances" / "__any__.yaml").write_text(text)
        (folder / "instances" / "full.yaml").write_text("")
        names = [f"{one.name}_flow" for one in ATTEMPTS]
        (folder / "attempts.py").write_text(f"import {', '.join(names)}\nMODULES = [{', '.join(names)}]\n")
        (folder / "run.py").write_text(RUN)
        for attempt in ATTEMPTS:
            # In a folder of its own: the modules beside a task may count for it.
            self.place(attempt).mkdir()
            (self.place(attempt) / f"{attempt.name}_flow.py").write_text(
                (HEAD + attempt.task).replace("NAME", attempt.name)
            )
            for file, content in attempt.files.items():
                path = self.place(attempt) / file.replace("NAME", attempt.name)
                path.parent.mkdir(exist_ok=True)
                path.write_text(content.replace("NAME", attempt.name))

    def place(self, attempt: Attempt) -> Path:
        return self.folder / attempt.name

    def change(self) -> None:
        for attempt in ATTEMPTS:
            before, after = attempt.change
            if before.startswith("$"):
                self.variables[before[1:]] = after
                continue
            files = [self.place(attempt) / file.replace("NAME", attempt.name) for file in attempt.files]
            for path in (*files, self.place(attempt) / f"{attempt.name}_flow.py"):
                if before in path.read_text():
                    path.write_text(path.read_text().replace(before, after))
                    break
            else:
                raise AssertionError(attempt.name)

    def run(self) -> Run:
        modules = os.pathsep.join(str(self.place(attempt)) for attempt in ATTEMPTS)
        environment = {**os.environ, **self.variables, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": modules}
        environment.pop("DAGSTER_HOME", None)
        done = subprocess.run(
            [sys.executable, "run.py"], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-6000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return Run(found["reasons"], found["values"], done.stderr)


@pytest.fixture(scope="module")
def runs(server_url: sa.URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Run]]:
    """The first run, the run after all changes, and one more."""
    name = f"never_stale_{os.getpid()}"
    with psycopg.connect(libpq(server_url), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
        project = Project(tmp_path_factory.mktemp("attempts"), server_url.set(database=name))
        first = project.run()
        project.change()
        yield [first, project.run(), project.run()]
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_a_change_is_noticed_or_the_run_has_said_that_it_will_not_be(attempt: Attempt, runs: list[Run]) -> None:
    first, second, _ = runs
    assert first.values[attempt.name] == 1
    if attempt.told:
        assert attempt.told in first.log
        assert second.reasons[attempt.name] == "cached"
    else:
        assert second.reasons[attempt.name] != "cached"
        assert second.values[attempt.name] == 2
        assert f"stage.{attempt.name} read" not in first.log


def test_nothing_runs_when_nothing_has_changed(runs: list[Run]) -> None:
    assert {name: reason for name, reason in runs[2].reasons.items() if reason != "cached"} == {}
