"""Servers that this user has logged in to: their names, addresses and tokens, in a file that only they read.

`~/.config/prunefront/servers.toml`, or below XDG_CONFIG_HOME:

    default = "lab"

    [servers.lab]
    url = "https://lab.example"
    token = "…"
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from hwprofiles.disk import whole_file
from hwprofiles.errors import NotFoundError, RequestError, nearest
from search.job.table import NAME, NAME_TOLD
from search.settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """A prunefront server and the token for it; `name` is its profile's, or its URL where it has none."""

    name: str
    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Servers:
    """All profiles by name, and which of them was logged in to last."""

    known: dict[str, Server]
    default: str

    @classmethod
    def read(cls) -> Servers:
        """
        Raises:
            RequestError: the file is damaged or cannot be read.
        """
        path = servers_file()
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
            known = {
                name: Server(name, str(each["url"]), str(each["token"]))
                for name, each in content.get("servers", {}).items()
            }
            return cls(known, str(content.get("default", "")))
        except FileNotFoundError:
            return cls({}, "")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f"{path} cannot be read ({error}); mend it, or remove it and log in again"
            ) from None

    def logged_in(self, server: Server) -> Servers:
        """With a profile more, or another one of that name, which becomes the default; on the disk, too.

        Raises:
            RequestError: nothing can be called so, or the file cannot be written.
        """
        if not re.fullmatch(NAME, server.name):
            raise RequestError(f"a server cannot be called {server.name!r}; allowed: {NAME_TOLD}")
        servers = Servers({**self.known, server.name: server}, server.name)
        lines = [f"default = {json.dumps(servers.default)}"]
        for each in servers.known.values():
            named = json.dumps(each.name)
            lines += ["", f"[servers.{named}]"]
            lines += [f"url = {json.dumps(each.url)}", f"token = {json.dumps(each.token)}"]
        path = servers_file()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with whole_file(path) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(("\n".join(lines) + "\n").encode())
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {error.strerror}; mend that first") from None
        return servers


def servers_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "prunefront" / "servers.toml"


def find_server(named: str, token: str = "") -> Server:
    """The server of a profile's name, or at a URL.

    Args:
        token: in place of the profile's. Without both it is that of PRUNEFRONT_TOKEN.

    Raises:
        NotFoundError: there is no such profile.
        RequestError: no token is known for the URL.
    """
    servers = Servers.read()
    if "://" not in named:
        if named not in servers.known:
            known = nearest(named, servers.known) if servers.known else "there is none yet"
            raise NotFoundError(
                f"there is no server {named!r} ({known}); make it known with `prunefront login {named} URL`, "
                "or give its URL"
            )
        found = servers.known[named]
        return Server(found.name, found.url, token or found.token)
    url = named.rstrip("/")
    profile = next((each for each in servers.known.values() if each.url == url), Server(url, url, ""))
    token = token or profile.token or Settings().token
    if not token:
        raise RequestError(
            f"no token is known for {url}; log in with `prunefront login NAME {url}`, or set PRUNEFRONT_TOKEN"
        )
    return Server(profile.name, url, token)


def default_server() -> Server:
    """The server of PRUNEFRONT_SERVER, else the one that was logged in to last.

    Raises:
        RequestError: there is neither.
    """
    if (named := Settings().server) or (named := Servers.read().default):
        return find_server(named)
    raise RequestError(
        "no server is named; give --server, or make one known with `prunefront login NAME URL`"
    )
