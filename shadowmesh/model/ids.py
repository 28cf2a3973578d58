"""Identifiers of managed things: a prefix, `_`, and 20 characters of base32 (100 random bits)."""

from __future__ import annotations

import base64
import re
import secrets
from typing import NewType

NetworkRef = NewType("NetworkRef", str)  # net_…: a network as REST names it (NetworkID is its cryptographic id)
ClientID = NewType("ClientID", str)  # cli_…
UserID = NewType("UserID", str)  # usr_…
RelayID = NewType("RelayID", str)  # rly_…
InviteID = NewType("InviteID", str)  # inv_…

DEVICE_ID_LENGTH = 20  # characters of base32: 100 bits of the key
ID_PREFIXES = ("net", "cli", "usr", "rly", "inv", "key", "rtk", "dev", "ses", "uin", "grp", "whk", "slg")
_ID = re.compile(r"[a-z]{2,5}_[a-z0-9]{1,40}\Z")


def new_id(prefix: str) -> str:
    """A fresh random identifier: `new_id("cli")` → `cli_…`."""
    return f"{prefix}_{base64.b32encode(secrets.token_bytes(13)).decode().lower().rstrip('=')[:20]}"


def device_id(key: bytes) -> str:
    """`dev_` and the beginning of the device's public key."""
    return "dev_" + base64.b32encode(key).decode().lower()[:DEVICE_ID_LENGTH]


def like_id(name: str) -> bool:
    """Whether a name could be taken for an identifier of whatever kind."""
    prefix, found, _ = name.lower().partition("_")
    return bool(found) and prefix in ID_PREFIXES


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the form of an identifier with this prefix."""
    return bool(_ID.match(text)) and text.startswith(prefix + "_")
