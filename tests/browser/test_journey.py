"""From a bundle and data to a network that runs, by the pages alone."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

import search
from search.place import Place
from search.service.supervisor import Supervisor
from tests.browser.conftest import Opened
from tests.digits import digits
from tests.serving import served, token
from trials.store import Store
from trials.tokens import Role

SLOW_MS = 240_000
"""For what a job takes on a busy machine."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    runs.mkdir()
    return runs


@pytest.fixture
def store(runs: Path) -> Iterator[Store]:
    with Store.open(runs / "prunefront.db") as store:
        yield store


@pytest.fixture
def address(store: Store, runs: Path) -> Iterator[str]:
    """A service that works on its jobs."""
    supervisor = Supervisor(store, runs, runs / ".service" / "logs", 1)
    with served(store, runs / ".service") as address:
        supervisor.start()
        yield address
        supervisor.stop()


@pytest.fixture
def some_digits(tmp_path: Path) -> Path:
    train, path = digits().train, tmp_path / "digits.npz"
    np.savez(path, x=train.inputs[0][:600], y=train.labels[:600])
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_is_submitted_watched_brushed_compared_exported_and_loaded(
    opened: Opened,
    shot: Callable[[Page, str], None],
    store: Store,
    address: str,
    planned_runs: Path,
    some_digits: Path,
    tmp_path: Path,
) -> None:
    page = opened(address, "", "/submit")
    page.fill("#token", token(store, Role.SUBMITTER, "ann"))
    page.click("button.main")

    page.wait_for_url("**/submit")
    bundle = Place(planned_runs, "small").bundle
    page.fill("#name", "mine")
    page.set_input_files("[name=bundle-file]", sorted(bundle.iterdir()))
    page.set_input_files("[name=train-file]", some_digits)
    page.fill("[name=levels]", "50%, 75%")
    page.fill("#trials", "8")
    page.fill("#steps", "3")
    page.click("#submit button.main")

    page.wait_for_url("**/jobs/mine", timeout=SLOW_MS)
    seen = set()
    while "done" not in seen:
        seen.add(page.locator("#state").inner_text())
        assert "failed" not in seen, page.locator("body").inner_text()
        page.wait_for_timeout(100)
    assert "searching" in seen
    figures = page.locator("#figures")
    expect(figures).to_contain_text(re.compile(r"Trials done\s*8"), timeout=SLOW_MS)

    page.click("[data-tool=brush]")
    box = page.locator("#front canvas").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + 65, box["y"] + 70)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 50, steps=8)
    page.mouse.up()
    expect(page.locator("#picked h3")).to_contain_text("In the brush")
    page.click("[data-tool=point]")
    for row in (0, 1):
        page.locator("#picked input").nth(row).check()
    page.click("#compare")

    page.wait_for_url("**/compare?trials=*")
    expect(page.locator("#numbers th .pick").first).to_be_visible()
    expect(page.locator("#layers canvas").first).to_be_visible()
    page.go_back()

    expect(figures).to_contain_text("8")
    page.locator("#picked input").first.check()
    number = page.locator("#picked input").first.get_attribute("data-pick")
    page.click("#export")
    folder = page.locator(f"[data-folder='exports/trial-{number}']")
    expect(folder).to_be_visible(timeout=SLOW_MS)
    shot(page, "journey")
    with page.expect_download() as download:
        folder.get_by_role("link", name="Download all").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(tmp_path)
    network = search.load(str(tmp_path / f"mine-trial-{number}"))
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
