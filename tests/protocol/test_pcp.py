"""PCP: requests and answers laid out by hand from RFC 6887, sections 7, 8.5, 9, 11 and 14."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.addresses import IPAddress
from shadowmesh.model.errors import MalformedError
from shadowmesh.protocol.pcp import (
    PcpAnnounce,
    PcpMapping,
    PcpRefused,
    PcpResult,
    PcpVersionRefused,
    announce_request,
    map_request,
    parse_pcp,
    state_lost,
)

NONCE = bytes(range(12))
CLIENT = IPv4Address("192.168.1.2")
CLIENT6 = IPv6Address("2001:db8::2")

HEAD = bytes.fromhex("02 81 00 00 00001c20 00000e10 000000000000000000000000")
BODY = bytes.fromhex("000102030405060708090a0b 11 000000 a029 c350 00000000000000000000ffffcb007109")
MAPPED = HEAD + BODY
ANNOUNCE = bytes.fromhex("02 80 00 00 00000000 00000007 000000000000000000000000")

ports = st.integers(1, 65535)
words = st.integers(0, 2**32 - 1)
addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)


def test_requests_are_laid_out_as_the_rfc_says() -> None:
    asked = map_request(
        CLIENT, NONCE, 41001, suggested_port=50000, suggested_address=IPv4Address("203.0.113.9"), lifetime=7200
    )
    assert asked == bytes.fromhex("02 01 0000 00001c20 00000000000000000000ffffc0a80102") + BODY
    assert announce_request(CLIENT) == bytes.fromhex("02 00 0000 00000000 00000000000000000000ffffc0a80102")


def test_any_address_is_asked_for_in_the_client_s_family() -> None:
    assert map_request(CLIENT, NONCE, 1, lifetime=1)[44:] == bytes(10) + b"\xff\xff" + bytes(4)
    assert map_request(CLIENT6, NONCE, 1, lifetime=1)[44:] == bytes(16)


@pytest.mark.parametrize(
    ("nonce", "inside", "outside", "lifetime"),
    [(NONCE[1:], 1, 1, 1), (NONCE, 0, 0, 0), (NONCE, 65536, 0, 1), (NONCE, 1, -1, 1), (NONCE, 1, 1, 2**32)],
)
def test_what_would_mean_something_else_is_never_asked(nonce: bytes, inside: int, outside: int, lifetime: int) -> None:
    with pytest.raises(ValueError):
        map_request(CLIENT, nonce, inside, suggested_port=outside, lifetime=lifetime)


def test_answers_are_read() -> None:
    assert parse_pcp(MAPPED) == PcpMapping(3600, NONCE, 41001, 50000, IPv4Address("203.0.113.9"), 7200)
    assert parse_pcp(ANNOUNCE) == PcpAnnounce(7)


def test_an_external_ipv6_address_is_read() -> None:
    mapping = parse_pcp(MAPPED[:44] + CLIENT6.packed)
    assert isinstance(mapping, PcpMapping)
    assert mapping.external_address == CLIENT6


def test_refusals_say_of_what_why_and_how_long() -> None:
    no = bytes.fromhex("02 81 00 02 00000708 00000e10 000000000000000000000000")
    assert parse_pcp(no + BODY) == PcpRefused(3600, PcpResult.NOT_AUTHORIZED, 1800, NONCE, 41001)
    assert parse_pcp(b"\x02\x80\x00\x04" + ANNOUNCE[4:]) == PcpRefused(7, PcpResult.UNSUPP_OPCODE, 0)
    assert parse_pcp(b"\x02\x80\x00\xc8" + ANNOUNCE[4:]) == PcpRefused(7, 200, 0)


def test_a_router_of_another_version_says_which() -> None:
    assert parse_pcp(bytes.fromhex("00 81 0001 00000005")) == PcpVersionRefused(0)  # NAT-PMP's own refusal
    assert parse_pcp(bytes.fromhex("01 81 00 01") + MAPPED[4:]) == PcpVersionRefused(1)


def test_options_of_an_answer_are_passed_over() -> None:
    assert parse_pcp(MAPPED + bytes.fromhex("03 00 0004 01020304")) == parse_pcp(MAPPED)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAPPED[:-4],
        MAPPED[:-1],
        MAPPED + b"\0",
        MAPPED + bytes(1044),
        ANNOUNCE[:-4],
        b"\x02\x01" + MAPPED[2:],  # a request
        b"\x02\x82" + MAPPED[2:],  # PEER, which is never asked
        b"\x00" + MAPPED[1:],  # another version, which refuses nothing
        MAPPED[:36] + b"\x06" + MAPPED[37:],  # TCP
        MAPPED[:40] + b"\0\0" + MAPPED[42:],  # port inside
        MAPPED[:42] + b"\0\0" + MAPPED[44:],  # port outside
    ],
)
def test_what_is_not_an_answer_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_pcp(data)


@given(client=addresses, outside=addresses, nonce=st.binary(min_size=12, max_size=12), ports=st.tuples(ports, ports))
def test_a_router_that_grants_what_was_asked_is_understood(
    client: IPAddress, outside: IPAddress, nonce: bytes, ports: tuple[int, int]
) -> None:
    asked = map_request(client, nonce, ports[0], suggested_port=ports[1], suggested_address=outside, lifetime=7200)
    expected = outside if outside.version == 4 else outside.ipv4_mapped or outside
    assert parse_pcp(HEAD + asked[24:]) == PcpMapping(3600, nonce, *ports, expected, 7200)


@given(st.binary(max_size=80) | st.binary(max_size=64).map(lambda rest: b"\x02\x81\x00\x00" + rest))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    try:
        parse_pcp(data)
    except MalformedError:
        return
    assert len(data) >= 4 and len(data) % 4 == 0


@pytest.mark.parametrize(
    ("before", "after", "elapsed", "lost"),
    [
        (1000, 1160, 160, False),
        (1000, 999, 0, False),  # one second back is rounding
        (1000, 998, 0, True),
        (1000, 1148, 160, False),  # slow by a sixteenth, and two seconds
        (1000, 1147, 160, True),
        (1000, 1160, 148, False),  # fast by as much
        (1000, 1160, 147, True),
    ],
)
def test_lost_state_shows_in_the_epoch(before: int, after: int, elapsed: float, lost: bool) -> None:
    assert state_lost(before, after, elapsed) is lost
