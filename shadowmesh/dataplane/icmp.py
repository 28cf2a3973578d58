"""Telling this host's own kernel that a packet is too big for a path (RFC 1191, RFC 4443 section 3.2)."""

from __future__ import annotations

from shadowmesh.dataplane.aead import Buffer


def checksum(data: Buffer, start: int = 0) -> int:
    """The Internet checksum (RFC 1071) of a few bytes."""
    padded = bytes(data) + b"\0" * (len(data) & 1)
    total = (start + int.from_bytes(padded, "big")) % 0xFFFF if padded else start % 0xFFFF
    return 0xFFFF - total


def too_big(packet: Buffer, mtu: int) -> bytes | None:
    """The ICMP answer to an inner packet larger than `mtu`, as if the destination's router had sent it.

    None where none is due: IPv4 that allows fragments, and ICMP errors.
    """
    if packet[0] >> 4 == 4:
        if not packet[6] & 0x40 or (packet[9] == 1 and packet[20] not in (0, 8)):
            return None
        quoted = bytes(packet[: (packet[0] & 15) * 4 + 8])
        body = bytearray(b"\x03\x04\0\0\0\0" + mtu.to_bytes(2, "big") + quoted)
        body[2:4] = checksum(body).to_bytes(2, "big")
        header = bytearray(b"\x45\0" + (20 + len(body)).to_bytes(2, "big") + b"\0\0\0\0\x40\x01\0\0")
        header += bytes(packet[16:20]) + bytes(packet[12:16])
        header[10:12] = checksum(header).to_bytes(2, "big")
        return bytes(header + body)
    if packet[6] == 58 and packet[40] < 128:
        return None
    quoted = bytes(packet[: 1280 - 48])
    body = bytearray(b"\x02\0\0\0" + mtu.to_bytes(4, "big") + quoted)
    source, destination = bytes(packet[24:40]), bytes(packet[8:24])
    pseudo = source + destination + len(body).to_bytes(4, "big") + b"\0\0\0\x3a"
    body[2:4] = checksum(pseudo + body).to_bytes(2, "big")
    return b"\x60\0\0\0" + len(body).to_bytes(2, "big") + b"\x3a\x40" + source + destination + bytes(body)
