"""Pages of jobs as they are at any moment: with many trials, with none, in the dark, by keyboard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from benchmarks.large_job import REASON, add_large_job
from search.place import Place
from tests.browser.conftest import Opened
from tests.serving import served, token
from trials.service_jobs import ServiceJobs
from trials.steering import Verb
from trials.store import JobState, Store
from trials.tokens import Role

TRIALS = 400


@pytest.fixture(scope="module")
def runs(planned_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a job of many trials, and others that have found nothing."""
    runs = tmp_path_factory.mktemp("pages") / "runs"
    shutil.copytree(planned_runs, runs)
    profile = Place(runs, "small").profile
    (runs / "devices").mkdir(exist_ok=True)
    shutil.copy(profile, runs / "devices" / "this-cpu.parquet")
    with Store.open(runs / "prunefront.db") as store:
        add_large_job(store, Place(runs, "small"), "many", "ann", TRIALS)
        spec = store.job("small").spec
        for name, state in (("waits", JobState.PAUSED), ("broke", JobState.FAILED)):
            store.create_job(name, {**spec, "name": name}, {})
            store.set_job_state(name, state)
            ServiceJobs(store).adopt(name, "ann")
    return runs


@pytest.fixture(scope="module")
def store(runs: Path) -> Iterator[Store]:
    with Store.open(runs / "prunefront.db") as store:
        store.set_job_state("many", JobState.PAUSED)
        yield store


@pytest.fixture(scope="module")
def address(store: Store, runs: Path) -> Iterator[str]:
    with served(store, runs / ".service") as address:
        yield address


@pytest.fixture
def ann(store: Store) -> str:
    return token(store, Role.SUBMITTER, "ann")


def test_a_job_of_many_trials_shows_all_its_charts(
    opened: Opened, shot: Callable[[Page, str], None], address: str, ann: str
) -> None:
    page = opened(address, ann, "/jobs/many")
    expect(page.locator("#figures")).to_contain_text(re.compile(rf"Trials done\s*{TRIALS - TRIALS // 100}"))
    shot(page, "job-page")
    for chart in ("course", "keep", "widths"):
        page.locator(f"#{chart}").scroll_into_view_if_needed()
        expect(page.locator(f"#{chart} canvas").first).to_be_visible()
    page.locator("#alone").scroll_into_view_if_needed()
    expect(page.locator("#alone")).to_contain_text("Not measured in this job")
    expect(page.locator("#told")).to_contain_text(f"{TRIALS - 1} failed")


def test_what_others_wrote_stays_text(opened: Opened, address: str, ann: str) -> None:
    page = opened(address, ann, "/jobs/many")
    page.click("[data-show=failures]")
    expect(page.locator("#told")).to_contain_text(REASON)
    assert page.locator("#told b").count() == 0


def test_the_front_is_picked_from_and_steered_by_keyboard(opened: Opened, address: str, ann: str) -> None:
    page = opened(address, ann, "/jobs/many", theme="dark")
    boxes = page.locator("#picked input")
    for row in (0, 1):
        boxes.nth(row).focus()
        page.keyboard.press("Space")
        expect(boxes.nth(row)).to_be_focused()
        expect(boxes.nth(row)).to_be_checked()
    page.locator("#budget").fill("0.0001")
    expect(page.locator("#figures")).to_contain_text("no trial is so fast")
    page.locator("#compare").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare?trials=*")
    expect(page.locator("#classes canvas").first).to_be_visible()


def test_pages_say_what_there_is_not(opened: Opened, address: str, ann: str, store: Store) -> None:
    page = opened(address, ann, "/jobs/waits", width=390)
    expect(page.locator("#front")).to_contain_text("This job is paused, and has found nothing")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#state")).to_have_text("cancelled")
    page.goto("/?state=queued")
    expect(page.locator("#jobs")).to_contain_text("No job is queued")
    page = opened(address, token(store, Role.VIEWER, "bob"), "/")
    expect(page.locator("#jobs")).to_contain_text("No job yet")


def test_the_list_of_jobs_follows_their_states(opened: Opened, address: str, ann: str, store: Store) -> None:
    page = opened(address, ann, "/")
    row = page.locator("tr", has_text="broke")
    expect(row).to_contain_text("failed")
    ServiceJobs(store).steer("broke", Verb.RETRY, "ann")
    expect(row).to_contain_text("queued")


def test_devices_show_profiles_and_stairs(
    opened: Opened, shot: Callable[[Page, str], None], address: str, ann: str
) -> None:
    page = opened(address, ann, "/devices")
    expect(page.locator("#agents")).to_contain_text("No agent has asked for work yet")
    expect(page.locator("#profiles")).to_contain_text("this-cpu")
    expect(page.locator("#stairs canvas").first).to_be_visible()
    shot(page, "devices-page")
