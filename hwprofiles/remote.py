"""Calls of a prunefront server that outlive losses of the network and restarts of the server."""

from __future__ import annotations

import logging
import math
import random
import re
import time
from typing import Self

import httpx

from hwprofiles.errors import RequestError, TransientError
from hwprofiles.foreign import parse_json
from hwprofiles.wire import API

FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 30.0
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_log = logging.getLogger(__name__)


class RefusedError(RequestError):
    """The server answered that it will not do this, however often it is asked."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


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
            timeout=httpx.Timeout(60.0, connect=10.0),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(
        self, method: str, path: str, content: str | bytes = b"", *, patience_s: float = math.inf
    ) -> httpx.Response:
        """Make one call, again and again until the server answers, after growing, random pauses.

        Args:
            content: JSON, or a file.
            patience_s: 0 tries once.

        Raises:
            RefusedError: the server will not do it.
            TransientError: no answer within `patience_s`.
        """
        start, tries, said = time.monotonic(), 0, False
        while True:
            try:
                response = self._client.request(method, path, content=content)
                if response.status_code not in _TRY_AGAIN:
                    if said:
                        _log.warning("%s answers again", self.url)
                    return _accepted(response, f"{method} {self.url}{API}{path}")
                trouble = f"it answers {response.status_code}"
            except httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
            pause_s = random.uniform(0.5, 1.0) * min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**tries)
            tries = min(tries + 1, 16)
            if time.monotonic() + pause_s - start > patience_s:
                raise TransientError(f"{self.url} cannot be reached: {trouble}; try again when it is up")
            if not said:
                _log.warning("%s cannot be reached: %s; trying again until it can", self.url, trouble)
                said = True
            time.sleep(pause_s)


def _accepted(response: httpx.Response, call: str) -> httpx.Response:
    if response.is_success:
        return response
    try:
        sentence = str(parse_json(response.content)["detail"])
    except (ValueError, KeyError, TypeError):
        sentence = f"{call} was answered with {response.status_code}; is it a prunefront server?"
    raise RefusedError(sentence, response.status_code)
