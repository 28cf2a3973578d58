"""Passwords: argon2id hashes of ours, and bcrypt and scrypt ones of those who came from elsewhere.

A hash takes CPU and memory on purpose, so strangers must not have as many made as they like: `PasswordWorker` makes one at a time,
in turns for those who wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from shadowmesh.controller.service.limits import TooMany
from shadowmesh.model.userpasswords import scheme_of, scrypt_parts

T = TypeVar("T")

_WAITING_OF_ONE, _WAITING = 8, 512  # requests of one source, and of all


@cache
def _hasher() -> Any:
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)  # OWASP's recommendation


def hash_password(password: str) -> str:
    """Takes some 20 ms of CPU, on purpose."""
    return str(_hasher().hash(password))


def verify_password(stored: str, password: str) -> bool:
    try:
        scheme = scheme_of(stored)
    except ValueError:  # written into the database by whomever
        return False
    match scheme:
        case "bcrypt":
            import bcrypt

            # Systems that use it cut passwords off at 72 bytes; the library leaves that to us.
            return bcrypt.checkpw(password.encode()[:72], stored.encode())
        case "scrypt":
            n, r, p, salt, digest = scrypt_parts(stored)
            found = hashlib.scrypt(
                password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r + 2**20, dklen=len(digest)
            )
            return hmac.compare_digest(found, digest)
        case "argon2id":
            from argon2.exceptions import Argon2Error, InvalidHashError

            try:
                return bool(_hasher().verify(stored, password))
            except (Argon2Error, InvalidHashError):
                return False


def is_outdated(stored: str) -> bool:
    """Whether it was made in another way than ours, and should be made anew when the password is known."""
    return scheme_of(stored) != "argon2id" or bool(_hasher().check_needs_rehash(stored))


@cache
def nobodys_hash() -> str:
    """Checked where there is no such user: an unknown address takes as long as a wrong password."""
    return hash_password(secrets.token_urlsafe())


class PasswordWorker:
    """Runs what takes long beside the event loop, one thing at a time; sources that wait have their turns, one after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "passwords")
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._count = 0
        self._busy = False

    async def run(self, source: str, work: Callable[[], T], *, known: bool = False) -> T:
        """What `work` returns. Raises TooMany where too many wait already, of this source or in all.

        `known`: who asks has signed in before, and goes before strangers.
        """
        if self._busy:
            mine = self._waiting.setdefault(source, deque())
            if len(mine) >= _WAITING_OF_ONE or (self._count >= _WAITING and not known):
                if not mine:
                    del self._waiting[source]
                raise TooMany(1.0)
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            mine.append(turn)
            self._count += 1
            if known:
                self._waiting.move_to_end(source, last=False)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()  # it was its turn just now
                raise
        self._busy = True
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._next()

    def _next(self) -> None:
        """Wakes the first of the source whose turn it is; it goes on as if it were busy all the time."""
        while self._waiting:
            source, mine = self._waiting.popitem(last=False)
            turn = mine.popleft()
            self._count -= 1
            if mine:
                self._waiting[source] = mine  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False

    def close(self) -> None:
        self._thread.shutdown(wait=False)
