"""What a packet is, by its first bytes: datagrams of the underlay (design: one UDP port) and inner IP packets."""

from __future__ import annotations

import hmac
from enum import IntEnum
from hashlib import blake2s
from typing import Final

from shadowmesh.dataplane.aead import Buffer

INITIATION_SIZE: Final = 148
RESPONSE_SIZE: Final = 92
COOKIE_REPLY_SIZE: Final = 64
TRANSPORT_HEADER: Final = 16
TRANSPORT_OVERHEAD: Final = 32  # header and tag
FRAME_HEADER: Final = 44  # of a relay frame: magic 4, NetworkID 32, SourceIP 4, DestIP 4

_MAGIC: Final = b"SM\x01"
FRAME_MAGIC: Final = b"SM\x01\x02"
TRANSPORT_MAGIC: Final = b"\x04\0\0\0"
_STUN_COOKIE: Final = b"\x21\x12\xa4\x42"


class Sort(IntEnum):
    """Sorts of datagrams on the one UDP port."""

    UNKNOWN = 0
    INITIATION = 1
    RESPONSE = 2
    COOKIE_REPLY = 3
    TRANSPORT = 4
    DISCO = 5
    FRAME = 6
    RELAY_CONTROL = 7
    STUN = 8


_WIREGUARD = {
    b"\1\0\0\0": (Sort.INITIATION, INITIATION_SIZE, INITIATION_SIZE),
    b"\2\0\0\0": (Sort.RESPONSE, RESPONSE_SIZE, RESPONSE_SIZE),
    b"\3\0\0\0": (Sort.COOKIE_REPLY, COOKIE_REPLY_SIZE, COOKIE_REPLY_SIZE),
    TRANSPORT_MAGIC: (Sort.TRANSPORT, TRANSPORT_OVERHEAD, 65535),
}
_OURS = {1: Sort.DISCO, 2: Sort.FRAME, 3: Sort.RELAY_CONTROL}


def sort_of(data: Buffer) -> Sort:
    """The sort of a datagram; UNKNOWN too where the size can't be right."""
    size = len(data)
    if size < 4:
        return Sort.UNKNOWN
    first = bytes(data[:4])
    found = _WIREGUARD.get(first)
    if found is not None:
        sort, smallest, largest = found
        return sort if smallest <= size <= largest else Sort.UNKNOWN
    if first[:3] == _MAGIC:
        return _OURS.get(first[3], Sort.UNKNOWN)
    if first[0] < 0x40 and size >= 20 and data[4:8] == _STUN_COOKIE:
        return Sort.STUN
    return Sort.UNKNOWN


def mac1_valid(message: Buffer, mac1_key: bytes) -> bool:
    """Whether the handshake message was made for the owner of this key (paper, section 5.4.4)."""
    expected = blake2s(message[:-32], digest_size=16, key=mac1_key).digest()
    return hmac.compare_digest(expected, bytes(message[-32:-16]))


def answer_prefix(frame_header: bytes) -> bytes:
    """The frame header of an answer: source and destination change places."""
    return frame_header[:36] + frame_header[40:44] + frame_header[36:40]


def addresses(packet: Buffer) -> tuple[bytes, bytes] | None:
    """Source and destination of an IPv4 or IPv6 packet, None for anything else or a cut header."""
    size = len(packet)
    if size >= 20:
        version = packet[0] >> 4
        if version == 4:
            return bytes(packet[12:16]), bytes(packet[16:20])
        if version == 6 and size >= 40:
            return bytes(packet[8:24]), bytes(packet[24:40])
    return None


def inner_size(packet: Buffer) -> int:
    """Length that the IP header claims (WireGuard pads behind it); 0 where header or claim can't be right."""
    size = len(packet)
    if size >= 20:
        version = packet[0] >> 4
        if version == 4:
            claimed = packet[2] << 8 | packet[3]
            return claimed if 20 <= claimed <= size else 0
        if version == 6 and size >= 40:
            claimed = (packet[4] << 8 | packet[5]) + 40
            return claimed if claimed <= size else 0
    return 0


def is_group_address(address: bytes) -> bool:
    """Multicast of either family, or the IPv4 limited broadcast."""
    return address[0] >= 0xE0 and (len(address) == 4 or address[0] == 0xFF)
