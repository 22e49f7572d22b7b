"""A job of a service, from Python: watched, waited for, steered, looked at, and its export fetched."""

from __future__ import annotations

import html
import json
import logging
import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from hwprofiles.disk import file_sha256, whole_folder
from hwprofiles.errors import ConflictError, PrunefrontError, RequestError, TransientError
from hwprofiles.remote import LONGEST_DELAY_S, NoAnswerError, ServerTroubleError
from search.remote_board import frame, pick

if TYPE_CHECKING:
    import pandas as pd

    from search.client import Client
    from search.job import CostKind

PATIENCE_S = 60.0
"""How long a server that is away is waited for while something is sent to it, or fetched."""
POLL_S = 1.0
OVER = ("done", "failed", "cancelled", "paused")
"""States of a job in which nothing more happens until somebody asks for it."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """Something that happened to a job.

    Of kind "job" it is how far the job is, as `RemoteJob.told` has it. Any other is in the job's log, with
    "number", "time_s" (since the epoch), "kind" and "message".
    """

    kind: str
    data: Mapping[str, Any]


class RemoteJob:
    """A job of a service. All but `told` is asked for each time."""

    def __init__(
        self, client: Client, told: Mapping[str, Any], *, wanted: str = "", is_new: bool = False
    ) -> None:
        self.client, self.name = client, str(told["name"])
        self.told = dict(told)
        """What was last heard of it."""
        self.wanted = wanted or self.name
        """What it was to be called; another name where there was such a job already."""
        self.is_new = is_new
        """Whether it was made by the call that gave it."""
        self._path = f"/jobs/{quote(self.name, safe='')}"

    def __repr__(self) -> str:
        return f"<job {self.name!r} at {self.client.server.url}: {self.told['state']}>"

    def _repr_html_(self) -> str:
        told = self.refresh()
        now = [told["state"], *([] if self._is_over() else [told["progress"].get("text", "")])]
        head = f"<b>{html.escape(self.name)}</b>: {html.escape(', '.join(filter(None, now)))}"
        try:
            return f"<p>{head}</p>{self.front().to_html()}"
        except PrunefrontError as error:
            return f"<p>{head}</p><p>{html.escape(str(error))}</p>"

    @property
    def url(self) -> str:
        """Of its page."""
        return f"{self.client.server.url}/jobs/{quote(self.name, safe='')}"

    def refresh(self) -> dict[str, Any]:
        """Ask how it stands: its "state", "progress", the "reason" of a failure, and more."""
        self.told = dict(self._get(""))
        return self.told

    @property
    def state(self) -> str:
        return str(self.refresh()["state"])

    def wait(self, timeout_s: float = math.inf) -> str:
        """Wait until nothing more happens to it; gives its state.

        Raises:
            TransientError: more happens after `timeout_s`, or the server cannot be reached by then.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, end_s - time.monotonic())
            self.told = dict(self.client.remote.json("GET", self._path, patience_s=left_s))
            if self._is_over():
                return str(self.told["state"])
            if left_s <= 0:
                raise TransientError(
                    f"job {self.name!r} is still {self.told['state']} after {timeout_s:g} s of waiting; it "
                    "goes on, wait again"
                )
            time.sleep(min(POLL_S, left_s))

    def watch(self, after: int = 0) -> Iterator[Told]:
        """What happens to it, as it happens, each event once, until nothing more does.

        A connection that is lost is made again, for as long as it takes.

        Args:
            after: the number of the last event that is known.

        Raises:
            TransientError: the server cannot be reached at first.
            RequestError: the server refuses; there is no such job any more.
        """
        losses, connected = 0, False
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            try:
                for kind, data in _events(self.client.remote.lines(f"{self._path}/events", headers)):
                    losses, connected = 0, True
                    if kind == "end":
                        return
                    if kind == "job":
                        self.told = {**self.told, **data}
                    else:
                        after = data["number"]
                    yield Told(kind, data)
            except (NoAnswerError, ServerTroubleError) as error:
                if not connected:
                    raise
                if losses == 1:
                    _log.warning("%s; trying again until it works", error)
            losses += 1
            time.sleep(random.uniform(0.5, 1.0) * min(LONGEST_DELAY_S, 0.5 * 2 ** min(losses - 1, 16)))

    def pause(self) -> str:
        """No new trials, running ones finish, and it waits; gives its state, as do the other verbs."""
        return self.steer("pause")

    def resume(self) -> str:
        return self.steer("resume")

    def stop(self) -> str:
        """No new trials; the best of what is there is trained, measured and exported."""
        return self.steer("stop")

    def cancel(self) -> str:
        """It ends now."""
        return self.steer("cancel")

    def retry(self) -> str:
        """What was cancelled or has failed starts again, with all that it has found."""
        return self.steer("retry")

    def steer(self, verb: str) -> str:
        """
        Raises:
            RequestError: the verb does not fit the state that it is in.
        """
        self.told = dict(self.client.remote.json("POST", f"{self._path}/{verb}", patience_s=0))
        return str(self.told["state"])

    def remove(self) -> None:
        """Forget it with all that it has found.

        Raises:
            RequestError: it is worked on.
        """
        self.client.remote.call("DELETE", self._path, patience_s=0)

    def pick(self, limits: Mapping[CostKind, float], device: str = "") -> dict[str, Any]:
        """The most accurate trial that costs no more, as `board` has it: its row. Finalists come first.

        Args:
            limits: of "latency_ms", which counts with its error bar, "macs" and "parameters".

        Raises:
            RequestError: there is none; names the one that comes nearest.
        """
        return pick(self.board(device), limits)

    def board(self, device: str = "") -> dict[str, Any]:
        """All trials in columns, finalists, the dense model and the budget, as the service tells them.

        Args:
            device: its first, another one of its own, or any that has a profile at the service.
        """
        return dict(self._get("/front?" + urlencode({"device": device})))

    def trials(self, device: str = "") -> pd.DataFrame:
        """A row for each trial: accuracy 0..1 on validation, latency in milliseconds, and what it costs."""
        return frame(self.board(device))

    def front(self, device: str = "") -> pd.DataFrame:
        """The trials that no other beats, the fastest first; columns as of `trials`."""
        found = self.trials(device)
        return found[found["on_front"].astype(bool)].sort_values("latency_ms").drop(columns="on_front")

    def trial(self, number: int, device: str = "") -> dict[str, Any]:
        """All of one trial: facts, widths, latency layer by layer."""
        return dict(self._get(f"/trials/{number}?" + urlencode({"device": device})))

    def rows(self) -> list[dict[str, Any]]:
        """All trials in short, and what became of them."""
        found: list[dict[str, Any]] = []
        after: int | None = -1
        while after is not None:
            page = self._get(f"/trials?after={after}&limit=1000")
            found, after = found + page["trials"], page["next"]
        return found

    def events(self) -> list[dict[str, Any]]:
        """All that has happened so far."""
        found: list[dict[str, Any]] = []
        while page := self._get(f"/events?after={found[-1]['number'] if found else 0}")["events"]:
            found += page
        return found

    def log(self, *, follow: bool = False) -> Iterator[bytes]:
        """The end of what its processes have printed.

        Args:
            follow: go on with what they print, until nothing more happens.
        """
        asked = ""
        while True:
            was_over = self._is_over()
            answer = self.client.remote.call("GET", f"{self._path}/log{asked}", patience_s=0)
            yield answer.content
            asked = f"?after={answer.headers['x-log-end']}"
            if not answer.content or not follow:
                if was_over or not follow:
                    return
                time.sleep(POLL_S)
                self.refresh()

    def export(self, folder: str | Path, trial: int | None = None) -> Path:
        """Fetch a trial as a folder to deploy, by default the winner. It is there whole or not at all.

        A trial that was not exported yet is trained, measured and exported by the service first, once the job
        is not searching any more. `search.load` opens the folder.

        Raises:
            RequestError: the folder is there already, nothing is exported yet, or that trial cannot be.
            TransientError: the server cannot be reached, or what arrived is damaged.
        """
        folder = Path(folder)
        if models := self.told["models"]:
            raise RequestError(
                f"{self.name!r} is a set of models; export one of its jobs: {', '.join(models)}"
            )
        if folder.exists():
            raise RequestError(f"{folder} exists already; choose another folder or remove it")
        where = self._exported(trial)
        if where is None:
            if trial is None:
                raise ConflictError(
                    f"job {self.name!r} is {self.state} and has exported nothing; wait, or name a trial"
                )
            where = self._export(trial)
        files = [path for path in self._artifacts() if path.parent == where and not path.name.startswith(".")]
        with whole_folder(folder) as partial:
            for path in files:
                with (partial / path.name).open("xb") as file:
                    self.client.remote.download(
                        f"{self._path}/artifacts/{quote(str(path))}", file, patience_s=PATIENCE_S
                    )
            _check_whole(partial, self.name)
        return folder

    def _artifacts(self) -> list[PurePosixPath]:
        return [PurePosixPath(each["path"]) for each in self._get("/artifacts")]

    def _exported(self, trial: int | None) -> PurePosixPath | None:
        """Where an export of a trial lies, the winner's for None, if there is one."""
        there = self._artifacts()
        winner, own = PurePosixPath("export"), PurePosixPath("exports") / f"trial-{trial}"
        if winner / "config.json" in there:
            config = self._get("/artifacts/export/config.json")
            if trial is None or config.get("trial") == trial:
                return winner
        return own if own / "config.json" in there else None

    def _export(self, trial: int) -> PurePosixPath:
        """Have a trial exported, and wait for it."""
        known = max((each["number"] for each in self.events()), default=0)
        self.client.remote.call("POST", f"{self._path}/exports", json.dumps({"trial": trial}), patience_s=0)
        while trial in self.refresh()["exports"]:
            time.sleep(POLL_S)
        if where := self._exported(trial):
            return where
        reasons = [
            each["message"]
            for each in self.events()
            if each["number"] > known and each["kind"] == "export failed"
        ]
        raise RequestError(f"trial {trial} of job {self.name!r} could not be exported: {'; '.join(reasons)}")

    def _is_over(self) -> bool:
        return self.told["state"] in OVER and not self.told["at_work"]

    def _get(self, path: str) -> Any:
        return self.client.remote.json("GET", self._path + path, patience_s=0)


def _events(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and data of server-sent events."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            key, _, value = line.partition(": ")
            fields[key] = value
        else:
            if "event" in fields:
                yield fields["event"], json.loads(fields["data"])
            fields = {}


def _check_whole(folder: Path, job: str) -> None:
    """Hold an export that has arrived against the checksums that it brings."""
    config = json.loads((folder / "config.json").read_bytes())
    damaged = [name for name, digest in config["sha256"].items() if file_sha256(folder / name) != digest]
    if damaged:
        raise TransientError(f"{damaged[0]} of job {job!r} arrived damaged; export it again")
