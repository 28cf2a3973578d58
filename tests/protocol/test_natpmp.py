"""NAT-PMP: requests and answers laid out by hand from RFC 6886, sections 3.2 to 3.6."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.errors import MalformedError
from shadowmesh.protocol.natpmp import (
    NatPmpAddress,
    NatPmpMapping,
    NatPmpRefused,
    NatPmpResult,
    address_request,
    mapping_request,
    parse_nat_pmp,
    restarted,
)

ADDRESS = bytes.fromhex("0080 0000 00000e10 cb007109")
MAPPED = bytes.fromhex("0081 0000 00000e11 a029 c350 00001c20")
REFUSED = bytes.fromhex("0081 0002 00000e12 a029 0000 00000000")

ports = st.integers(1, 65535)
words = st.integers(0, 2**32 - 1)


def test_requests_are_laid_out_as_the_rfc_says() -> None:
    assert address_request() == bytes.fromhex("0000")
    wanted = mapping_request(41001, suggested_port=50000, lifetime=7200)
    assert wanted == bytes.fromhex("0001 0000 a029 c350 00001c20")


def test_a_removal_suggests_no_port() -> None:
    assert mapping_request(41001, suggested_port=50000, lifetime=0) == bytes.fromhex("0001 0000 a029 0000 00000000")


@pytest.mark.parametrize(("inside", "outside", "lifetime"), [(0, 0, 0), (65536, 0, 1), (1, -1, 1), (1, 1, 2**32)])
def test_what_would_mean_something_else_is_never_asked(inside: int, outside: int, lifetime: int) -> None:
    with pytest.raises(ValueError):
        mapping_request(inside, suggested_port=outside, lifetime=lifetime)


def test_answers_are_read() -> None:
    assert parse_nat_pmp(ADDRESS) == NatPmpAddress(3600, IPv4Address("203.0.113.9"))
    assert parse_nat_pmp(MAPPED) == NatPmpMapping(3601, 41001, 50000, 7200)
    assert parse_nat_pmp(REFUSED) == NatPmpRefused(3602, NatPmpResult.NOT_AUTHORIZED, mapping=True)


def test_a_removal_is_confirmed_without_a_port() -> None:
    assert parse_nat_pmp(bytes.fromhex("0081 0000 00000001 a029 0000 00000000")) == NatPmpMapping(1, 41001, 0, 0)


def test_a_refusal_may_end_after_its_epoch_and_have_a_number_of_the_router() -> None:
    assert parse_nat_pmp(bytes.fromhex("0080 0001 00000005")) == NatPmpRefused(5, 1, mapping=False)
    assert parse_nat_pmp(bytes.fromhex("0081 ffff 00000005")) == NatPmpRefused(5, 0xFFFF, mapping=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        ADDRESS[:7],
        ADDRESS[:-1],
        ADDRESS + b"\0",
        MAPPED[:-1],
        MAPPED + b"\0",
        REFUSED + bytes(1100),
        b"\x02" + MAPPED[1:],  # version
        b"\x00\x01" + MAPPED[2:],  # a request
        b"\x00\x82" + MAPPED[2:],  # of TCP, which is never asked
        MAPPED[:8] + b"\0\0" + MAPPED[10:],  # port inside
        MAPPED[:10] + b"\0\0" + MAPPED[12:],  # port outside
    ],
)
def test_what_is_not_an_answer_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_nat_pmp(data)


@given(inside=ports, outside=ports, lifetime=words, epoch=words)
def test_a_router_that_grants_what_was_asked_is_understood(
    inside: int, outside: int, lifetime: int, epoch: int
) -> None:
    asked = mapping_request(inside, suggested_port=outside, lifetime=lifetime)
    granted = b"\x00\x81\x00\x00" + epoch.to_bytes(4, "big") + asked[4:]
    assert parse_nat_pmp(granted) == NatPmpMapping(epoch, inside, outside if lifetime else 0, lifetime)


@given(st.binary(max_size=24) | st.binary(max_size=20).map(lambda rest: b"\x00\x81\x00\x00" + rest))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    try:
        parse_nat_pmp(data)
    except MalformedError:
        return
    assert len(data) >= 8


@pytest.mark.parametrize(
    ("before", "after", "elapsed", "gone"),
    [
        (1000, 1100, 100, False),
        (1000, 1086, 100, False),  # a clock slow by an eighth, and two seconds
        (1000, 1085, 100, True),
        (1000, 0, 100, True),
        (1000, 9000, 100, False),  # a fast clock is no restart here
        (0, 0, 2, False),
    ],
)
def test_a_restart_shows_in_the_epoch(before: int, after: int, elapsed: float, gone: bool) -> None:
    assert restarted(before, after, elapsed) is gone
