"""The service as one application: its routes, and what every call passes on its way to them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fastapi import FastAPI

from hwprofiles.wire import API, MAX_FILE_BYTES
from search.board import Boards
from search.dashboard import pages
from search.service import access, devices, found, health, jobs, measuring, told, uploads
from search.service.audit import Audited
from search.service.auth import Identified
from search.service.brought import Brought
from search.service.copies import Copies
from search.service.doors import OnlyToUs
from search.service.errors import PROBLEMS, Explained, answer_with_problems
from search.service.limits import AtMost
from search.service.room import Room
from search.settings import Settings
from trials.quotas import Quota, Quotas
from trials.store import Store

LOGS = "logs"
"""Of what the processes of jobs print."""


def create_app(store: Store, folder: Path, hosts: Iterable[str]) -> FastAPI:
    """The service on one store.

    Args:
        folder: of a folder of runs, where files are kept: what was brought, networks, profiles and logs.
        hosts: names by which it may be called; a call to any other is refused.
    """
    app = FastAPI(
        title="prunefront",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=PROBLEMS,
        generate_unique_id_function=lambda route: route.name,
    )
    settings, metrics = Settings(), health.Metrics()
    folder.mkdir(parents=True, exist_ok=True)
    app.state.store, app.state.folder, app.state.metrics = store, folder, metrics
    app.state.supervisor = None
    app.state.settings, app.state.room = settings, Room(store, folder)
    app.state.brought = Brought(store, folder, settings)
    app.state.copies = Copies(settings.artifacts, folder.parent)
    app.state.runs, app.state.logs, app.state.boards = folder.parent, folder / LOGS, Boards(folder.parent)
    app.state.quotas = Quotas(
        store,
        Quota(
            queued_jobs=settings.quota_queued_jobs,
            running_jobs=settings.quota_running_jobs,
            worker_minutes=settings.quota_worker_minutes,
            stored_bytes=settings.quota_stored_bytes,
        ),
    )
    # A call meets the last of these first.
    app.add_middleware(
        AtMost, files={f"{API}/files/": MAX_FILE_BYTES, f"{API}/uploads/": settings.max_upload_bytes}
    )
    app.add_middleware(Identified, store=store)
    app.add_middleware(OnlyToUs, hosts=frozenset(name.lower() for name in hosts))
    app.add_middleware(Explained)
    app.add_middleware(Audited, store=store)
    app.add_middleware(health.Counted, metrics=metrics)
    for routes in (access, jobs, found, told, devices, measuring, uploads, health, pages):
        app.include_router(routes.router)
    answer_with_problems(app)
    return app
