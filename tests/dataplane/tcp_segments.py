"""TCP segments with right checksums, by hand."""

from __future__ import annotations

from ipaddress import ip_address

from shadowmesh.dataplane.icmp import checksum

FIN, SYN, PSH, ACK, CWR = 1, 2, 8, 16, 128
ENDS = {4: ("10.7.0.1", "10.7.0.2"), 6: ("fd07::1", "fd07::2")}


def segment(
    version: int,
    payload: bytes,
    *,
    sequence: int = 0xFFFFFF00,
    flags: int = ACK,
    options: bytes = b"",
    ends: tuple[str, str] | None = None,
) -> bytes:
    """A whole packet with right checksums."""
    offset = (20 + len(options)) // 4 << 4
    tcp = bytearray(
        b"\x30\x39\x00\x50" + sequence.to_bytes(4, "big") + bytes(4) + bytes((offset, flags)) + b"\xff\xff" + bytes(4)
    )
    tcp += options + payload
    one, two = (ip_address(t).packed for t in ends or ENDS[version])
    tcp[16:18] = checksum(one + two + (6).to_bytes(4, "big") + len(tcp).to_bytes(4, "big") + tcp).to_bytes(2, "big")
    if version == 6:
        return b"\x60\0\0\0" + len(tcp).to_bytes(2, "big") + b"\x06\x40" + one + two + bytes(tcp)
    head = bytearray(b"\x45\0" + (20 + len(tcp)).to_bytes(2, "big") + b"\xff\xff\x40\0\x40\x06\0\0" + one + two)
    head[10:12] = checksum(head).to_bytes(2, "big")
    return bytes(head + tcp)


def with_id(packet: bytes, number: int) -> bytes:
    head = bytearray(packet[:20])
    head[4:6], head[10:12] = number.to_bytes(2, "big"), b"\0\0"
    head[10:12] = checksum(head).to_bytes(2, "big")
    return bytes(head) + packet[20:]
