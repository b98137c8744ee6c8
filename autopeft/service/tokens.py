"""Tokens: who may do what. Only their digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Literal, get_args

import sqlalchemy as sql

from autopeft.errors import InputError, UnknownNameError
from autopeft.message import Message
from autopeft.service.database import TOKENS, Database

Scope = Literal["read", "submit", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Each may do what those before it may."""

_TOKEN = re.compile(r"autopeft_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,99}")

DAY = 86_400.0
LONGEST_SECONDS = 36_500 * DAY
"""After so long a token may expire; one that is to be good for longer expires never."""


class TokenFacts(Message):
    """A token without its secret.

    Attributes:
        id: names it, in lists and for its revocation.   user: who has it; may have several.
        created, expires, revoked: seconds since 1970; None is never.
    """

    id: str
    user: str
    scope: Scope
    created: float
    expires: float | None = None
    revoked: float | None = None


class Caller(Message):
    """Who makes a request, and what it may do."""

    user: str
    scope: Scope
    token: str | None = None

    def may(self, scope: Scope) -> bool:
        """Say whether a scope is granted."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class Tokens:
    """The tokens of a service."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, user: str, scope: Scope, *, seconds: float | None = None) -> tuple[TokenFacts, str]:
        """Make a token; its text is returned this once and kept nowhere.

        Args:
            user: who it is for.   scope: what it grants.   seconds: how long it is good for; None: for ever.

        Raises:
            InputError: the user's name cannot be one, or the time is longer than `LONGEST_SECONDS`.
        """
        if not _NAME.fullmatch(user):
            raise InputError(f"a user's name must be letters, digits, and @ . _ -, but got {user!r}.")
        if seconds is not None and seconds > LONGEST_SECONDS:
            days, most = seconds / DAY, LONGEST_SECONDS / DAY
            raise InputError(
                f"a token may expire after {most:,.0f}d at most, but got {days:,.0f}d; "
                "without --expires it is good until it is revoked."
            )
        number, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        with self._database.writing() as connection:
            now = self._database.now(connection)
            row = {
                "id": number,
                "name": user,
                "digest": _digest(secret),
                "scope": scope,
                "created": now,
                "expires": None if seconds is None else now + seconds,
                "revoked": None,
            }
            connection.execute(TOKENS.insert().values(row))
        return _facts(row), f"autopeft_{number}_{secret}"

    def find(self, text: str) -> Caller | None:
        """Return who has a token; None where it is none, is revoked or has expired."""
        parts = _TOKEN.fullmatch(text)
        if parts is None:
            return None
        with self._database.reading() as connection:
            row = connection.execute(sql.select(TOKENS).where(TOKENS.c.id == parts[1])).mappings().first()
            now = self._database.now(connection)
        if row is None or not hmac.compare_digest(row["digest"], _digest(parts[2])):
            return None
        if row["revoked"] is not None or (row["expires"] is not None and row["expires"] <= now):
            return None
        return Caller(user=row["name"], scope=row["scope"], token=row["id"])

    def list(self) -> tuple[TokenFacts, ...]:
        """Return all tokens, without their secrets."""
        with self._database.reading() as connection:
            rows = connection.execute(sql.select(TOKENS).order_by(TOKENS.c.created)).mappings()
            return tuple(_facts(dict(row)) for row in rows)

    def revoke(self, number: str) -> TokenFacts:
        """Make a token good for nothing.

        Raises:
            UnknownNameError: there is none of that id.
        """
        with self._database.writing() as connection:
            now = self._database.now(connection)
            change = TOKENS.update().where(TOKENS.c.id == number, TOKENS.c.revoked.is_(None))
            connection.execute(change.values(revoked=now))
        found = {each.id: each for each in self.list()}
        if number not in found:
            raise UnknownNameError("token", number, found, "`autopeft token list` shows them.")
        return found[number]


def _digest(secret: str) -> str:
    """Hash a secret; it is 256 random bits, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _facts(row: dict[str, object]) -> TokenFacts:
    return TokenFacts.model_validate(
        {name: row[name] for name in ("id", "scope", "created", "expires", "revoked")} | {"user": row["name"]}
    )
