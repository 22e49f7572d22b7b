"""A PostgreSQL of the tests' own, from the binaries of this machine; skipped by name where there are none."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`: on the PATH, or where Debian's package puts them."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server on a socket in a folder of its own; yields the URL of an empty database."""
    folder, user = binaries(), _user()
    if folder is None:
        pytest.skip("postgres is absent: install Debian's package postgresql")
    home = Path(mkdtemp(prefix="pg-", dir="/tmp"))  # the path of a socket may have 107 characters
    server = None
    try:
        if user:
            os.chown(home, user.pw_uid, user.pw_gid)
        as_user = {"user": user.pw_name, "group": user.pw_gid, "extra_groups": []} if user else {}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": home}
        options = ["-D", home / "data", "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run([folder / "initdb", *options], check=True, **as_user, **quiet)
        options = ["-D", home / "data", "-k", home, "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen([folder / "postgres", *options], **as_user, **quiet)
        url = f"postgresql+psycopg://tests@/postgres?host={home}"
        while not _answers(url):
            if server.poll() is not None:
                raise RuntimeError("postgres has ended")
            time.sleep(0.05)
        yield url
    finally:
        if server:
            server.terminate()
            server.wait(timeout=30)
        shutil.rmtree(home, ignore_errors=True)


def _answers(url: str) -> bool:
    engine = create_engine(url)
    try:
        engine.connect().close()
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True


def _user() -> pwd.struct_passwd | None:
    """Whom the server runs as: it refuses to be root's."""
    if os.geteuid():
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]
