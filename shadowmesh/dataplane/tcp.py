"""Cutting one TCP segment into smaller ones, as the kernel's segmentation does with a super-packet."""

from __future__ import annotations

from typing import Final

from shadowmesh.dataplane.aead import Buffer
from shadowmesh.dataplane.icmp import checksum

SMALLEST_MSS: Final = 128  # below that, a path carries no TCP
_TCP: Final = 6
_FIN, _SYN, _RST, _PSH, _URG, _CWR = 0x01, 0x02, 0x04, 0x08, 0x20, 0x80


def split(packet: Buffer, mtu: int) -> list[bytes] | None:
    """The same bytes of the stream in segments whose packets have at most `mtu` bytes; None where `packet` is no TCP segment that can be cut."""
    data = bytes(packet)
    ipv4 = data[0] >> 4 == 4
    l4 = (data[0] & 15) * 4 if ipv4 else 40
    protocol = data[9] if ipv4 else data[6]
    fragment = ipv4 and (data[6] & 0x3F or data[7])
    if protocol != _TCP or fragment or len(data) < l4 + 20:
        return None
    headers = l4 + (data[l4 + 12] >> 4) * 4
    mss, flags = mtu - headers, data[l4 + 13]
    if headers >= len(data) or headers < l4 + 20 or mss < SMALLEST_MSS or flags & (_SYN | _RST | _URG):
        return None
    found: list[bytes] = []
    for at in range(headers, len(data), mss):
        part = bytearray(data[:headers] + data[at : at + mss])
        last, first = at + mss >= len(data), at == headers
        part[l4 + 13] = flags & ~((0 if last else _FIN | _PSH) | (0 if first else _CWR))
        sequence = int.from_bytes(data[l4 + 4 : l4 + 8], "big") + at - headers
        part[l4 + 4 : l4 + 8] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
        if ipv4:
            part[2:4] = len(part).to_bytes(2, "big")
            number = int.from_bytes(data[4:6], "big") + len(found)
            part[4:6] = (number & 0xFFFF).to_bytes(2, "big")
            part[10:12] = b"\0\0"
            part[10:12] = checksum(part[:l4]).to_bytes(2, "big")
            ends = part[12:20]
        else:
            part[4:6] = (len(part) - 40).to_bytes(2, "big")
            ends = part[8:40]
        part[l4 + 16 : l4 + 18] = b"\0\0"
        pseudo = ends + _TCP.to_bytes(4, "big") + (len(part) - l4).to_bytes(4, "big")
        part[l4 + 16 : l4 + 18] = checksum(pseudo + part[l4:]).to_bytes(2, "big")
        found.append(bytes(part))
    return found
