"""What a route may ask for: who calls, as a token whose role allows it, and the store.

What gives these does nothing that takes time and is async, so that it needs no thread: each would cost a call
as much as its work in the database.
"""

from __future__ import annotations

from typing import Annotated, Any

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


def of_app(name: str) -> Any:
    """What the application keeps under a name, for a route."""

    async def kept(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(kept)


TheStore = Annotated[Store, of_app("store")]
TheQuotas = Annotated[Quotas, of_app("quotas")]
TheSettings = Annotated[Settings, of_app("settings")]
NameInPath = Annotated[str, InPath(pattern=NAME)]
