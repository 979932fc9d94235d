"""Dagster's UI in a headless Chromium: what people read there of runs that succeed, fail and go on.

Set PIPEDAG_TEST_SCREENSHOTS to a folder to look at the pages yourself. The page of a test that fails is always kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from pipedag_dagster import CacheValidationMode
from pipedag_dagster_tests.helpers import new_database, write_instances
from pipedag_dagster_tests.helpers.gated_project import Project, running

pytest.importorskip("playwright", reason="there is no playwright: pip install playwright")
pytest.importorskip("dagster_webserver", reason="there is no UI: pip install dagster-webserver")

from playwright.sync_api import Browser, Page, expect

from pipedag_dagster_tests.helpers.dagster_ui import DAGSTER_YAML, WebServer, chromium, web_server

MINI = "attrs: {copy_filtered_input: true, copy_source: full, copy_filter_cnt: 2}\n"
GROUPS = 'group_name: "{instance_id}__{stage}"\n'
WORKSPACE = "load_from:\n" + "".join(
    f"  - python_module: {{module_name: shop_flow, attribute: {name}, location_name: {name}}}\n"
    for name in ("full", "mini")
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def project(browser: Browser, server_url: sa.URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Asks for the browser first: without one, nothing else is started."""
    folder = tmp_path_factory.mktemp("ui")
    with new_database(server_url) as database:
        write_instances(folder, database, any=GROUPS, mini=MINI)
        project = Project(folder, DAGSTER_YAML)
        (folder / "workspace.yaml").write_text(WORKSPACE)
        yield project


@pytest.fixture(scope="module")
def ui(project: Project) -> Iterator[WebServer]:
    """The UI of full, which has run once, and mini."""
    full = project.materialize("full")
    with running(full), web_server(project) as ui:
        assert full.wait() == 0, project.log()
        yield ui


@pytest.fixture(scope="module")
def failed_run(ui: WebServer, project: Project) -> str:
    """A run of full that fails, because a word is where a number should be. Meanwhile, mini has run, too."""
    orders = project.folder / "orders.txt"
    before = orders.read_text()
    orders.write_text("1 2 three")
    mini, failed = ui.launch("mini"), ui.launch("full")  # at the same time
    assert ui.wait(mini) is dg.DagsterRunStatus.SUCCESS
    assert ui.wait(failed) is dg.DagsterRunStatus.FAILURE
    orders.write_text(before)
    return failed


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(30_000)
    failed = request.session.testsfailed
    yield page
    folder = Path(os.environ.get("PIPEDAG_TEST_SCREENSHOTS", tmp_path))
    if request.session.testsfailed > failed or folder != tmp_path:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{request.node.name}.png"
        page.screenshot(path=file)
        print(f"screenshot: {file}")
    page.close()


def test_a_failed_run_says_what_happened_what_people_see_and_what_to_do(
    page: Page, ui: WebServer, failed_run: str
) -> None:
    page.goto(f"{ui.url}/runs/{failed_run}")
    for says in (
        "TaskFailed: raw.load failed: ValueError: invalid literal for int() with base 10: 'three'",
        "Stage 'raw' was not committed: people see version 1, as before.",
        "Fix shop_flow.py:20, and reload the code location. Then re-execute from failure, or type: "
        "pipedag-dagster run full --select raw",
    ):
        expect(page.get_by_text(says).last).to_be_in_viewport()


def test_the_events_of_a_failed_run_show_the_users_line(page: Page, ui: WebServer, failed_run: str) -> None:
    page.goto(f"{ui.url}/runs/{failed_run}?logs=type%3ASTEP_FAILURE")
    line = page.get_by_role("row").filter(has_text="pipedag/line")
    expect(line).to_be_in_viewport()
    expect(line).to_contain_text("shop_flow.py:20")
    expect(page.get_by_text("return pd.DataFrame").first).to_be_in_viewport()


def test_a_running_run_names_the_task_that_has_started(page: Page, ui: WebServer, project: Project) -> None:
    project.close_gate()
    run_id = ui.launch("full", cache_validation_mode="force_cache_invalid")
    try:
        page.goto(f"{ui.url}/runs/{run_id}")
        expect(page.get_by_text("middle.clean: started: forced")).to_be_in_viewport()
        expect(page.get_by_text("Executing (1)")).to_be_visible()
        assert project.reached(), "it is still running"
    finally:
        project.open_gate()
    assert ui.wait(run_id) is dg.DagsterRunStatus.SUCCESS
    expect(page.get_by_text("Success", exact=True)).to_be_visible()


def test_the_lineage_tells_the_stages_of_two_instances_apart(page: Page, ui: WebServer) -> None:
    page.goto(f"{ui.url}/asset-groups")
    for group in ("full__raw", "full__middle", "full__report", "mini__raw", "mini__middle", "mini__report"):
        expect(page.locator("foreignObject").get_by_text(group, exact=True)).to_be_in_viewport()


@pytest.fixture
def launchpad(page: Page, ui: WebServer) -> Page:
    """The launchpad of mini, ready to type in."""
    page.goto(f"{ui.url}/locations/mini/jobs/mini/playground")
    expect(page.get_by_text("No errors")).to_be_visible()
    return page


def test_the_launchpad_offers_the_attrs_with_their_values(launchpad: Page) -> None:
    for line in ("copy_filter_cnt: 2", "copy_filtered_input: true", "copy_source: full"):
        expect(launchpad.locator(".CodeMirror-line").filter(has_text=line)).to_be_visible()


def type_mode(launchpad: Page, text: str) -> None:
    launchpad.locator(".CodeMirror-line").filter(has_text="config:").click()
    launchpad.keyboard.press("End")
    launchpad.keyboard.type(f"\n  cache_validation_mode: {text}")


def test_the_launchpad_completes_the_cache_modes(launchpad: Page) -> None:
    type_mode(launchpad, "")
    launchpad.keyboard.press("Control+Space")
    for mode in CacheValidationMode:
        expect(launchpad.locator(".CodeMirror-hints").get_by_text(mode.value, exact=True)).to_be_visible()


def test_the_launchpad_refuses_an_unknown_cache_mode(launchpad: Page) -> None:
    type_mode(launchpad, "always")
    expect(launchpad.get_by_text("not in enum type CacheMode")).to_be_visible()


def test_an_asset_shows_how_large_it_is_and_its_first_rows(page: Page, ui: WebServer) -> None:
    page.goto(f"{ui.url}/assets/full/middle/clean?view=events")
    for key, value in {"dagster/row_count": "3", "pipedag/size": "kB", "pipedag/kind": "table"}.items():
        expect(page.get_by_role("row").filter(has_text=key).first).to_contain_text(value)
    preview = page.get_by_role("row").filter(has_text="pipedag/preview")
    preview.scroll_into_view_if_needed()
    expect(preview).to_contain_text(re.compile(r"id.*clean.*1.*true", re.DOTALL | re.IGNORECASE))


def test_an_asset_of_a_small_instance_says_that_it_is_a_sample(page: Page, ui: WebServer, failed_run: str) -> None:
    page.goto(f"{ui.url}/assets/mini/raw/orders")
    expect(page.get_by_text("A sample of full/raw/orders")).to_be_in_viewport()
    expect(page.get_by_text("Row count").first).to_be_in_viewport()
