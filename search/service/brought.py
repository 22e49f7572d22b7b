"""What was brought, whole and checked: bundles, files of data, and sources that an admin registered.

Each is stored once, by its sha256, and is a user's who has sent all of it. A name that comes from outside is
never part of a path.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeVar

import fsspec
from starlette.concurrency import run_in_threadpool

from hwprofiles.disk import file_sha256, whole_folder
from hwprofiles.errors import NotFoundError, RequestError
from hwprofiles.foreign import parse_json
from search.service.incoming import Incoming
from search.settings import Settings
from trials.checking import InputKind, check, kind_of
from trials.inputs import Input, Inputs, Source, Sources
from trials.service_jobs import Hold
from trials.store import Store

MANIFEST, MODEL = "manifest.json", ("graph.json", "weights.safetensors")
MAX_MANIFEST_BYTES = 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


class Brought:
    """What jobs of a service are made of, in `folder`."""

    def __init__(self, store: Store, folder: Path, settings: Settings) -> None:
        self.incoming = Incoming(folder / "incoming")
        self.inputs, self.sources = Inputs(store), Sources(store)
        self._bundles, self._data, self._settings = folder / "bundles", folder / "data", settings
        self._turn = asyncio.Lock()

    def located(self, user: str, reference: str) -> Path:
        """Where that lies which a job of `user` names: `sha256:…` of theirs, or `source:NAME`.

        Raises:
            NotFoundError: the user has brought no such thing, and no admin has registered it.
        """
        what, _, name = reference.partition(":")
        if what == "sha256" and (found := self.inputs.get(user, name)):
            return self._path(found.kind, name)
        if what == "source" and (source := self.sources.all().get(name)):
            return Path(source.path)
        raise NotFoundError(f"{reference!r} is not here; send it first, or see which sources there are")

    def holding(self, user: str, references: Collection[str]) -> Hold:
        """For `ServiceJobs.submit`: keeps what was located for a job until the job is there."""
        names = (reference.partition(":") for reference in references)
        return self.inputs.holding(user, {name for what, _, name in names if what == "sha256"})

    def named(self, path: str) -> str:
        """How a job names what lies there: of a source that is forgotten, its file's name is left."""
        if names := [source.name for source in self.sources.all().values() if source.path == path]:
            return f"source:{names[0]}"
        found = Path(path)
        ours = found.parent in (self._bundles, self._data)
        return f"sha256:{found.name.partition('.')[0]}" if ours else found.name

    def size_bytes(self, user: str) -> int:
        """Of all that a user has brought, and is bringing."""
        return self.inputs.size_bytes(user) + self.incoming.all_bytes(user)

    async def keep_bundle(self, user: str, sha256: str) -> Input:
        """Make a bundle of files that a user has sent: the manifest of this sha256, and those that it names.

        Raises:
            NotFoundError: one of them is not here.
            RequestError: they are no bundle.
        """
        return await self._one_at_a_time(lambda: self._keep_bundle(user, sha256))

    async def keep_data(self, user: str, sha256: str) -> Input:
        """Make data of a file that a user has sent.

        Raises:
            NotFoundError: it is not here.
            RequestError: it is no data that a job can read.
        """
        return await self._one_at_a_time(lambda: self._keep_data(user, sha256))

    async def forget(self, user: str, sha256: str) -> None:
        """Forget a bundle or data of a user; the last one to have it takes it off the disk.

        Raises:
            NotFoundError: the user has brought no such thing.
            ConflictError: a job needs it.
        """
        await self._one_at_a_time(lambda: self._forget(user, sha256))

    async def register(self, name: str, location: str) -> Source:
        """Let all users name data by `name`: a path of this machine, or a URL, whose file is fetched now.

        Raises:
            RequestError: there is nothing, or nothing that a job can read.
        """
        return await self._one_at_a_time(lambda: self._register(name, location))

    async def _one_at_a_time(self, step: Callable[[], _T]) -> _T:
        """Checking takes memory: of many that want some, each gets its turn."""
        async with self._turn:
            return await run_in_threadpool(step)

    def _keep_bundle(self, user: str, sha256: str) -> Input:
        if known := self.inputs.get(user, sha256):
            return known
        manifest = self._whole(user, sha256)
        files = {MANIFEST: manifest, **{n: self._whole(user, s) for n, s in _named(manifest).items()}}
        size_bytes = sum(file.stat().st_size for file in files.values())
        kept = self._path(InputKind.BUNDLE, sha256)
        if not kept.exists():
            with whole_folder(kept) as partial:
                for name, file in files.items():
                    os.link(file, partial / name)
                check(InputKind.BUNDLE, partial, size_bytes, self._settings.max_data_bytes)
        return self._add(user, sha256, InputKind.BUNDLE, size_bytes, files.values())

    def _keep_data(self, user: str, sha256: str) -> Input:
        if known := self.inputs.get(user, sha256):
            return known
        file = self._whole(user, sha256)
        kind, size_bytes = self._keep(file, sha256), file.stat().st_size
        return self._add(user, sha256, kind, size_bytes, [file])

    def _add(self, user: str, sha256: str, kind: InputKind, size_bytes: int, sent: Iterable[Path]) -> Input:
        """Note what a user has brought; what was sent for it has become that."""
        added = self.inputs.add(user, sha256, kind, size_bytes)
        for file in sent:
            self.incoming.remove(user, file.name)
        return added

    def _forget(self, user: str, sha256: str) -> None:
        found = self.inputs.get(user, sha256)
        if self.inputs.remove(user, sha256) or found is None:
            return
        path = self._path(found.kind, sha256)
        if str(path) not in [source.path for source in self.sources.all().values()]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _register(self, name: str, location: str) -> Source:
        path = self._fetched(location) if "://" in location else Path(location)
        if not path.is_absolute() or not path.exists():
            raise RequestError(f"{location!r} is no path from the root to something that is here, and no URL")
        self.sources.put(name, location, str(path))
        return self.sources.all()[name]

    def _fetched(self, location: str) -> Path:
        """Fetch a file, so that it stays what it is, whatever becomes of its source."""
        self._data.mkdir(parents=True, exist_ok=True)
        partial = self._data / f".{secrets.token_hex(8)}"
        try:
            _fetch(location, partial, self._settings.max_upload_bytes)
            sha256 = file_sha256(partial)
            return self._path(self._keep(partial, sha256), sha256)
        finally:
            partial.unlink(missing_ok=True)

    def _keep(self, file: Path, sha256: str) -> InputKind:
        """Check a file of data, and store it."""
        kind = kind_of(file)
        kept = self._path(kind, sha256)
        if not kept.exists():
            check(kind, file, file.stat().st_size, self._settings.max_data_bytes)
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, kept)
        return kind

    def _whole(self, user: str, sha256: str) -> Path:
        if found := self.incoming.whole(user, sha256):
            return found
        raise NotFoundError(f"the file {sha256[:12]}… is not here, or not all of it; send it first")

    def _path(self, kind: InputKind, sha256: str) -> Path:
        return self._bundles / sha256 if kind is InputKind.BUNDLE else self._data / f"{sha256}.{kind}"


def _fetch(location: str, path: Path, most_bytes: int) -> None:
    try:
        with fsspec.open(location, "rb") as source, path.open("xb") as file:
            while file.tell() <= most_bytes and (piece := source.read(2**20)):
                file.write(piece)
    except Exception as error:  # each kind of storage has its own
        reason = str(error) or type(error).__name__
        raise RequestError(f"{location!r} cannot be fetched ({reason}); check it, and try again") from None
    if path.stat().st_size > most_bytes:
        raise RequestError(f"{location!r} is larger than {most_bytes} bytes, which a file may have")


def _named(manifest: Path) -> dict[str, str]:
    """The sha256 of each file that a manifest names."""
    try:
        with manifest.open("rb") as file:
            named = parse_json(file.read(MAX_MANIFEST_BYTES))["sha256"]
        found = {name: named[name] for name in MODEL}
        if all(_SHA256.fullmatch(sha256) for sha256 in found.values()):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise RequestError(
        "this is no manifest of a bundle: it gives no sha256 of each of its files; export it again"
    )
