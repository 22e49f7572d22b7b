"""A browser that is watched: it may complain of nothing, and ask nobody but the service."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from hwprofiles.wire import API
from search import devices
from search.place import Place
from tests.serving import served, token
from trials.store import Store
from trials.tokens import Role

CHROMIUM = shutil.which("chromium")
WAIT_MS = 60_000
"""For what a page is to show: seconds at most, and longer only where the machine is busy."""
OURS = ("127.0.0.1", "")
REFUSED = "the server responded with a status of 422"
"""What the browser logs where a form is refused, which is for the form to say."""

Opened = Callable[..., Page]


@pytest.fixture(scope="module")
def runs(planned_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a job that was planned, and with profiles of two devices."""
    runs = tmp_path_factory.mktemp("pages") / "runs"
    shutil.copytree(planned_runs, runs)
    (runs / "devices").mkdir(exist_ok=True)
    for name in ("this-cpu", "elsewhere"):
        shutil.copy(Place(runs, "small").profile, runs / "devices" / f"{name}.parquet")
    return runs


@pytest.fixture(scope="module")
def store(runs: Path) -> Iterator[Store]:
    with Store.open(runs / "prunefront.db") as store:
        yield store


@pytest.fixture(scope="module")
def address(store: Store, runs: Path) -> Iterator[str]:
    """Of a service that works on no job."""
    with pytest.MonkeyPatch.context() as patch, served(store, runs / ".service") as address:
        patch.setattr(devices, "SHIPPED", runs / "nothing-shipped")  # validating one takes seconds
        yield address


@pytest.fixture
def ann(store: Store) -> str:
    return token(store, Role.SUBMITTER, "ann")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is absent: install Debian's package chromium")
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    """Opens pages with a session; none of them may log an error or a warning, or send anything elsewhere."""
    complaints: list[str] = []
    contexts = []

    def complain(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and REFUSED not in message.text:
            complaints.append(message.text)

    def note(request: Request) -> None:
        if urlsplit(request.url).hostname not in (*OURS, None):
            complaints.append(f"asked {request.url}")

    def open_page(address: str, token: str, path: str, *, width: int = 1440, theme: str = "light") -> Page:
        context = browser.new_context(
            base_url=address,
            color_scheme="dark" if theme == "dark" else "light",
            viewport={"width": width, "height": 1000},
        )
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", note)
        if token:
            context.request.post(f"{API}/session", data={"token": token})
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        with suppress(Exception):
            context.close()
    assert complaints == []


@pytest.fixture
def shot(tmp_path: Path) -> Callable[[Page, str], None]:
    """Keeps a picture of a page: for the documents, where SCREENSHOTS names their folder."""
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))

    def take(page: Page, name: str) -> None:
        page.screenshot(path=folder / f"{name}.png")

    return take
