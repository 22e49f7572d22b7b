"""How the service is, for whoever starts it anew, sends it calls or draws its curves; in it is no secret."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hwprofiles.errors import PrunefrontError, TransientError
from search.service.given import TheStore
from search.service.supervisor import Supervisor

ROOM_BYTES = 2**30
"""With less room than this on its disk the service is not ready."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

router = APIRouter()


class Metrics:
    """What is counted of one service. Other gauges may join its registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter(
            "prunefront_answers",
            "Calls that were answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "prunefront_answer_seconds",
            "From a call to the beginning of its answer.",
            ["method", "route"],
            registry=self.registry,
        )


class Counted:
    """Counts calls by the kind of their path, of which there are few whatever anybody calls."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun_s = time.perf_counter()

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in _METHODS else "other"
                route = scope["route"].path if "route" in scope else "none"
                self._metrics.answers.labels(method, route, message["status"]).inc()
                self._metrics.seconds.labels(method, route).observe(time.perf_counter() - begun_s)
            await send(message)

        await self._app(scope, receive, count_and_send)


@router.get("/healthz")
def is_alive() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
def is_ready(request: Request, store: TheStore) -> dict[str, str]:
    """Whether calls can be sent here: the database answers, jobs are begun, and there is room on the disk."""
    try:
        with store.reading() as connection:
            connection.exec_driver_sql("SELECT 1")
    except PrunefrontError as error:
        raise TransientError("the database does not answer; the service's own output says why") from error
    supervisor: Supervisor | None = request.app.state.supervisor
    if supervisor and not supervisor.is_well:
        raise TransientError("the supervisor has stopped, so no job is begun; restart the service")
    folder: Path = request.app.state.folder
    if shutil.disk_usage(folder).free < ROOM_BYTES:
        raise TransientError(f"the disk has less than {ROOM_BYTES / 2**30:.0f} GiB left; make room")
    return {"status": "ok"}


@router.get("/metrics", response_class=PlainTextResponse)
def tell_metrics(request: Request) -> Response:
    """Counts in Prometheus' text format."""
    metrics: Metrics = request.app.state.metrics
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)
