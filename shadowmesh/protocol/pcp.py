"""PCP (RFC 6887): a router asked to let a UDP port in (MAP), or whether it still knows (ANNOUNCE).

Sans-I/O: bytes and values. Requests go to the gateway's port `natpmp.SERVER_PORT`; answers are believed from there only,
which is for who has the socket, and a mapping only with the nonce of its request. No options are sent, so those of an answer
are passed over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from shadowmesh.model.addresses import LAST_PORT, IPAddress
from shadowmesh.model.errors import MalformedError

NONCE_SIZE: Final = 12

_VERSION: Final = 2
_ANNOUNCE: Final = 0
_MAP: Final = 1
_RESPONSE: Final = 0x80
_UDP: Final = 17
_REQUEST_HEAD: Final = struct.Struct("!BBHI16s")  # version, opcode, reserved, lifetime, client's address
_HEAD: Final = struct.Struct("!BBBBII12x")  # version, opcode, reserved, result, lifetime, epoch, reserved
_MAPPED: Final = struct.Struct("!12sB3xHH16s")  # nonce, protocol, internal port, external port, external address
_SMALLEST: Final = 4  # of an answer that tells its version: a NAT-PMP router's
_LONGEST: Final = 1100
_LONGEST_LIFETIME: Final = 2**32 - 1


class PcpResult(IntEnum):
    """Result codes that the RFC names (section 7.4)."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


@dataclass(frozen=True, slots=True)
class PcpMapping:
    """A UDP port that the router lets in, for `lifetime` seconds; 0: the mapping is gone. `epoch`: seconds, see `state_lost`.

    Port and address outside may be others than were asked for, and the address one that isn't public.
    """

    epoch: int
    nonce: bytes
    internal_port: int
    external_port: int
    external_address: IPAddress
    lifetime: int


@dataclass(frozen=True, slots=True)
class PcpAnnounce:
    """A router says, asked or by itself, how long it has known its mappings (section 14.1)."""

    epoch: int


@dataclass(frozen=True, slots=True)
class PcpRefused:
    """The router says no, and will for `lifetime` seconds. `result` is a PcpResult, or a number of later standards.

    `nonce` and `internal_port` are those of the mapping that was refused; empty and 0 for an announce.
    """

    epoch: int
    result: int
    lifetime: int
    nonce: bytes = b""
    internal_port: int = 0


@dataclass(frozen=True, slots=True)
class PcpVersionRefused:
    """The router doesn't speak PCP 2. `version` is what it speaks: 0 is NAT-PMP (section 9, appendix A)."""

    version: int


def map_request(
    client: IPAddress,
    nonce: bytes,
    internal_port: int,
    *,
    suggested_port: int = 0,
    suggested_address: IPAddress | None = None,
    lifetime: int,
) -> bytes:
    """Let UDP in to `client`, the address this is sent from, for `lifetime` seconds; 0 takes the mapping away (section 11.1).

    `nonce`: 12 bytes unpredictable to others, the same for renewal and removal as for the first request. Without a suggested
    address any of the client's family. 60 bytes. ValueError for what can't be asked; port 0 would mean all ports.
    """
    if len(nonce) != NONCE_SIZE:
        raise ValueError("a mapping nonce has 12 bytes")
    if not 1 <= internal_port <= LAST_PORT:
        raise ValueError("a mapping is for one port inside")
    if not 0 <= suggested_port <= LAST_PORT or not 0 <= lifetime <= _LONGEST_LIFETIME:
        raise ValueError("no such port or lifetime")
    outside = suggested_address or (IPv4Address(0) if client.version == 4 else IPv6Address(0))
    return _REQUEST_HEAD.pack(_VERSION, _MAP, 0, lifetime, _packed(client)) + _MAPPED.pack(
        nonce, _UDP, internal_port, suggested_port, _packed(outside)
    )


def announce_request(client: IPAddress) -> bytes:
    """Which epoch is it? `client`: the address this is sent from. 24 bytes (section 14.1.1)."""
    return _REQUEST_HEAD.pack(_VERSION, _ANNOUNCE, 0, 0, _packed(client))


def parse_pcp(data: bytes) -> PcpMapping | PcpAnnounce | PcpRefused | PcpVersionRefused:
    """An answer, or what a router announces by itself. Raises MalformedError.

    Whether it is an answer to what was asked, its `nonce` and `internal_port` say.
    """
    if not _SMALLEST <= len(data) <= _LONGEST or len(data) % 4:
        raise MalformedError(f"not a PCP answer: {len(data)} bytes")
    if not data[1] & _RESPONSE:
        raise MalformedError("a PCP request, not an answer")
    if data[0] != _VERSION:
        if data[3] != PcpResult.UNSUPP_VERSION:
            raise MalformedError(f"not PCP: version {data[0]}")
        return PcpVersionRefused(data[0])
    if len(data) < _HEAD.size:
        raise MalformedError(f"a short PCP answer: {len(data)} bytes")
    _, opcode, _, result, lifetime, epoch = _HEAD.unpack_from(data)
    if opcode == _RESPONSE | _ANNOUNCE:
        return PcpAnnounce(epoch) if result == PcpResult.SUCCESS else PcpRefused(epoch, result, lifetime)
    if opcode != _RESPONSE | _MAP:
        raise MalformedError(f"a PCP answer to nothing that is asked: opcode {opcode & ~_RESPONSE}")
    if len(data) < _HEAD.size + _MAPPED.size:
        raise MalformedError(f"a short PCP mapping: {len(data)} bytes")
    nonce, protocol, internal_port, external_port, outside = _MAPPED.unpack_from(data, _HEAD.size)
    if protocol != _UDP:
        raise MalformedError(f"a PCP mapping of protocol {protocol}, not UDP")
    if not internal_port:
        raise MalformedError("a PCP mapping without a port inside")
    if result != PcpResult.SUCCESS:
        return PcpRefused(epoch, result, lifetime, nonce, internal_port)
    if lifetime and not external_port:
        raise MalformedError("a PCP mapping without a port outside")
    return PcpMapping(epoch, nonce, internal_port, external_port, _unpacked(outside), lifetime)


def state_lost(before: int, after: int, elapsed: float) -> bool:
    """Whether a router has forgotten its mappings: its epoch went back, or not as fast as this host's clock (section 8.5).

    `before` and `after`: epochs of two answers that came `elapsed` seconds apart, by this host's clock.
    """
    served = after - before
    return served < -1 or elapsed + 2 < served - served / 16 or served + 2 < elapsed - elapsed / 16


def _packed(address: IPAddress) -> bytes:
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def _unpacked(packed: bytes) -> IPAddress:
    address = IPv6Address(packed)
    return address.ipv4_mapped or address
