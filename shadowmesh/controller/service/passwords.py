"""Passwords: argon2id hashes, and passwords made to be used once."""

from __future__ import annotations

import secrets
from functools import cache
from typing import Any


@cache
def _hasher() -> Any:
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)  # OWASP's recommendation


def hash_password(password: str) -> str:
    """Takes some 20 ms of CPU, on purpose."""
    return str(_hasher().hash(password))


def verify_password(stored: str, password: str) -> bool:
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return bool(_hasher().verify(stored, password))
    except (Argon2Error, InvalidHashError):
        return False


@cache
def nobodys_hash() -> str:
    """Checked where there is no such user: an unknown address takes as long as a wrong password."""
    return hash_password(secrets.token_urlsafe())


def new_password() -> str:
    """To be used once: 16 characters, 95 bits."""
    alphabet = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return "".join(secrets.choice(alphabet) for _ in range(16))
