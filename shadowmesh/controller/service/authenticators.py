"""Whether someone is who they say, by a password. The one seam: a directory or an identity provider elsewhere would be
another Authenticator, and neither routes nor sessions would know."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from sqlalchemy.engine import Row

from shadowmesh.controller.service.passwords import (
    PasswordWorker,
    hash_password,
    is_outdated,
    nobodys_hash,
    verify_password,
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """`user` is who has this address, None if nobody has. `known`: they signed in before from where this comes from."""

    email: str
    user: Row[Any] | None
    source: str
    known: bool
    password: str = field(repr=False)

    @property
    def lane(self) -> str:
        """Whose attempts wait for each other."""
        return f"known {self.email}" if self.known else self.source


@dataclass(frozen=True, slots=True)
class Verified:
    """The password was right. `rehashed` is to be stored in place of the hash that it was checked by."""

    rehashed: str | None = field(default=None, repr=False)


class Authenticator(Protocol):
    async def verify(self, attempt: Attempt) -> Verified | None:
        """None: it isn't right, or there is no such user. Raises TooMany where too many wait."""


class LocalPasswords:
    """By the hashes in our own database."""

    def __init__(self) -> None:
        self._worker = PasswordWorker()

    async def verify(self, attempt: Attempt) -> Verified | None:
        """Where there is nobody, or nobody with a password, it takes as long as where a password is wrong."""
        stored = None if attempt.user is None else attempt.user.password_hash
        check = partial(verify_password, stored or nobodys_hash(), attempt.password)
        if not await self._worker.run(attempt.lane, check, known=attempt.known) or stored is None:
            return None
        return Verified(await self.hashed(attempt, attempt.password) if is_outdated(stored) else None)

    async def hashed(self, attempt: Attempt, password: str) -> str:
        """The hash of a new password. Raises TooMany where too many wait."""
        return await self._worker.run(attempt.lane, partial(hash_password, password), known=attempt.known)

    def close(self) -> None:
        self._worker.close()
