"""One port, many languages: each datagram is taken for what it is, or for nothing."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from shadowmesh.dataplane.packets import Sort, sort_of
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.protocol import noise, relay, stun
from shadowmesh.protocol.disco import DiscoBox, Ping

PRIVATE = noise.generate_private_key()
STATIC = noise.StaticKeys(PRIVATE)
INITIATION = noise.Initiation.create(STATIC, STATIC.public, 1, noise.tai64n(0)).message
RESPONSE, _ = noise.ReceivedInitiation.open(STATIC, INITIATION).respond(2, noise.NO_PSK)
PREFIX = relay.frame_prefix(NetworkID.of(Secret(b"k" * 32)), IPv4Address("100.64.0.1"), IPv4Address("100.64.0.2"))
KEEPALIVE = b"\x04\x00\x00\x00" + bytes(28)

CASES = {
    "initiation": (INITIATION, Sort.INITIATION),
    "response": (RESPONSE, Sort.RESPONSE),
    "cookie reply": (b"\x03\x00\x00\x00" + bytes(60), Sort.COOKIE_REPLY),
    "keepalive": (KEEPALIVE, Sort.TRANSPORT),
    "disco": (DiscoBox(PRIVATE, STATIC.public).seal(Ping(bytes(12))), Sort.DISCO),
    "relay frame": (PREFIX + KEEPALIVE, Sort.FRAME),
    "relay control": (b"SM\x01\x03\x07" + bytes(8), Sort.RELAY_CONTROL),
    "stun": (stun.binding_request(bytes(12)), Sort.STUN),
}


@pytest.mark.parametrize("name", CASES)
def test_each_language_is_recognised(name: str) -> None:
    data, sort = CASES[name]
    assert sort_of(data) is sort


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x01", INITIATION[:-1], INITIATION + b"\x00", RESPONSE[:-1], KEEPALIVE[:-1], b"\x04\x00\x00\x01" + bytes(28),
        b"SM\x01\x04" + bytes(100), b"SM\x02\x01" + bytes(100), b"\x00\x01\x00\x00" + bytes(16), b"\xff" * 64,
    ],
    ids=lambda data: f"{len(data)} bytes of {data[:4].hex()}",  # handshakes are random, test names mustn't be
)  # fmt: skip
def test_what_is_nearly_one_is_none(data: bytes) -> None:
    assert sort_of(data) is Sort.UNKNOWN
