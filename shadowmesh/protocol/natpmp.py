"""NAT-PMP (RFC 6886): a router asked for its public address, and to let a UDP port in.

Sans-I/O: bytes and values. Requests go to the gateway's port `SERVER_PORT`; answers are believed from there only, which is
for who has the socket. Nothing here is authenticated: a mapping is an address to try, not a fact.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Final

from shadowmesh.model.addresses import LAST_PORT
from shadowmesh.model.errors import MalformedError

SERVER_PORT: Final = 5351

_VERSION: Final = 0
_ADDRESS: Final = 0
_MAP_UDP: Final = 1
_RESPONSE: Final = 0x80
_HEAD: Final = struct.Struct("!BBHI")  # version, opcode, result, seconds since start of epoch
_MAP_REQUEST: Final = struct.Struct("!BBHHHI")
_MAPPED: Final = struct.Struct("!HHI")  # internal port, external port, lifetime
_ADDRESS_SIZE: Final = _HEAD.size + 4
_MAPPING_SIZE: Final = _HEAD.size + _MAPPED.size
_LONGEST: Final = 1100  # of a refusal that gives the request back: what PCP allows
_LONGEST_LIFETIME: Final = 2**32 - 1


class NatPmpResult(IntEnum):
    """Result codes that the RFC names (section 3.5); routers send others too."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


@dataclass(frozen=True, slots=True)
class NatPmpAddress:
    """The router's public address as it says: it may be private, or 0.0.0.0 where it has none. `epoch`: seconds, see `restarted`."""

    epoch: int
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class NatPmpMapping:
    """A UDP port that the router lets in, maybe another than was asked for, for `lifetime` seconds; 0: the mapping is gone."""

    epoch: int
    internal_port: int
    external_port: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class NatPmpRefused:
    """The router says no. `result` is a NatPmpResult, or a number of its own; `mapping`: whether a mapping was refused, or the address."""

    epoch: int
    result: int
    mapping: bool


def address_request() -> bytes:
    """What is the public address? (Section 3.2; two bytes.)"""
    return bytes((_VERSION, _ADDRESS))


def mapping_request(internal_port: int, *, suggested_port: int = 0, lifetime: int) -> bytes:
    """Let UDP in on a port, best `suggested_port`, for `lifetime` seconds; 0 takes the mapping away (sections 3.3 and 3.4).

    ValueError for what can't be asked: port 0 inside above all, which would take away every mapping of this host.
    """
    if not 1 <= internal_port <= LAST_PORT:
        raise ValueError("a mapping is for one port inside")
    if not 0 <= suggested_port <= LAST_PORT or not 0 <= lifetime <= _LONGEST_LIFETIME:
        raise ValueError("no such port or lifetime")
    if not lifetime:
        suggested_port = 0  # section 3.4: it must be zero
    return _MAP_REQUEST.pack(_VERSION, _MAP_UDP, 0, internal_port, suggested_port, lifetime)


def parse_nat_pmp(data: bytes) -> NatPmpAddress | NatPmpMapping | NatPmpRefused:
    """An answer, or the address as a router announces it by itself (section 3.2.1). Raises MalformedError.

    Whether it is an answer to what was asked, its `internal_port` says.
    """
    if not _HEAD.size <= len(data) <= _LONGEST:
        raise MalformedError(f"not a NAT-PMP answer: {len(data)} bytes")
    version, opcode, result, epoch = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise MalformedError(f"not NAT-PMP: version {version}")
    if opcode not in {_RESPONSE | _ADDRESS, _RESPONSE | _MAP_UDP}:
        raise MalformedError(f"not a NAT-PMP answer: opcode {opcode}")
    mapping = opcode == _RESPONSE | _MAP_UDP
    if result != NatPmpResult.SUCCESS:  # what follows says nothing, and some leave it out
        return NatPmpRefused(epoch, result, mapping)
    if len(data) != (_MAPPING_SIZE if mapping else _ADDRESS_SIZE):
        raise MalformedError(f"a NAT-PMP answer of a wrong size: {len(data)} bytes")
    if not mapping:
        return NatPmpAddress(epoch, IPv4Address(data[_HEAD.size :]))
    internal_port, external_port, lifetime = _MAPPED.unpack_from(data, _HEAD.size)
    if not internal_port or (lifetime and not external_port):
        raise MalformedError("a NAT-PMP mapping without a port")
    return NatPmpMapping(epoch, internal_port, external_port, lifetime)


def restarted(before: int, after: int, elapsed: float) -> bool:
    """Whether a router has forgotten its mappings: its epoch is behind what it must be by now (section 3.6).

    `before` and `after`: epochs of two answers that came `elapsed` seconds apart, by this host's clock.
    """
    return after < before + elapsed * 7 / 8 - 2
