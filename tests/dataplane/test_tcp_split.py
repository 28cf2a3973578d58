"""A TCP segment above a path's MTU is cut into smaller ones that say the same."""

from __future__ import annotations

import pytest
from tcp_segments import ACK, CWR, FIN, PSH, SYN, segment, with_id

from shadowmesh.dataplane.tcp import split

PAYLOAD = bytes(range(240)) * 5


@pytest.mark.parametrize("version", [4, 6])
def test_the_parts_are_right_segments_and_carry_the_same_stream(version: int) -> None:
    stamps = b"\x01\x01\x08\x0a" + bytes(8)
    whole = segment(version, PAYLOAD, flags=ACK | PSH | FIN | CWR, options=stamps)
    parts = split(whole, 700)
    assert parts is not None and len(parts) == 2 and all(len(p) <= 700 for p in parts)
    l4 = 20 if version == 4 else 40
    room = 700 - l4 - 32
    for number, part in enumerate(parts):
        flags = ACK | (CWR if number == 0 else PSH | FIN)
        wanted = segment(
            version,
            PAYLOAD[number * room :][:room],
            sequence=(0xFFFFFF00 + number * room) % 2**32,
            flags=flags,
            options=stamps,
        )
        if version == 4:  # each packet has the next id
            wanted = with_id(wanted, (0xFFFF + number) % 2**16)
        assert part == wanted


@pytest.mark.parametrize("version", [4, 6])
def test_what_cant_be_cut_is_left_to_icmp(version: int) -> None:
    assert split(segment(version, PAYLOAD, flags=SYN), 700) is None
    udp = bytearray(segment(version, PAYLOAD))
    udp[9 if version == 4 else 6] = 17
    assert split(udp, 700) is None
    assert split(segment(version, PAYLOAD), 100) is None
    assert split(segment(version, b""), 700) is None


def test_a_fragment_is_no_segment() -> None:
    fragment = bytearray(segment(4, PAYLOAD))
    fragment[6] = 0x20
    assert split(fragment, 700) is None
