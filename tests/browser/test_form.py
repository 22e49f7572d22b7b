"""The form that submits a job: all that it takes, and what it sends."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from playwright.sync_api import Page, Route, expect

from hwprofiles.disk import file_sha256
from search.dashboard.form import CONTROLLERS, LIMITS
from search.job import Budget, Search
from search.place import Place
from search.service.incoming import Incoming
from tests.browser.conftest import Opened
from trials.store import Store


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
