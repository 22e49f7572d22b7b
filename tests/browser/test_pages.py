"""Pages of jobs as they are at any moment: with many trials, with none, in the dark, by keyboard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from benchmarks.large_job import REASON, add_large_job, add_set
from hwprofiles.disk import file_sha256
from hwprofiles.wire import API
from search import devices
from search.dashboard.form import CONTROLLERS, LIMITS
from search.job import Budget, Search
from search.place import Place
from search.results import EXPORTED, FINAL, MEASURED
from search.service.incoming import Incoming
from tests.browser.conftest import Opened
from tests.serving import served, token
from trials.records import JobState
from trials.service_jobs import ServiceJobs, change
from trials.steering import Verb
from trials.store import Store
from trials.tokens import Role

TRIALS = 400


@pytest.fixture(scope="module")
def runs(planned_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a job of many trials, and others that have found nothing."""
    runs = tmp_path_factory.mktemp("pages") / "runs"
    shutil.copytree(planned_runs, runs)
    profile = Place(runs, "small").profile
    (runs / "devices").mkdir(exist_ok=True)
    for name in ("this-cpu", "elsewhere"):
        shutil.copy(profile, runs / "devices" / f"{name}.parquet")
    with Store.open(runs / "prunefront.db") as store:
        add_large_job(store, Place(runs, "small"), "many", "ann", TRIALS)
        add_set(store, Place(runs, "small"), "board", "ann", TRIALS // 4)
        add_small_job(store, "waits", JobState.PAUSED)
        add_small_job(store, "broke", JobState.FAILED)
        with store.writing() as connection:
            change(connection, "broke", reason=REASON)
    return runs


def add_small_job(store: Store, name: str, state: JobState) -> None:
    """A job of ann's that has found nothing."""
    store.create_job(name, {**store.job("small").spec, "name": name}, {})
    store.set_job_state(name, state)
    ServiceJobs(store).adopt(name, "ann")


@pytest.fixture(scope="module")
def store(runs: Path) -> Iterator[Store]:
    with Store.open(runs / "prunefront.db") as store:
        store.set_job_state("many", JobState.PAUSED)
        yield store


@pytest.fixture(scope="module")
def address(store: Store, runs: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, served(store, runs / ".service") as address:
        patch.setattr(devices, "SHIPPED", runs / "nothing-shipped")  # validating one takes seconds
        yield address


@pytest.fixture
def ann(store: Store) -> str:
    return token(store, Role.SUBMITTER, "ann")


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


def test_a_set_of_models_is_submitted_with_data_for_validation(
    opened: Opened, address: str, ann: str, store: Store, runs: Path, tmp_path: Path
) -> None:
    for name, images in (("train", 20), ("held-out", 10)):
        labels = np.arange(images) % 10
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((images, 1, 8, 8), np.float32), y=labels)
    # All of it is there, of a service that was killed before it had held it against its sha256.
    growing = Incoming(runs / ".service" / "incoming")._growing("ann", file_sha256(tmp_path / "train.npz"))
    growing.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / "train.npz", growing)
    page = opened(address, ann, "/submit")
    page.select_option("[name=kind]", "memory_bytes")
    page.click("[data-add=budget]")
    page.click("[data-add=model]")
    for number in (0, 1):
        bring(page, number, Place(runs, "small").bundle)
    page.locator("[name=train]").nth(0).select_option("digits")
    page.locator("[name=train-file]").nth(1).set_input_files(tmp_path / "train.npz")
    page.locator("[name=validation]").nth(1).select_option("upload")
    page.locator("[name=validation-file]").nth(1).set_input_files(tmp_path / "held-out.npz")
    page.locator("[name=mean]").nth(1).fill("half")
    page.locator("[name=std]").nth(1).fill("0.25")
    page.locator("[name=accuracy_drop]").nth(1).fill("2.5")
    page.select_option("#controller", "knapsack")
    page.fill("#name", "both")
    page.click("#submit button.main")
    mean = page.locator("[name=mean]").nth(1)
    assert "one for each channel" in mean.evaluate("field => field.validationMessage")
    mean.fill("0.5")
    page.click("#submit button.main")
    page.wait_for_url("**/jobs/both")
    spec = store.job("both").spec
    assert [(each["name"], each["accuracy_drop"]) for each in spec["models"]] == [
        ("model-1", None),
        ("model-2", 2.5),
    ]
    assert spec["models"][0]["data"]["source"] == "digits"
    assert spec["models"][0]["data"]["normalize"] is None
    assert spec["models"][1]["data"]["normalize"] == {"mean": [0.5], "std": [0.25]}
    assert spec["models"][1]["data"]["validation"] != spec["models"][1]["data"]["train"]
    assert spec["search"]["controller"] == "knapsack"
    assert asked_in(spec) == {"latency": ["50%"]}


def test_a_job_is_submitted_with_budgets_of_several_kinds_on_several_devices(
    opened: Opened, address: str, ann: str, store: Store, runs: Path
) -> None:
    page = opened(address, ann, "/submit")
    bring(page, 0, Place(runs, "small").bundle)
    page.fill("#name", "several")
    page.select_option("[name=train]", "digits")
    page.click("[data-add=device]")
    page.locator("[name=own]").nth(1).fill("80%")
    for _ in range(3):
        page.click("[data-add=budget]")
    kinds, levels = page.locator("[name=kind]"), page.locator("[name=levels]")
    assert [kinds.nth(k).input_value() for k in range(4)] == ["latency", "latency_p99", "macs", "parameters"]
    levels.nth(0).fill("20%..100%")
    kinds.nth(1).select_option("size_bytes")
    levels.nth(1).fill("4.1 MB")
    kinds.nth(2).select_option("accuracy_drop")
    levels.nth(3).fill("5 ms")
    page.click("#submit button.main")
    assert "250 k" in levels.nth(3).evaluate("field => field.validationMessage")
    levels.nth(3).fill("0,25 M")
    page.click("#submit button.main")
    assert '"0,25" may be one number' in levels.nth(3).evaluate("field => field.validationMessage")
    levels.nth(3).fill("0.25 M, 75%")
    page.click("#submit button.main")
    refused = page.locator(".budget", has=levels.nth(0)).locator("#refused")
    expect(refused).to_contain_text("budget has several levels of latency and of parameters")
    expect(levels.nth(0)).to_be_focused()
    page.get_by_label("Remove this budget").nth(3).click()
    expect(page.locator("[data-add=budget]")).to_be_focused()
    page.click("#submit button.main")
    page.wait_for_url("**/jobs/several")
    spec = store.job("several").spec
    front = ["20%", "33.3%", "46.7%", "60%", "73.3%", "86.7%"]
    assert asked_in(spec) == {"latency": front, "size_bytes": [4.1e6], "accuracy_drop": 1}
    assert [(each["name"], each["profile"], each["latency"]) for each in spec["devices"]] == [
        ("this-cpu", "", []),
        ("elsewhere", "elsewhere", ["80%"]),
    ]


def test_a_job_whose_answer_was_lost_is_submitted_once_and_once_more_where_it_was_changed(
    opened: Opened, address: str, ann: str, store: Store, runs: Path
) -> None:
    page = opened(address, ann, "/submit")
    bring(page, 0, Place(runs, "small").bundle)
    page.fill("#name", "lost")
    page.select_option("[name=train]", "digits")
    for trials in ("40", "7"):
        page.fill("#trials", trials)
        page.route("**/api/v1/jobs", lose_answer, times=1)
        page.click("#submit button.main")
        expect(page.locator("#refused")).to_be_visible()
    page.click("#submit button.main")
    page.wait_for_url("**/jobs/lost-2")
    assert [store.job(name).spec["search"]["trials"] for name in ("lost", "lost-2")] == [40, 7]
    assert "lost-3" not in [job.name for job in store.jobs()]


def lose_answer(route: Route) -> None:
    """The call reaches the service, and another answer the page: of a status that its console may tell of."""
    route.fetch()
    route.fulfill(status=422)


def bring(page: Page, number: int, bundle: Path) -> None:
    """Choose the files of a bundle for one of the models; the service checks what it has not yet."""
    page.locator("[name=bundle-file]").nth(number).set_input_files(sorted(bundle.iterdir()))


def asked_in(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: levels for key, levels in spec["budget"].items() if levels}


def test_every_key_of_a_budget_may_be_chosen_and_takes_the_example_of_its_form() -> None:
    assert {key for limit in LIMITS for key in (limit.key, limit.number)} == set(Budget.model_fields)
    for limit in LIMITS:
        number, _, unit = limit.example.partition(" ")
        Budget.checked({limit.number: float(number) * limit.units[unit]}, limit.name)


def test_every_controller_may_be_chosen() -> None:
    assert set(CONTROLLERS) == set(get_args(Search.model_fields["controller"].annotation))


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
