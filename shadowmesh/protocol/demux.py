"""What a datagram on the one UDP port is, by its first bytes.

| first bytes | size | family |
|---|---|---|
| `01 00 00 00` | 148 | WireGuard initiation |
| `02 00 00 00` | 92 | WireGuard response |
| `03 00 00 00` | 64 | WireGuard cookie reply |
| `04 00 00 00` | ≥ 32 | WireGuard transport |
| `53 4D 01 01` | > 76 | disco |
| `53 4D 01 02` | ≥ 60 | relay frame; what is inside is classified again |
| `53 4D 01 03` | > 4 | relay control |
| two zero bits, at byte 4 the magic cookie | 20 + length | STUN |

All else is dropped and counted. RFC 3489 requests without a cookie are for servers only: those offer what is dropped
here to `StunServer.answer`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from shadowmesh.model.pump import Kind
from shadowmesh.protocol import relay
from shadowmesh.protocol.disco import is_disco
from shadowmesh.protocol.noise import COOKIE_REPLY_SIZE, INITIATION_SIZE, RESPONSE_SIZE, TRANSPORT_OVERHEAD
from shadowmesh.protocol.stun import is_stun


class Family(IntEnum):
    """What a datagram is. Those that go up to the engine have the numbers of `model.pump.Kind`."""

    DROP = 0
    HANDSHAKE = Kind.HANDSHAKE
    DISCO = Kind.DISCO
    STUN = Kind.STUN
    RELAY_CONTROL = Kind.RELAY_CONTROL
    TRANSPORT = 5
    RELAY_FRAME = 6

    @property
    def kind(self) -> Kind | None:
        """The kind under which it goes up to the engine, None when it doesn't."""
        return Kind(self) if Family.DROP < self < Family.TRANSPORT else None


_HANDSHAKES: Final = {
    (b"\x01\x00\x00\x00", INITIATION_SIZE),
    (b"\x02\x00\x00\x00", RESPONSE_SIZE),
    (b"\x03\x00\x00\x00", COOKIE_REPLY_SIZE),
}
_TRANSPORT: Final = b"\x04\x00\x00\x00"


def classify(data: bytes) -> Family:
    """The family of a datagram, by its first bytes and its size; no cryptography, never an error."""
    head, size = data[:4], len(data)
    if head == _TRANSPORT:
        return Family.TRANSPORT if size >= TRANSPORT_OVERHEAD else Family.DROP
    if head == relay.FRAME_HEADER:
        return Family.RELAY_FRAME if size >= relay.MIN_FRAME else Family.DROP
    if (head, size) in _HANDSHAKES:
        return Family.HANDSHAKE
    if is_disco(data):
        return Family.DISCO
    if relay.is_control(data):
        return Family.RELAY_CONTROL
    return Family.STUN if is_stun(data) else Family.DROP
