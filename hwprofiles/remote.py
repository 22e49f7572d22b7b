"""Calls of a prunefront server that outlive losses of the network and restarts of the server."""

from __future__ import annotations

import logging
import math
import random
import re
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Self, TypeVar

import httpx

from hwprofiles.errors import RequestError, TransientError, one_line
from hwprofiles.foreign import parse_json
from hwprofiles.wire import API

CONNECT_S, ANSWER_S = 10.0, 60.0
"""How long this side waits for a connection, and for an answer to begin or to go on."""
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 30.0
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class RefusedError(RequestError):
    """The server answered that it will not do this, however often it is asked."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class NoAnswerError(TransientError):
    """Nothing came: the server cannot be reached, or this side's time for an answer is over."""


class ServerTroubleError(TransientError):
    """The server, or a proxy before it, answered that it cannot do this now, or that its own time is over."""


class Remote:
    """A server, and the token with which to talk to it."""

    def __init__(self, url: str, token: str, *, headers: dict[str, str] | None = None) -> None:
        """Connect to nothing yet.

        Raises:
            RequestError: the address is none of HTTP or HTTPS, or the token is none.
        """
        try:
            parts = httpx.URL(url)
        except httpx.InvalidURL:
            parts = httpx.URL()
        if parts.scheme not in ("http", "https") or not parts.host:
            raise RequestError(f"server {url!r} is no address; give one such as http://127.0.0.1:8321")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", token):
            raise RequestError("this token has signs that no token has; copy it whole, without quotes")
        self.url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self.url + API,
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/json",
                **(headers or {}),
            },
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
        )
        self._closing = weakref.finalize(self, self._client.close)  # also where nobody calls `close`

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._closing()

    def call(
        self,
        method: str,
        path: str,
        content: str | bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        patience_s: float = math.inf,
        answer_s: float = ANSWER_S,
    ) -> httpx.Response:
        """Make one call, again and again until the server answers, after growing, random pauses.

        Args:
            content: JSON, or a file.
            patience_s: 0 tries once.
            answer_s: how long each try waits for an answer.

        Raises:
            RefusedError: the server will not do it.
            NoAnswerError, ServerTroubleError: it has not been done within `patience_s`, by the last try.
        """
        timeout = httpx.Timeout(answer_s, connect=CONNECT_S)

        def once() -> httpx.Response:
            response = self._client.request(method, path, content=content, headers=headers, timeout=timeout)
            return self._accepted(response)

        return self._until_it_works(once, patience_s)

    def json(self, method: str, path: str, content: str = "", **how: Any) -> Any:
        """What a call, made as by `call`, is answered with.

        Raises:
            RequestError: it is no JSON, so that is no prunefront server.
            RefusedError, NoAnswerError, ServerTroubleError: as `call`.
        """
        answer = self.call(method, path, content, **how)
        try:
            return answer.json()
        except ValueError:
            raise RequestError(
                f"{self.url} answers as no prunefront server does; check the address"
            ) from None

    def lines(self, path: str, headers: Mapping[str, str]) -> Iterator[str]:
        """The lines of an answer as they come, such as a stream of events, until it ends or is cut off.

        Raises:
            RefusedError: the server does not give it.
            NoAnswerError, ServerTroubleError: it does not begin, or has not ended and nothing comes.
        """
        try:
            with self._client.stream("GET", path, headers=headers) as response:
                if not response.is_success:
                    response.read()
                    self._accepted(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise self._no_answer(error) from error

    def download(self, path: str, file: IO[bytes], *, patience_s: float = math.inf) -> None:
        """Write what lies at a path to a file; goes on where it was cut off, if it is still the same.

        Raises:
            RefusedError, NoAnswerError, ServerTroubleError: as `call`.
        """
        tag = ""

        def once() -> None:
            nonlocal tag
            asked = {"Range": f"bytes={file.tell()}-", "If-Range": tag} if tag and file.tell() else {}
            with self._client.stream("GET", path, headers=asked) as response:
                if not response.is_success:
                    response.read()
                    self._accepted(response)
                if response.status_code != 206:
                    file.seek(0)
                    file.truncate()
                tag = response.headers.get("etag", "")
                for piece in response.iter_bytes():
                    file.write(piece)

        self._until_it_works(once, patience_s)

    def _until_it_works(self, once: Callable[[], _T], patience_s: float) -> _T:
        start, tries = time.monotonic(), 0
        while True:
            try:
                found = once()
            except ServerTroubleError as error:
                trouble: TransientError = error
            except httpx.TransportError as error:
                trouble = self._no_answer(error)
            else:
                if tries:
                    _log.warning("%s answers again", self.url)
                return found
            pause_s = random.uniform(0.5, 1.0) * min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(tries, 16))
            if time.monotonic() + pause_s - start > patience_s:
                raise trouble
            if not tries:
                _log.warning("%s; trying again until it works", trouble)
            tries += 1
            time.sleep(pause_s)

    def _no_answer(self, error: httpx.TransportError) -> NoAnswerError:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return NoAnswerError(f"{self.url} was reached, but no answer came in time; try again later")
        trouble = str(error) or type(error).__name__
        return NoAnswerError(f"{self.url} cannot be reached: {trouble}; try again when it is up")

    def _accepted(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        status = response.status_code
        try:
            sentence = str(parse_json(response.content)["detail"])
        except (ValueError, KeyError, TypeError):
            sentence = ""
        if status in _TRY_AGAIN:
            said = f": {one_line(sentence)}" if sentence else ""
            raise ServerTroubleError(f"{self.url} answers {status} {response.reason_phrase}{said}")
        call = f"{response.request.method} {response.request.url}"
        raise RefusedError(
            sentence or f"{call} was answered with {status}; is it a prunefront server?", status
        )
