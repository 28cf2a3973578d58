"""The relay token: what a controller vouches for towards its relays, held by one client for one network.

Text form: `smt1_` and base64url (no padding) of Ed25519 signature 64 ‖ canonical JSON of the body. It is no bearer
token: a relay wants the named device key's signature with it (`protocol.relay.make_proof`).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
from collections.abc import Iterable
from typing import Annotated

import msgspec

from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SigningPublicKey
from shadowmesh.protocol.relay import MAX_TOKEN, Refusal
from shadowmesh.protocol.signing import SIGNATURE_SIZE, Context, Signer, verify

PREFIX = "smt1_"
RENEW_AFTER = 15 * 60.0  # seconds from issue, by default
OFFLINE_GRACE = 30 * 86400.0  # seconds from issue until a token is worth nothing, by default


class RelayLimits(Struct, frozen=True, kw_only=True):
    """What one session may use. `kbit`: what it sends through the relay, in kbit/s; 0: as much as there is.

    `network_kbit`: what all sessions of its network at one relay send together; where their tokens differ, the least.
    """

    kbit: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = 0
    network_kbit: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = 0


class RelayTokenBody(Struct, frozen=True, kw_only=True):
    """Times are Unix seconds by the controller's clock. `issued` also orders the tokens of one (network_id, ip).

    `client_id` is the membership that the token is for: when that ends the token is void, whenever it was issued.
    """

    device_key: DevicePublicKey
    client_id: ClientID = ClientID("")
    network_id: NetworkID
    ip: ipaddress.IPv4Address  # the node's IPv4 overlay address: its id on relays
    issued: float
    renew_after: float  # a relay that hears its controller wants a newer one from then on
    valid_until: float  # no relay accepts it after this
    limits: RelayLimits = RelayLimits()


class TokenError(Exception):
    """A token that reads well but doesn't count; `code` is what to tell the client."""

    def __init__(self, code: Refusal) -> None:
        super().__init__(code.name.lower())
        self.code = code


def sign_token(body: RelayTokenBody, signer: Signer) -> str:
    """The token's text, signed by one of the controller's signing keys."""
    raw = to_json(body)
    packed = signer.sign(Context.RELAY_TOKEN, raw) + raw
    return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _split(text: str) -> tuple[bytes, bytes]:
    if not text.startswith(PREFIX) or len(text) > MAX_TOKEN:
        raise MalformedError(f"a relay token starts with {PREFIX} and has at most {MAX_TOKEN} characters")
    packed = text[len(PREFIX) :]
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as e:
        raise MalformedError("a relay token is damaged or cut off") from e
    if len(raw) <= SIGNATURE_SIZE:
        raise MalformedError("a relay token is damaged or cut off")
    return raw[:SIGNATURE_SIZE], raw[SIGNATURE_SIZE:]


def _parse_body(raw: bytes) -> RelayTokenBody:
    body = from_json(raw, RelayTokenBody)
    if not all(map(math.isfinite, (body.issued, body.renew_after, body.valid_until))):
        raise MalformedError("a relay token's times are no times")
    return body


def read_token(text: str) -> RelayTokenBody:
    """What a token says, unverified: for its holder, who got it from the controller. Raises MalformedError."""
    return _parse_body(_split(text)[1])


def verify_token(text: str, keys: Iterable[SigningPublicKey], wall: float) -> RelayTokenBody:
    """The body, if one of `keys` signed it and `wall` (the controller's time) is before `valid_until`.

    Raises MalformedError if it is no token, TokenError (BAD_SIGNATURE, EXPIRED) if it doesn't count. Whether it is
    past `renew_after` or revoked is for the relay to judge.
    """
    signature, raw = _split(text)
    if not any(verify(key, Context.RELAY_TOKEN, raw, signature) for key in keys):
        raise TokenError(Refusal.BAD_SIGNATURE)
    body = _parse_body(raw)
    if wall >= body.valid_until:
        raise TokenError(Refusal.EXPIRED)
    return body
