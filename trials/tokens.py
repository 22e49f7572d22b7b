"""Tokens of the service, and a browser's sessions that stand for one, in the store.

Only their hashes: whoever reads the store can be nobody by it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Float, ForeignKey, String, Table, delete, insert, select, update
from sqlalchemy.engine import Row

from trials.database import Database, metadata

_tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("user", String, nullable=False),
    Column("role", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float, nullable=False),
    Column("revoked_s", Float),
)

_sessions = Table(
    "sessions",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("token", ForeignKey("tokens.id"), nullable=False),
    Column("expires_s", Float, nullable=False),
)

SESSION_S = 12 * 3600.0
_TEXT = re.compile(r"[0-9a-f]{8}\.[A-Za-z0-9_-]{43}")


class Role(StrEnum):
    """What a token is good for: an AGENT measures, a VIEWER looks, a SUBMITTER asks, an ADMIN does all."""

    AGENT = "agent"
    VIEWER = "viewer"
    SUBMITTER = "submitter"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token without its secret. Times in seconds since the epoch.

    What is done with it is its user's, who may have several.
    """

    id: str
    user: str
    role: Role
    created_s: float
    expires_s: float
    revoked_s: float | None

    def holds(self) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_s is None and time.time() < self.expires_s


class Tokens:
    """All tokens of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def make(self, user: str, role: Role, lifetime_s: float) -> tuple[Token, str]:
        """Make a token; the text, 256 random bits behind the id, is nowhere but in the answer."""
        secret, now_s = secrets.token_urlsafe(32), time.time()
        token = Token(
            id=secrets.token_hex(4),
            user=user,
            role=role,
            created_s=now_s,
            expires_s=now_s + lifetime_s,
            revoked_s=None,
        )
        with self._database.writing() as connection:
            connection.execute(insert(_tokens), {**asdict(token), "sha256": _hash(secret)})
        return token, f"{token.id}.{secret}"

    def check(self, text: str) -> Token | None:
        """Return the token of that text if it is good now. Secrets are compared in constant time."""
        if not _TEXT.fullmatch(text):
            return None
        id_, _, secret = text.partition(".")
        with self._database.reading() as connection:
            row = connection.execute(select(_tokens).where(_tokens.c.id == id_)).one_or_none()
        matches = hmac.compare_digest(row.sha256 if row else "", _hash(secret))
        token = _token(row) if row and matches else None
        return token if token and token.holds() else None

    def hold(self, token: Token) -> bool:
        """Whether a token that was good a moment ago is good now."""
        this = select(_tokens.c.revoked_s).where(_tokens.c.id == token.id)
        with self._database.reading() as connection:
            return connection.execute(this).scalar_one_or_none() is None and token.holds()

    def all(self) -> list[Token]:
        """Return every token that was ever made, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_tokens).order_by(_tokens.c.created_s)).all()
        return [_token(row) for row in rows]

    def revoke(self, id_: str) -> bool:
        """End a token now; False where there is none of that id. One that is revoked stays so."""
        first = (_tokens.c.id == id_) & _tokens.c.revoked_s.is_(None)
        with self._database.writing() as connection:
            connection.execute(update(_tokens).where(first).values(revoked_s=time.time()))
            return connection.execute(select(_tokens.c.id).where(_tokens.c.id == id_)).first() is not None


class Sessions:
    """What a browser has in place of a token, which it could not keep from its pages' scripts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, token: Token) -> str:
        """Begin a session of `SESSION_S` and return its text, 256 random bits that are nowhere else."""
        text, now_s = secrets.token_urlsafe(32), time.time()
        row = {"sha256": _hash(text), "token": token.id, "expires_s": now_s + SESSION_S}
        with self._database.writing() as connection:
            connection.execute(delete(_sessions).where(_sessions.c.expires_s < now_s))
            connection.execute(insert(_sessions), row)
        return text

    def check(self, text: str) -> Token | None:
        """Return the token that a session stands for, if both are good now."""
        this = (_sessions.c.sha256 == _hash(text)) & (_sessions.c.expires_s > time.time())
        with self._database.reading() as connection:
            row = connection.execute(select(_tokens).join(_sessions).where(this)).one_or_none()
        token = _token(row) if row else None
        return token if token and token.holds() else None

    def end(self, text: str) -> None:
        with self._database.writing() as connection:
            connection.execute(delete(_sessions).where(_sessions.c.sha256 == _hash(text)))


def _token(row: Row[Any]) -> Token:
    fields = {key: getattr(row, key) for key in Token.__slots__}
    return Token(**{**fields, "role": Role(row.role)})


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
