"""Passwords of people: ones made here, and hashes that another system made of its own.

A hash names what it costs to check, so a hostile one could keep a controller busy for hours. Which ones may be imported is
bounded here: some 128 MiB of memory and a second of CPU.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from typing import Literal

Scheme = Literal["argon2id", "bcrypt", "scrypt"]

_BASE64 = r"[A-Za-z0-9+/.]"  # without padding; some write a dot for the plus
_ARGON2ID = re.compile(
    rf"\$argon2id\$v=19\$m=([0-9]{{1,7}}),t=([0-9]{{1,3}}),p=([0-9]{{1,3}})\$({_BASE64}{{11,86}})\$({_BASE64}{{22,86}})"
)
_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_SCRYPT = re.compile(
    rf"\$scrypt\$ln=([0-9]{{1,2}}),r=([0-9]{{1,2}}),p=([0-9]{{1,3}})\$({_BASE64}{{11,86}})\$({_BASE64}{{22,86}})"
)
_MOST_KIB = 128 * 1024
_ALPHABET = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def generated_password() -> str:
    """16 characters, 92 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(16))


def scheme_of(stored: str) -> Scheme:
    """How this hash was made. Raises ValueError, which says why it can't be taken and never what it is."""
    if found := _ARGON2ID.fullmatch(stored):
        memory, passes, lanes = map(int, found.groups()[:3])
        if not (1 <= lanes <= 16 and 8 * lanes <= memory and passes >= 1):
            raise ValueError("has parameters that argon2id doesn't take")
        if memory > _MOST_KIB or memory * passes > 4 * _MOST_KIB:
            raise ValueError("costs too much to check (m is at most 131072, m times t at most 524288)")
        for part in found.groups()[3:]:
            decoded(part)
        return "argon2id"
    if found := _BCRYPT.fullmatch(stored):
        if not 4 <= int(found[1]) <= 14:
            raise ValueError("has a cost that isn't 4 to 14")
        return "bcrypt"
    if found := _SCRYPT.fullmatch(stored):
        log_n, r, p, salt, digest = found.groups()
        cost = (1 << int(log_n)) * int(r)  # in units of 128 bytes
        if not (int(log_n) and int(r) and int(p)):
            raise ValueError("has parameters that scrypt doesn't take")
        if cost > 8 * _MOST_KIB or cost * int(p) > 16 * _MOST_KIB:
            raise ValueError("costs too much to check (2^ln times r is at most 2^20, times p at most 2^21)")
        decoded(salt)
        decoded(digest)
        return "scrypt"
    raise ValueError("is no hash of argon2id ($argon2id$v=19$…), bcrypt ($2b$…) or scrypt ($scrypt$ln=…,r=…,p=…$…)")


def scrypt_parts(stored: str) -> tuple[int, int, int, bytes, bytes]:
    """n, r, p, salt and digest of a hash whose `scheme_of` is scrypt."""
    found = _SCRYPT.fullmatch(stored)
    assert found is not None
    return 1 << int(found[1]), int(found[2]), int(found[3]), decoded(found[4]), decoded(found[5])


def decoded(text: str) -> bytes:
    """Base64 as hashes have it. Raises ValueError."""
    try:
        return base64.b64decode(text.replace(".", "+") + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as e:
        raise ValueError("has a part that isn't base64") from e
