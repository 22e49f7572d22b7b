"""The routes of what jobs are made of: files are sent in parts, and are made bundles or data; sources."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, HTTPException, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from hwprofiles.errors import NotFoundError, RequestError
from hwprofiles.wire import API, Message, Sha256
from search.service.brought import Brought
from search.service.given import Admin, NameInPath, Submitter, TheQuotas, TheSettings, Viewer
from search.service.limits import FILE, PlainJson, links
from trials.checking import InputKind, kind_of
from trials.inputs import Input
from trials.quotas import Quotas
from trials.tokens import Role

RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


async def _brought(request: Request) -> Brought:
    brought: Brought = request.app.state.brought
    return brought


TheBrought = Annotated[Brought, Depends(_brought)]
ContentRange = Annotated[str, Header(alias="Content-Range", pattern=f"^{RANGE.pattern}$")]

router = APIRouter(prefix=API, route_class=PlainJson)


class Upload(Message):
    """How much of a file is here; when it is whole, it is also what its sha256 says."""

    size_bytes: int
    whole: bool


class SourceRequest(Message):
    """Data to be registered: a path of the server, or a URL that fsspec knows."""

    location: Annotated[str, Field(min_length=1, max_length=1000)]


class SourceShown(Message):
    """A source; where it is from is the admins' business.

    `kind` is how a job's `data.source` names it; None of what is gone or cannot be read.
    """

    name: str
    kind: Literal["npz", "parquet", "folder"] | None
    created_s: float
    location: str | None


@router.get("/uploads/{sha256}")
def show_upload(caller: Submitter, sha256: Sha256, brought: TheBrought) -> Upload:
    """Where the next part shall begin."""
    return _shown(brought, caller.user, sha256)


_SENT = {
    "description": "How much of it is here",
    **links("sha256", "$request.path.sha256", "show_upload", "put_data", "put_bundle", "remove_upload"),
}
_MADE = {
    "description": "What it has become",
    **links("sha256", "$response.body#/sha256", "show_input", "remove_input"),
}


@router.put("/uploads/{sha256}", openapi_extra=FILE, responses={200: _SENT})
async def put_part(
    caller: Submitter,
    sha256: Sha256,
    part: ContentRange,
    request: Request,
    brought: TheBrought,
    settings: TheSettings,
    quotas: TheQuotas,
) -> Upload:
    """Take a part of a file, up to which all is here. Of a file that is whole every part has come already."""
    found = RANGE.fullmatch(part)
    first, last, total = map(int, found.groups()) if found else (0, 0, 0)
    if not first <= last < total:
        raise HTTPException(
            422, f"Content-Range {part!r} is no part of a file; give `bytes FIRST-LAST/TOTAL`"
        )
    if total > settings.max_upload_bytes:
        raise HTTPException(413, f"a file may have {settings.max_upload_bytes} bytes; this one has {total}")
    await run_in_threadpool(_check_quota, brought, quotas, caller.user, sha256, total)
    await brought.incoming.append(
        caller.user, sha256, request.stream(), first=first, size=last - first + 1, total=total
    )
    return _shown(brought, caller.user, sha256)


@router.delete("/uploads/{sha256}", status_code=204)
def remove_upload(caller: Submitter, sha256: Sha256, brought: TheBrought) -> None:
    """Give up a file that nothing was made of."""
    if not brought.incoming.remove(caller.user, sha256):
        raise NotFoundError(f"nothing of the file {sha256[:12]}… is here")


@router.put("/bundles/{sha256}", responses={200: _MADE})
async def put_bundle(caller: Submitter, sha256: Sha256, brought: TheBrought) -> Input:
    """Make a bundle of what was sent: the manifest of this sha256, and the files that it names."""
    return await brought.keep_bundle(caller.user, sha256)


@router.put("/data/{sha256}", responses={200: _MADE})
async def put_data(caller: Submitter, sha256: Sha256, brought: TheBrought) -> Input:
    """Make data of the file of this sha256 that was sent: npz, or Parquet."""
    return await brought.keep_data(caller.user, sha256)


@router.get("/inputs")
def list_inputs(caller: Viewer, brought: TheBrought) -> list[Input]:
    """The bundles and data of the caller's user; an admin sees everybody's."""
    return brought.inputs.all(None if caller.role is Role.ADMIN else caller.user)


@router.get("/inputs/{sha256}")
def show_input(caller: Viewer, sha256: Sha256, brought: TheBrought) -> Input:
    """A bundle or data of the caller's user, if it need not be sent again."""
    if found := brought.inputs.get(caller.user, sha256):
        return found
    raise NotFoundError(f"you have brought nothing of sha256 {sha256[:12]}…")


@router.delete("/inputs/{sha256}", status_code=204)
async def remove_input(caller: Submitter, sha256: Sha256, brought: TheBrought) -> None:
    """Forget a bundle or data of the caller's user that none of their jobs needs."""
    await brought.forget(caller.user, sha256)


@router.get("/sources")
def list_sources(caller: Viewer, brought: TheBrought) -> list[SourceShown]:
    admin = caller.role is Role.ADMIN
    return [
        SourceShown(
            name=each.name,
            kind=_kind_of(Path(each.path)),
            created_s=each.created_s,
            location=each.location if admin else None,
        )
        for each in brought.sources.all().values()
    ]


def _kind_of(path: Path) -> Literal["npz", "parquet", "folder"] | None:
    if path.is_dir():
        return "folder"
    with suppress(OSError, RequestError):
        return "parquet" if kind_of(path) is InputKind.PARQUET else "npz"
    return None


@router.put("/sources/{name}", status_code=204)
async def put_source(caller: Admin, name: NameInPath, wanted: SourceRequest, brought: TheBrought) -> None:
    """Register data for everybody; what is at a URL is fetched now."""
    await brought.register(name, wanted.location)


@router.delete("/sources/{name}", status_code=204)
def remove_source(caller: Admin, name: NameInPath, brought: TheBrought) -> None:
    """Forget a source; the data stay, and so do jobs that were made of them."""
    if not brought.sources.remove(name):
        raise NotFoundError(f"there is no source {name!r}")


def _check_quota(brought: Brought, quotas: Quotas, user: str, sha256: str, total: int) -> None:
    """Refuse a file with which a user would keep too much."""
    others = brought.size_bytes(user) - brought.incoming.size_bytes(user, sha256)
    quotas.of(user).check_stored(user, others + total)


def _shown(brought: Brought, user: str, sha256: str) -> Upload:
    whole = brought.incoming.whole(user, sha256) is not None
    return Upload(size_bytes=brought.incoming.size_bytes(user, sha256), whole=whole)
