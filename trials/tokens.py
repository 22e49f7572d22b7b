"""Tokens of the service in the store: only their hashes, so that whoever reads the store can be nobody."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Float, String, Table, insert, select, update

from trials.store import Store, metadata

_tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("role", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float, nullable=False),
    Column("revoked_s", Float),
)


class Role(StrEnum):
    """What a token is good for; ADMIN for everything, tokens included."""

    AGENT = "agent"
    SUBMITTER = "submitter"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token without its secret. Times in seconds since the epoch."""

    id: str
    name: str
    role: Role
    created_s: float
    expires_s: float
    revoked_s: float | None

    def holds(self) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_s is None and time.time() < self.expires_s


class Tokens:
    """All tokens of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def make(self, name: str, role: Role, lifetime_s: float) -> tuple[Token, str]:
        """Make a token; the text, 256 random bits behind the id, is nowhere but in the answer."""
        id_, secret, now_s = secrets.token_hex(4), secrets.token_urlsafe(32), time.time()
        row = {
            "id": id_,
            "name": name,
            "role": role,
            "created_s": now_s,
            "expires_s": now_s + lifetime_s,
            "revoked_s": None,
        }
        with self._store.writing() as connection:
            connection.execute(insert(_tokens), {**row, "sha256": _hash(secret)})
        return self._token(row), f"{id_}.{secret}"

    def check(self, text: str) -> Token | None:
        """Return the token of that text if it is good now. Secrets are compared in constant time."""
        id_, _, secret = text.partition(".")
        with self._store.reading() as connection:
            row = connection.execute(select(_tokens).where(_tokens.c.id == id_)).mappings().one_or_none()
        matches = hmac.compare_digest(row["sha256"] if row else "", _hash(secret))
        token = self._token(dict(row)) if row and matches else None
        return token if token and token.holds() else None

    def all(self) -> list[Token]:
        """Return every token that was ever made, oldest first."""
        with self._store.reading() as connection:
            rows = connection.execute(select(_tokens).order_by(_tokens.c.created_s)).mappings().all()
        return [self._token(dict(row)) for row in rows]

    def revoke(self, id_: str) -> bool:
        """End a token now; False where there is none of that id. One that is revoked stays so."""
        first = (_tokens.c.id == id_) & _tokens.c.revoked_s.is_(None)
        with self._store.writing() as connection:
            connection.execute(update(_tokens).where(first).values(revoked_s=time.time()))
            return connection.execute(select(_tokens.c.id).where(_tokens.c.id == id_)).first() is not None

    @staticmethod
    def _token(row: Mapping[str, Any]) -> Token:
        fields = {key: value for key, value in row.items() if key != "sha256"}
        return Token(**{**fields, "role": Role(row["role"])})


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
