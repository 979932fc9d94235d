"""The plugin for pytest in a project: a test for each stage, markers, and fixtures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipedag_dagster_tests.helpers import Instances, Query
from pipedag_dagster_tests.helpers.command_line import write_shop

pytest_plugins = ["pytester"]


@pytest.fixture
def shop(pytester: pytest.Pytester, instances: Instances) -> pytest.Pytester:
    """The shop as a project with pytest. Nothing was run in it."""
    files = instances(
        midi="attrs: {copy_source: full, copy_filter_cnt: 2}\ntags: slow\nstage_tags: {report: [fragile]}\n",
    )
    write_shop(pytester.path)
    (pytester.path / "instances").symlink_to(files.path)
    pytester.makeini("[pytest]\naddopts = --strict-markers -p no:cacheprovider\nmarkers = \n  slow\n  other\n")
    return pytester


def run(shop: pytest.Pytester, *options: str) -> pytest.RunResult:
    return shop.runpytest_subprocess("-v", *options)


def schemas(query: Query) -> set[str]:
    rows = query("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|public)'")
    return {row[0] for row in rows}


def test_each_stage_is_a_test_in_the_order_of_the_pipeline(shop: pytest.Pytester) -> None:
    result = run(shop, "--pipeline-instance", "mini")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["pipeline: mini of *", "*pipeline::mini::raw PASSED*", "*mini::report PASSED*"])


def test_the_stages_are_tests_in_a_subfolder_too(shop: pytest.Pytester) -> None:
    folder = shop.mkdir("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(shop, "--pipeline-instance", "mini").assert_outcomes(passed=2)


def test_a_stage_that_fails_shows_the_error_of_the_user_and_what_reads_it_is_skipped(shop: pytest.Pytester) -> None:
    flow = shop.path / "shop_flow.py"
    broken = '    raise OSError("this is broken")\n    orders = pd.DataFrame'
    flow.write_text(flow.read_text().replace("    orders = pd.DataFrame", broken))
    result = run(shop, "--pipeline-instance", "full", "-rs")
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ['*raise OSError("this is broken")', "*raw.*this is broken*", "*SKIPPED*stage 'raw' failed*"]
    )
    result.stdout.no_fnmatch_line("*run_task.py*")


CASES = [
    ([], ["test_it"]),
    (["-m", "not slow"], ["test_it"]),
    (["-m", "not (midi or slow)"], ["test_it"]),
    (["-m", "midi"], ["midi::raw", "midi::report"]),
    (["-m", "midi and not fragile"], ["midi::raw"]),
    (["-m", "slow and fragile"], ["midi::report"]),
    (["--pipeline-instance", "midi", "-k", "raw"], ["midi::raw"]),
    (["--pipeline-instance", "mini"], ["mini::raw", "mini::report", "test_it"]),
    (["--pipeline-instance", "mini", "-m", "not slow"], ["mini::raw", "mini::report", "test_it"]),
    (["--pipeline-instance", "mini", "test_user.py"], ["test_it"]),
]
COLLECT = """
import json, sys, pytest

class Names:
    def pytest_collection_finish(self, session):
        names.append([item.name for item in session.items])

names = []
for options in json.loads(sys.argv[1]):
    pytest.main([*options, "--collect-only"], plugins=[Names()])
print("NAMES", json.dumps(names))
"""


def test_options_and_markers_choose_the_tests(shop: pytest.Pytester) -> None:
    shop.makepyfile(test_user="def test_it(): pass", collect=COLLECT)
    result = shop.runpython_c(
        f"import sys; sys.argv = ['', {json.dumps([case[0] for case in CASES])!r}]; import collect"
    )
    (line,) = (line for line in result.outlines if line.startswith("NAMES "))
    assert json.loads(line.removeprefix("NAMES ")) == [names for _, names in CASES]


def test_a_mistake_in_the_configuration_is_a_usage_error_where_it_may_matter(shop: pytest.Pytester) -> None:
    shop.makepyfile(test_user="def test_it(): pass")
    (shop.path / "instances" / "midi.yaml").write_text("keep_version: 3\n")
    result = shop.runpytest_inprocess("-m", "midi")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: -m 'midi': *midi.yaml:1: *keep_version*Did you mean 'keep_versions'*"])
    shop.runpytest_inprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("shop_definitions.py", "1 / 0", "*ZeroDivisionError*"),
        ("instances/mini.yaml", "stage_tags: {reprot: [slow]}", "*no stage 'reprot'. Did you mean 'report'?*"),
        ("instances/mini.yaml", "tags: [not-a-marker]", "*'not-a-marker' cannot be a pytest marker*"),
    ],
)
def test_a_mistake_is_a_usage_error(shop: pytest.Pytester, file: str, text: str, message: str) -> None:
    (shop.path / file).write_text(text)
    result = run(shop, "--pipeline-instance", "mini")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    result.stderr.no_fnmatch_line("*INTERNALERROR*")


def test_the_fixture_pipeline_runs_and_reads(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        def test_it(pipeline):
            assert pipeline.run().successful
            assert len(pipeline.table("raw.orders")) == 1
            assert pipeline.query("select count(*) as n from report.ranking")["n"].tolist() == [1]
    """)
    run(shop).assert_outcomes(passed=1)


FRESH = """
    import pytest

    @pytest.mark.parametrize("number", range(2))
    def test_it(fresh_instance, number):
        assert len(fresh_instance.tables()) == 0
        fresh_instance.run("raw")
        fresh_instance.run()
        assert fresh_instance.query("select count(*) as n from raw.orders")["n"].tolist() == [1]
"""


def test_a_fresh_instance_has_its_own_schemas_and_drops_them(shop: pytest.Pytester, query: Query) -> None:
    """Beside the tests of stages, in two processes."""
    shop.makepyfile(FRESH)
    run(shop, "--pipeline-instance", "mini", "-n", "2").assert_outcomes(passed=4)
    assert {name.partition("_")[0] for name in schemas(query)} == {"full", "mini"}


def test_the_embedded_postgres_is_thrown_away(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pathlib
        import psycopg

        def test_it(embedded_postgres):
            with psycopg.connect(embedded_postgres.render_as_string(hide_password=False)) as connection:
                folder = connection.execute("SHOW data_directory").fetchone()[0]
            pathlib.Path("folder.txt").write_text(folder)
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    assert not Path((pytester.path / "folder.txt").read_text()).exists()
