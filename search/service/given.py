"""What a route may ask for: who calls, as a token whose role allows it, and the store.

What gives these does nothing that takes time and is async, so that it needs no thread: each would cost a call
as much as its work in the database.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi import Path as InPath

from hwprofiles.wire import NAME
from search.service.auth import needs
from search.settings import Settings
from trials.quotas import Quotas
from trials.store import Store
from trials.tokens import Role, Token

# Who calls. An admin may do what any other may.
Admin = Annotated[Token, Depends(needs())]
Submitter = Annotated[Token, Depends(needs(Role.SUBMITTER))]
Viewer = Annotated[Token, Depends(needs(Role.VIEWER, Role.SUBMITTER))]
"""Whoever may look: viewers, and all who may do more."""
Agent = Annotated[Token, Depends(needs(Role.AGENT))]
Anybody = Annotated[Token, Depends(needs(*Role))]
"""Whoever has a token."""
AgentOrSubmitter = Annotated[Token, Depends(needs(Role.AGENT, Role.SUBMITTER))]


async def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


async def _quotas(request: Request) -> Quotas:
    quotas: Quotas = request.app.state.quotas
    return quotas


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


TheStore = Annotated[Store, Depends(_store)]
TheQuotas = Annotated[Quotas, Depends(_quotas)]
TheSettings = Annotated[Settings, Depends(_settings)]
NameInPath = Annotated[str, InPath(pattern=NAME)]
