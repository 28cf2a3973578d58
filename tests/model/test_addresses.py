"""An address that comes in a message is an IP address in canonical form, and nothing that would be looked up or obeyed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.errors import MalformedError


class Message(Struct, frozen=True, kw_only=True):
    at: SockAddr


def read(host: object, port: object) -> SockAddr:
    return from_json(to_json({"at": [host, port]}), Message).at


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_address_travels(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        return
    assert read(str(ip), port) == SockAddr(str(ip), port) == SockAddr.parse(str(SockAddr(str(ip), port)))


@pytest.mark.parametrize(
    "host",
    [
        "", "example.org", "\x1b[2J", "1.2.3", "1.2.3.4.5", "01.2.3.4", "256.1.1.1", "1.2.3.4 ", "1.2.3.4\n", "::1::",
        "1:2", "fe80::1%eth0", "fe80::1%\x1b[2J", "::ffff:1.2.3.4", "1:2:3:4:5:6:7:8:9", "2001:DB8::1", "[::1]", 7, None,
    ],
)  # fmt: skip
def test_what_is_no_address_is_malformed(host: object) -> None:
    with pytest.raises(MalformedError):
        read(host, 1)


@pytest.mark.parametrize("port", [0, -1, 65536, 2**70, "1", 1.5, None])
def test_what_is_no_port_is_malformed(port: object) -> None:
    with pytest.raises(MalformedError):
        read("192.0.2.1", port)


@given(st.text(alphabet="01af:.%", max_size=16))
def test_what_is_read_is_always_an_address(host: str) -> None:
    try:
        found = read(host, 1)
    except MalformedError:
        return
    assert ipaddress.ip_address(found.host)


@pytest.mark.parametrize("port", ["1_0", "+5", " 5", "5 ", "٣", "²", "", "-1", "0", "65536", "9" * 5000])
def test_a_typed_port_is_of_digits_alone(port: str) -> None:
    with pytest.raises(MalformedError):
        SockAddr.parse(f"192.0.2.1:{port}")


def test_a_typed_address_has_no_zone() -> None:
    with pytest.raises(MalformedError):
        SockAddr.parse("[fe80::1%\x1b[2J]:5")
