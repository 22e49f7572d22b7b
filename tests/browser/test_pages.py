"""Pages of jobs as they are at any moment: with many trials, with none, in the dark, by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from benchmarks.large_job import REASON, add_large_job, add_set
from hwprofiles.wire import API
from search.place import Place
from search.results import EXPORTED, FINAL, MEASURED
from tests.browser.conftest import Opened
from tests.serving import token
from trials.records import JobState
from trials.service_jobs import ServiceJobs, change
from trials.steering import Verb
from trials.store import Store
from trials.tokens import Role

TRIALS = 400


@pytest.fixture(scope="module")
def runs(runs: Path) -> Path:
    """With a job of many trials, and others that have found nothing."""
    with Store.open(runs / "prunefront.db") as store:
        add_large_job(store, Place(runs, "small"), "many", "ann", TRIALS)
        add_set(store, Place(runs, "small"), "board", "ann", TRIALS // 4)
        add_small_job(store, "waits", JobState.PAUSED)
        add_small_job(store, "broke", JobState.FAILED)
        store.set_job_state("many", JobState.PAUSED)
        with store.writing() as connection:
            change(connection, "broke", reason=REASON)
    return runs


def add_small_job(store: Store, name: str, state: JobState) -> None:
    """A job of ann's that has found nothing."""
    store.create_job(name, {**store.job("small").spec, "name": name}, {})
    store.set_job_state(name, state)
    ServiceJobs(store).adopt(name, "ann")


def test_a_job_of_many_trials_shows_all_its_charts(
    opened: Opened, shot: Callable[[Page, str], None], address: str, ann: str
) -> None:
    page = opened(address, ann, "/jobs/many")
    expect(page.locator("#figures")).to_contain_text(re.compile(rf"Trials done\s*{TRIALS - TRIALS // 100}"))
    expect(page.locator("#figures")).to_contain_text(re.compile(r"Within [0-9.]+ ms, searched"))
    expect(page.locator("#picked")).to_contain_text("searched, %")
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


def test_a_brush_picks_what_lies_in_it(opened: Opened, address: str, ann: str) -> None:
    page = opened(address, ann, "/jobs/many")
    expect(page.locator("#figures dd").first).to_be_visible()
    page.click("[data-tool=brush]")
    box = page.locator("#front canvas").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + 65, box["y"] + 70)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 50, steps=4)
    page.mouse.up()
    expect(page.locator("#picked h3")).to_contain_text("In the brush")


def test_what_a_budget_buys_is_the_fastest_of_the_most_accurate(
    opened: Opened, address: str, ann: str, store: Store
) -> None:
    page = opened(address, ann, "/jobs/many")
    expect(page.locator("#figures dd").first).to_be_visible()
    page.locator("#budget").fill("1000")
    call = {"headers": {"Authorization": f"Bearer {ann}"}}
    trials = httpx.get(f"{address}{API}/jobs/many/front", **call).json()["trials"]
    done = [
        (-accuracy, latency_ms, number)
        for accuracy, latency_ms, number in zip(
            trials["accuracy"], trials["latency_ms"], trials["number"], strict=True
        )
        if accuracy is not None
    ]
    expect(page.locator("#figures")).to_contain_text(f"trial {min(done)[2]} ")


def test_an_error_ends_with_one_mark(address: str, ann: str) -> None:
    call = {"headers": {"Authorization": f"Bearer {ann}"}}
    for path in ("/jobs/man", "/jobs/manyy/compare", "/?limit=x&cursor=-"):
        page = httpx.get(f"{address}{path}", **call).text
        [sentence] = re.findall(r"<p>([^<]*)</p>", page)
        assert re.search(r"[^.?!][.?!]$", sentence), sentence


def test_the_list_of_jobs_sends_whose_session_is_over_to_log_in(
    opened: Opened, address: str, ann: str
) -> None:
    page = opened(address, ann, "/?state=paused")
    link = page.get_by_role("link", name="many")
    link.focus()
    csrf = page.request.get(f"{API}/session").json()["csrf"]
    with page.expect_response("**/?state=paused"):
        pass  # it was asked for anew
    expect(link).to_be_focused()
    assert page.request.delete(f"{API}/session", headers={"X-CSRF-Token": csrf}).ok
    page.wait_for_url("**/login?**")
    expect(page.locator("main")).to_contain_text("Your session is over")
    page.fill("#token", ann)
    page.click("button.main")
    expect(page.get_by_role("link", name="many")).to_be_visible()


def test_pages_say_what_there_is_not(opened: Opened, address: str, ann: str, store: Store) -> None:
    page = opened(address, ann, "/jobs/waits", width=390)
    expect(page.locator("#outlook")).to_contain_text("This job is paused, and has found nothing")
    expect(page.locator("#found")).to_be_hidden()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#state")).to_have_text("cancelled")
    expect(page.locator("#outlook")).to_contain_text("This job was cancelled")
    page.goto("/?state=finishing")
    expect(page.locator("#jobs")).to_contain_text("No job is finishing")
    page = opened(address, token(store, Role.VIEWER, "bob"), "/")
    expect(page.locator("#jobs")).to_contain_text("No job yet")
    expect(page.get_by_role("link", name="Submit")).to_have_count(0)


def test_a_job_that_failed_says_why_and_what_to_do_and_then_waits_for_its_turn(
    opened: Opened, address: str, ann: str, store: Store
) -> None:
    page = opened(address, token(store, Role.VIEWER, "ann"), "/jobs/broke")
    expect(page.locator("#outlook .reason")).to_have_text(REASON)
    assert page.locator("#outlook b").count() == 0
    expect(page.locator("#outlook")).not_to_contain_text("Retry")
    page = opened(address, ann, "/jobs/broke")
    expect(page.locator("#outlook")).to_contain_text("press Retry")
    page.get_by_role("button", name="What its processes printed").click()
    expect(page.locator("#told")).to_contain_text("Nothing was printed")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#outlook [aria-current=step]")).to_contain_text("It waits for its turn")


def test_a_set_of_models_shows_who_is_pruned_how_much_at_which_budget(
    opened: Opened, shot: Callable[[Page, str], None], address: str, ann: str
) -> None:
    page = opened(address, ann, "/jobs/board")
    rows = page.locator("#choice tbody tr")
    expect(rows).to_have_count(2)
    for chart in ("whole", "kept", "accuracies"):
        expect(page.locator(f"#{chart} canvas").first).to_be_visible()
    shot(page, "set-page")
    before, places = rows.all_inner_texts(), places_in(page)
    page.locator("#budget-range").focus()
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    assert rows.all_inner_texts() != before
    assert places_in(page) == places
    page.locator("#budget").fill("0.0001")
    expect(page.locator("#choice")).to_contain_text("No choice costs so little")
    assert places_in(page) == places
    page.set_viewport_size({"width": 390, "height": 1000})
    places = places_in(page)
    page.locator("#budget").fill("1000")
    expect(page.locator("#choice")).not_to_contain_text("No choice costs so little")
    assert places_in(page) == places
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("link", name="radar").first.click()
    page.wait_for_url("**/jobs/board.radar")
    expect(page.locator("#front canvas").first).to_be_visible()


def places_in(page: Page) -> list[list[int]]:
    """Where lines of text and all columns of what a budget buys are: left and top, in whole pixels."""
    return page.evaluate(
        """() => [...document.querySelectorAll("#choice th, #choice tbody tr, h2, .chart, #figures div")]
            .filter((each) => each.checkVisibility())
            .map((each) => each.getBoundingClientRect())
            .map((at) => [Math.round(at.left), Math.round(at.top + scrollY)])"""
    )


def test_a_front_is_drawn_for_another_device(opened: Opened, address: str, ann: str) -> None:
    page = opened(address, ann, "/jobs/many")
    page.locator("#keep").scroll_into_view_if_needed()
    expect(page.locator("#keep canvas").first).to_be_visible()
    with page.expect_response("**/groups?device=elsewhere") as groups:
        page.select_option("#device", "elsewhere")
    assert groups.value.ok


def test_the_page_of_a_job_that_is_done_names_its_winner(
    opened: Opened, shot: Callable[[Page, str], None], address: str, ann: str, store: Store, runs: Path
) -> None:
    add_large_job(store, Place(runs, "small"), "won", "ann", 60)
    plan = store.job("won").plan
    dense, dense_ms = plan["dense_accuracy"], plan["dense_ms"]
    for number, accuracy, share in ((7, dense - 0.021, 0.5), (11, dense + 0.004, 0.8)):
        facts = {**store.trials("won")[number].facts.to_json(), "accuracy": accuracy}
        store.add_result("won", number, FINAL, {"facts": facts, "kept": {}, "test": None})
        measured = {"latency_ms": share * dense_ms, "spread": 0.0, "dense_ms": dense_ms, "dense_spread": 0}
        store.add_result("won", number, MEASURED, measured)
    page = opened(address, ann, "/jobs/won")
    expect(page.locator("#figures")).to_contain_text("Dense")
    expect(page.locator("#figures")).not_to_contain_text("The winner")
    store.add_result("won", 11, EXPORTED, {})
    store.set_job_state("won", JobState.DONE)
    page.reload()
    won = page.locator("#figures div", has_text="The winner, measured")
    expect(won).to_contain_text("trial 11 · +0.40 points · 1.25×")
    shot(page, "won-page")
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    shot(page, "won-page-on-a-phone")


def test_the_list_of_jobs_follows_their_states(opened: Opened, address: str, ann: str, store: Store) -> None:
    add_small_job(store, "restless", JobState.FAILED)
    page = opened(address, ann, "/")
    row = page.locator("tr", has_text="restless")
    expect(row).to_contain_text("failed")
    ServiceJobs(store).steer("restless", Verb.RETRY, "ann")
    expect(row).to_contain_text("queued")


def test_devices_show_profiles_and_stairs(
    opened: Opened, shot: Callable[[Page, str], None], address: str, ann: str
) -> None:
    page = opened(address, ann, "/devices")
    expect(page.locator("#agents")).to_contain_text("No agent has asked for work yet")
    expect(page.locator("#profiles")).to_contain_text("this-cpu")
    expect(page.locator("#stairs canvas").first).to_be_visible()
    shot(page, "devices-page")
