"""One port, many languages: each datagram goes to the one it is for, or nowhere."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.pump import Kind
from shadowmesh.protocol import noise, stun
from shadowmesh.protocol.cookies import CookieChecker
from shadowmesh.protocol.demux import Family, classify
from shadowmesh.protocol.disco import DiscoBox, Ping
from shadowmesh.protocol.relay import frame_prefix

PRIVATE = noise.generate_private_key()
STATIC = noise.StaticKeys(PRIVATE)
INITIATION = noise.Initiation.create(STATIC, STATIC.public, 1, noise.tai64n(0)).message
RESPONSE, _ = noise.ReceivedInitiation.open(STATIC, INITIATION).respond(2, noise.NO_PSK)
PREFIX = frame_prefix(NetworkID.of(Secret(b"k" * 32)), IPv4Address("100.64.0.1"), IPv4Address("100.64.0.2"))
KEEPALIVE = b"\x04\x00\x00\x00" + bytes(28)

CASES = {
    "initiation": (INITIATION, Family.HANDSHAKE, Kind.HANDSHAKE),
    "response": (RESPONSE, Family.HANDSHAKE, Kind.HANDSHAKE),
    "cookie reply": (b"\x03\x00\x00\x00" + bytes(60), Family.HANDSHAKE, Kind.HANDSHAKE),
    "keepalive": (KEEPALIVE, Family.TRANSPORT, None),
    "disco": (DiscoBox(PRIVATE, STATIC.public).seal(Ping(bytes(12))), Family.DISCO, Kind.DISCO),
    "relay frame": (PREFIX + KEEPALIVE, Family.RELAY_FRAME, None),
    "relay control": (b"SM\x01\x03\x07" + bytes(8), Family.RELAY_CONTROL, Kind.RELAY_CONTROL),
    "stun": (stun.binding_request(bytes(12)), Family.STUN, Kind.STUN),
}


@pytest.mark.parametrize("name", CASES)
def test_each_language_is_recognised(name: str) -> None:
    data, family, kind = CASES[name]
    assert classify(data) is family
    assert classify(data).kind is kind


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        INITIATION[:-1],
        INITIATION + b"\x00",
        RESPONSE[:-1],
        KEEPALIVE[:-1],
        b"\x04\x00\x00\x01" + bytes(28),
        b"SM\x01\x04" + bytes(100),
        b"SM\x02\x01" + bytes(100),
        PREFIX,
        b"SM\x01\x03",
        stun.binding_request(bytes(12))[:-1],
        b"\x00\x01\x00\x00" + bytes(16),
    ],
    ids=lambda data: f"{len(data)} bytes of {data[:4].hex()}",  # handshakes are random, test names mustn't be
)
def test_what_is_none_of_them_is_dropped(data: bytes) -> None:
    assert classify(data) is Family.DROP
    assert classify(data).kind is None


@given(st.binary(max_size=200))
def test_any_bytes_have_a_family(data: bytes) -> None:
    assert classify(data) in Family


@given(st.sampled_from(sorted(CASES)), st.integers(0, 147))
def test_no_prefix_of_a_handshake_is_one(name: str, cut: int) -> None:
    data = CASES[name][0][:cut]
    if classify(data) is Family.HANDSHAKE:
        assert noise.message_type(data) <= noise.COOKIE_REPLY


def test_a_cookie_reply_as_made_is_a_handshake_message() -> None:
    from shadowmesh.model.addresses import SockAddr
    from shadowmesh.model.clock import Now

    reply = CookieChecker(STATIC.public).reply(INITIATION, SockAddr("192.0.2.1", 1), Now(0, 0))
    assert classify(reply) is Family.HANDSHAKE
