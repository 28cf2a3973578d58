"""Invites: the long form that carries all a newcomer needs, and the short code that a person can type.

Long form: `smi1_` and base64url (no padding) of canonical JSON {f: fingerprint, i: id, s: secret, u: [controller URLs]}.
The secret has 128 random bits; the controller stores its hash only.
Short code: `name-word-xxxxxx`: a display form, rate-limited by the controller.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets

from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import InviteID
from shadowmesh.model.text import is_safe

PREFIX = "smi1_"
_CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+){2,}\Z")
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}\Z")
_CODE_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # without the letters that look alike


class _Body(Struct, frozen=True, kw_only=True):
    f: str
    i: InviteID
    s: str
    u: tuple[str, ...]


class Invite(Struct, frozen=True, kw_only=True):
    """What an `smi1_…` string says. `secret` is base64url of at least 16 bytes."""

    urls: tuple[str, ...]
    fingerprint: str
    invite_id: InviteID
    secret: str

    def encode(self) -> str:
        body = _Body(f=self.fingerprint, i=self.invite_id, s=self.secret, u=self.urls)
        return PREFIX + base64.urlsafe_b64encode(to_json(body)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Invite:
        """Raises MalformedError."""
        text = text.strip()
        if not text.startswith(PREFIX):
            raise MalformedError("an invite starts with smi1_")
        try:
            packed = text[len(PREFIX) :]
            raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as e:
            raise MalformedError("the invite is damaged or cut off") from e
        try:
            body = from_json(raw, _Body)
        except MalformedError as e:
            raise MalformedError("the invite is damaged or cut off") from e
        if not body.u or not all(u.startswith("https://") and is_safe(u) for u in body.u):
            raise MalformedError("the invite names no https controller URL")
        if not _FINGERPRINT.match(body.f) or len(body.s) < 22:
            raise MalformedError("the invite's fingerprint or secret is damaged")
        return cls(urls=body.u, fingerprint=body.f, invite_id=body.i, secret=body.s)

    def __repr__(self) -> str:
        return f"Invite({self.invite_id}, {self.urls}, ***)"


def new_invite_secret() -> str:
    """128 random bits, base64url."""
    return secrets.token_urlsafe(16)


def new_short_code(network_name: str) -> str:
    """`NAME-xxxx-xxxxxxxx`: NAME is the network's, simplified; the rest 12 random characters (59 bits)."""
    name = re.sub(r"[^a-z0-9]+", "", network_name.lower())[:16] or "net"
    letters = "".join(secrets.choice(_CODE_ALPHABET) for _ in range(12))
    return f"{name}-{letters[:4]}-{letters[4:]}"


def is_fingerprint(text: str) -> bool:
    """`sha256:` and 64 lower-case hex digits."""
    return bool(_FINGERPRINT.match(text))


def is_short_code(text: str) -> bool:
    return bool(_CODE.match(text.strip().lower()))
