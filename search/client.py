"""A prunefront service from Python: submit a job, wait for it, look at its front, take the winner.

    from search.client import Client

    job = Client.named("lab").submit("job.toml")
    job.wait()
    job.front()
    job.export("pruned")

A model is exported here, so the service runs no code of yours; until then nothing of this loads torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode

from hwprofiles.remote import Remote
from search.remote_job import PATIENCE_S, RemoteJob, Told
from search.servers import Server, default_server, find_server

if TYPE_CHECKING:
    from search.job import Job
    from search.sets.asked import ModelSet

__all__ = ["Client", "RemoteJob", "Told"]


class Client:
    """A service, as one of its users."""

    def __init__(self, url: str, token: str) -> None:
        """Connect to nothing yet.

        Raises:
            RequestError: the address or the token cannot be one.
        """
        self.remote = Remote(url, token)
        self.server = Server(self.remote.url, self.remote.url, token)

    @classmethod
    def of(cls, server: Server) -> Self:
        client = cls(server.url, server.token)
        client.server = server
        return client

    @classmethod
    def named(cls, name: str = "") -> Self:
        """The service that was logged in to by this name, or that lies at this URL; else the default one.

        Raises:
            RequestError: there is none.
        """
        return cls.of(find_server(name) if name else default_server())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.remote.close()

    def user(self) -> dict[str, Any]:
        """Who calls: "user", "role", "expires_s" of the token, and "quota"."""
        return dict(self._get("/session"))

    def submit(
        self,
        job: str | Path | Job | ModelSet,
        *,
        name: str = "",
        progress: Callable[[float, str], None] = lambda share, what: None,
    ) -> RemoteJob:
        """Export the model, send it and the data, and queue the job.

        The same file again is the same job, as with `prunefront run`, also after a kill at any moment; under
        another name it is another.

        Args:
            job: a job file, or what was read of one.
            progress: told how much of a file has been sent, 0..1, and which.

        Raises:
            RequestError: the job or what it names is wrong, or the service refuses it.
            TransientError: the service cannot be reached, now or for `PATIENCE_S`.
        """
        from search.sending import key_of, send
        from search.sets.asked import load

        asked = load(Path(job)) if isinstance(job, str | Path) else job
        if name:
            asked = asked.from_json({**asked.to_json(), "name": name})
        self.user()  # who is not let in learns so before a model is exported
        tables = send(self.remote, asked, progress, PATIENCE_S)
        headers = {"Idempotency-Key": key_of(tables)}
        answer = self.remote.call("POST", "/jobs", json.dumps(tables), headers=headers, patience_s=PATIENCE_S)
        return RemoteJob(self, answer.json(), wanted=asked.name, is_new=answer.status_code == 201)

    def job(self, name: str) -> RemoteJob:
        """
        Raises:
            RequestError: there is no such job of this user.
        """
        return RemoteJob(self, self._get(f"/jobs/{quote(name, safe='')}"))

    def jobs(self) -> list[RemoteJob]:
        """The user's jobs, the newest first."""
        found, cursor = [], ""
        while True:
            page = self._get("/jobs?" + urlencode({"limit": 200, "cursor": cursor}))
            found += [RemoteJob(self, each) for each in page["jobs"]]
            if not (cursor := page["next"] or ""):
                return found

    def _get(self, path: str) -> Any:
        return self.remote.json("GET", path, patience_s=0)
