"""Segmentation and coalescing against the RFCs' own arithmetic, without a kernel: what goes in as a super-packet comes out whole."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowmesh.dataplane.pumpcore import PumpCore
from shadowmesh.dataplane.python.coalesce import Coalescer
from shadowmesh.dataplane.python.outbound import Outbound
from shadowmesh.dataplane.python.rows import ROWS_MOST, PlainRows
from shadowmesh.dataplane.sim import FakeAead
from shadowmesh.dataplane.tun import VNET_HEADER, VNET_SIZE, Offloads
from shadowmesh.model import pump as m

OFFLOADS = Offloads(header=True, tcp=True, udp=True)
ENDS = {4: ("10.7.0.1", "10.7.0.2"), 6: ("fd07::1", "fd07::2")}
ACK, PSH, FIN, CWR = 0x10, 0x08, 0x01, 0x80
DESTINATION_OPTIONS = 60  # RFC 8200, section 4.6


def folded(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass
class Packet:
    """An IP packet taken apart; raises AssertionError where a length or checksum isn't right."""

    version: int
    protocol: int
    ip_id: int
    seq: int
    flags: int
    payload: bytes
    headers: bytes

    @classmethod
    def parse(cls, data: bytes, *, partial: bool = False) -> Packet:
        version = data[0] >> 4
        if version == 4:
            assert int.from_bytes(data[2:4], "big") == len(data)
            l4, protocol, pseudo = (data[0] & 15) * 4, data[9], data[12:20]
            assert folded(data[:l4]) == 0xFFFF
        else:
            assert int.from_bytes(data[4:6], "big") == len(data) - 40
            l4, protocol, pseudo = 40, data[6], data[8:40]
            if protocol == DESTINATION_OPTIONS:
                l4, protocol = 40 + (data[41] + 1) * 8, data[40]
        pseudo += struct.pack("!HH", protocol, len(data) - l4)
        if partial:
            at = l4 + (16 if protocol == 6 else 6)
            assert folded(pseudo) % 0xFFFF == int.from_bytes(data[at : at + 2], "big") % 0xFFFF
        else:
            assert folded(pseudo + data[l4:]) == 0xFFFF
        if protocol == 17:
            assert int.from_bytes(data[l4 + 4 : l4 + 6], "big") == len(data) - l4
        headers = l4 + ((data[l4 + 12] >> 4) * 4 if protocol == 6 else 8)
        tcp = protocol == 6
        return cls(
            version, protocol, int.from_bytes(data[4:6], "big") if version == 4 else 0,
            int.from_bytes(data[l4 + 4 : l4 + 8], "big") if tcp else 0, data[l4 + 13] if tcp else 0, data[headers:], data[:headers],
        )  # fmt: skip


def super_packet(
    version: int,
    tcp: bool,
    payload: bytes,
    gso: int,
    *,
    flags: int = ACK,
    seq: int = 0xFFFFF000,
    ip_id: int = 65500,
    options: bytes = bytes(12),
    ip_options: int = 0,
) -> bytes:
    """With its virtio header, as a TUN gives it. `ip_options`: their size, in IPv6 that of an extension header; a multiple of 8."""
    source, destination = (ip_address(a).packed for a in ENDS[version])
    l4 = (20 if version == 4 else 40) + ip_options
    protocol = 6 if tcp else 17
    between = b""
    if ip_options and version == 4:
        between = b"\x94\x04\0\0" + b"\x01" * (ip_options - 4)  # router alert (RFC 2113), then no operation
    elif ip_options:
        between = bytes((protocol, ip_options // 8 - 1, 1, ip_options - 4)) + bytes(ip_options - 4)  # PadN
    if tcp:
        header = struct.pack("!HHIIBBHHH", 4000, 5201, seq, 77, (20 + len(options)) << 2, flags, 500, 0, 0) + options
    else:
        header = struct.pack("!HHHH", 4000, 5201, 8 + len(payload), 0)
    size = len(header) + len(payload)
    if version == 4:
        ip = (
            struct.pack("!BBHHHBBH", 0x40 | l4 // 4, 0, (l4 + size) & 0xFFFF, ip_id, 0x4000, 64, protocol, 0)
            + source
            + destination
            + between
        )
    else:
        following = DESTINATION_OPTIONS if ip_options else protocol
        ip = struct.pack("!IHBB", 6 << 28, (ip_options + size) & 0xFFFF, following, 64) + source + destination + between
    kind = (1 if version == 4 else 4) if tcp else 5
    return VNET_HEADER.pack(1, kind, l4 + len(header), gso, l4, 16 if tcp else 6) + ip + header + payload


@dataclass
class Wire:
    """Catches the rows that an Outbound sends."""

    head_size: int = 0
    datagrams: list[bytes] = field(default_factory=list)
    path: m.Path = field(default_factory=lambda: m.Path(m.Slot(0)))

    def way(self, path: m.Path) -> Any:
        return self

    def head(self, size: int) -> bytes:
        return bytes(self.head_size)

    def rows_at_once(self, stride: int) -> int:
        return max(1, min(64, 65507 // stride))

    def send_rows(self, rows: memoryview, stride: int) -> int:
        assert len(rows) <= 65507
        self.datagrams += [bytes(rows[at : at + stride]) for at in range(0, len(rows), stride)]
        return 0


class Bench:
    """One peer, one session with a readable cipher."""

    def __init__(self, mtu: int, path_mtu: int | None = None, head_size: int = 0) -> None:
        self.wire = Wire(head_size)
        self.core = PumpCore(self, aead=FakeAead)  # type: ignore[arg-type]
        local = tuple(ip_network(a) for a, _ in ENDS.values())
        remote = tuple(ip_network(b) for _, b in ENDS.values())
        net, peer = m.NetIndex(0), m.PeerIndex(1)
        for command in (
            m.AddTun(net, -1, mtu, local),
            m.PutPeer(peer, net, remote),
            m.SetPath(peer, self.wire.path, mtu=path_mtu),
            m.Install(peer, m.Session(1, 2, bytes(32), bytes(32), True, 0.0, 180.0)),
        ):
            self.core.apply(command, 1.0)
        self.outbound = Outbound(self.core, self.wire)

    def segments(self, *raw: bytes) -> list[bytes]:
        """The inner packets that leave."""
        for packet in raw:
            self.outbound._one(self.core.nets[0], memoryview(bytearray(packet)), VNET_SIZE, 1.0)
        self.outbound.flush(1.0)
        found = []
        for number, datagram in enumerate(self.wire.datagrams):
            body = datagram[self.wire.head_size :]
            assert body[8:16] == number.to_bytes(8, "little")
            plain = body[16:-16]
            size = int.from_bytes(plain[2:4], "big") if plain[0] >> 4 == 4 else 40 + int.from_bytes(plain[4:6], "big")
            assert not any(plain[size:]) and len(plain) - size < 16
            found.append(plain[:size])
        return found


@settings(max_examples=150, deadline=None)
@given(
    version=st.sampled_from([4, 6]), tcp=st.booleans(), gso=st.integers(8, 1448), size=st.integers(1, 65000),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN, ACK | PSH | CWR, ACK | CWR | FIN]), options=st.sampled_from([0, 12, 40]),
    ip_options=st.sampled_from([0, 8, 40]), head_size=st.sampled_from([0, 44, 46]), data=st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_super_packet_becomes_right_segments(
    version: int, tcp: bool, gso: int, size: int, flags: int, options: int, ip_options: int, head_size: int, data: Any
) -> None:
    size = min(size, gso * 300, 65_535 - 140)
    payload = data.randbytes(size)
    bench = Bench(1500, head_size=head_size)
    packets = [
        Packet.parse(s)
        for s in bench.segments(
            super_packet(version, tcp, payload, gso, flags=flags, options=bytes(options), ip_options=ip_options)
        )
    ]
    assert b"".join(p.payload for p in packets) == payload
    assert all(len(p.payload) == gso for p in packets[:-1])
    if version == 4:
        assert [p.ip_id for p in packets] == [(65500 + i) & 0xFFFF for i in range(len(packets))]
    if tcp:
        assert [p.seq for p in packets] == [(0xFFFFF000 + i * gso) & 0xFFFFFFFF for i in range(len(packets))]
        assert all(not p.flags & (PSH | FIN) for p in packets[:-1])
        assert packets[-1].flags & (PSH | FIN) == flags & (PSH | FIN)
        assert packets[0].flags & CWR == flags & CWR
        assert all(not p.flags & CWR for p in packets[1:])
    record = bench.core.peers[1].record
    assert record[m.COUNTER_FIELDS.index("tx_packets_relay")] == len(packets)  # a path without a remote is a stream
    assert record[m.COUNTER_FIELDS.index("tx_bytes_relay")] == sum(len(p.headers) + len(p.payload) for p in packets)


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])
def test_a_header_checksum_that_passes_zero_within_a_super_packet_touches_nothing_beside_it(tcp: bool) -> None:
    payload = bytes(40 * 1000)
    (first, *_) = Bench(1500).segments(super_packet(4, tcp, payload, 1000, ip_id=0))
    passes_zero = int.from_bytes(first[10:12], "big") - 20  # it falls by one for each segment
    segments = Bench(1500).segments(super_packet(4, tcp, payload, 1000, ip_id=passes_zero))
    packets = [Packet.parse(s) for s in segments]
    assert [p.ip_id for p in packets] == [passes_zero + i for i in range(40)]
    assert {(p.protocol, p.headers[8]) for p in packets} == {(6 if tcp else 17, 64)}


def test_a_narrower_path_gets_smaller_segments_and_loses_nothing() -> None:
    payload = bytes(range(256)) * 200
    segments = Bench(1420, path_mtu=1000).segments(super_packet(4, True, payload, 1368))
    assert max(map(len, segments)) == 1000
    assert b"".join(Packet.parse(s).payload for s in segments) == payload


def test_super_packets_share_batches_and_keep_their_order() -> None:
    one, two, three = (bytes([i]) * 50_000 for i in range(3))
    raw = [super_packet(4, True, p, 1368, seq=i) for i, p in enumerate((one, two, three))]
    segments = Bench(1420).segments(raw[0], raw[1][:0] or super_packet(4, False, b"x" * 100, 100), raw[1], raw[2])
    packets = [Packet.parse(s) for s in segments]
    assert b"".join(p.payload for p in packets) == one + b"x" * 100 + two + three


def rows(packets: list[bytes], width: int) -> PlainRows:
    plain = PlainRows(bytearray(1 << 18), width, ROWS_MOST)
    for row, packet in zip(plain.row, packets, strict=False):
        row[: len(packet)] = packet
    return plain


def entered(packets: list[bytes], offloads: Offloads = OFFLOADS) -> list[bytes]:
    """What the interface is given, virtio headers included."""
    return [b"".join(bytes(p) for p in pieces) for pieces, _, _ in handed(packets, offloads)]


def coalesced(packets: list[bytes], offloads: Offloads = OFFLOADS) -> list[bytes]:
    """The same, and all is let in."""
    found = handed(packets, offloads)
    assert sum(number for _, _, number in found) == len(packets)
    assert sum(inner for _, inner, _ in found) == sum(map(len, packets))
    return [b"".join(bytes(p) for p in pieces) for pieces, _, _ in found]


def handed(packets: list[bytes], offloads: Offloads) -> Any:
    bench = Bench(1500)
    for version in (4, 6):  # seen from the other end
        bench.core.nets[0].routes.put(ip_network(ENDS[version][0]), bench.core.peers[1])
        bench.core.nets[0].local.put(ip_network(ENDS[version][1]), True)
    width = (max(map(len, packets)) + 15) & ~15
    return Coalescer(offloads).packets(bench.core, bench.core.peers[1], rows(packets, width), len(packets))


def full_segments(version: int, tcp: bool, count: int, mss: int = 1000, **options: Any) -> list[bytes]:
    payload = bytes(range(250)) * (count * mss // 250)
    return Bench(1500).segments(super_packet(version, tcp, payload, mss, **options))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])
@pytest.mark.parametrize("mss", [1000, 750])
def test_segments_of_a_flow_become_one_super_packet(version: int, tcp: bool, mss: int) -> None:
    segments = full_segments(version, tcp, 40, mss, flags=ACK | PSH, ip_id=100)
    (joined,) = coalesced(segments)
    flags, kind, header_size, gso, start, offset = VNET_HEADER.unpack_from(joined)
    whole = Packet.parse(joined[VNET_SIZE:], partial=True)
    assert (flags, kind, gso) == (1, (1 if version == 4 else 4) if tcp else 5, mss)
    assert (start, offset) == (20 if version == 4 else 40, 16 if tcp else 6)
    assert header_size == len(whole.headers)
    assert whole.payload == b"".join(Packet.parse(s).payload for s in segments)
    if tcp:
        assert whole.flags == ACK | PSH


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])
@pytest.mark.parametrize(
    "first", [65516, 0x6DE8 + 20]
)  # the header's checksum is 0x6DE8 at id 0 … and passes 0 within the batch
def test_an_id_or_checksum_that_wraps_costs_one_more_super_packet_and_nothing_else(tcp: bool, first: int) -> None:
    segments = full_segments(4, tcp, 40, 1000, flags=ACK | PSH, ip_id=first)
    given = [Packet.parse(g[VNET_SIZE:], partial=True) for g in coalesced(segments)]
    assert len(given) <= 3
    assert b"".join(p.payload for p in given) == b"".join(Packet.parse(s).payload for s in segments)


def test_super_packets_that_come_in_one_batch_leave_as_they_were() -> None:
    """Timestamps change between them, nothing within them."""
    made = []
    for number in range(3):
        made += full_segments(
            4, True, 20, seq=number * 20_000, ip_id=number * 20, options=bytes([8, 10, *[number] * 8, 0, 0])
        )
    assert [len(g) for g in coalesced(made)] == [VNET_SIZE + 52 + 20_000] * 3


def test_a_flow_of_another_host_in_the_same_batch_is_not_joined_and_not_let_in() -> None:
    segments = full_segments(4, True, 8, ip_id=1)
    for i in range(4, 8):
        data = bytearray(segments[i])
        data[12] ^= 1  # keeps to a progression of its own
        data[10:12] = data[36:38] = b"\0\0"
        data[10:12] = (0xFFFF - folded(bytes(data[:20]))).to_bytes(2, "big")
        pseudo = data[12:20] + struct.pack("!HH", 6, len(data) - 20)
        data[36:38] = (0xFFFF - folded(bytes(pseudo + data[20:]))).to_bytes(2, "big")
        segments[i] = bytes(data)
    assert [g[VNET_SIZE:] for g in entered(segments)] == segments[:4]


def changed(packet: bytes, at: int, *, repair: bool) -> bytes:
    """A packet with one byte changed; `repair`: its checksums made right again."""
    data = bytearray(packet)
    data[at] ^= 1
    if repair:
        data[10:12] = data[36:38] = b"\0\0"
        data[10:12] = (0xFFFF - folded(bytes(data[:20]))).to_bytes(2, "big")
        pseudo = data[12:20] + struct.pack("!HH", 6, len(data) - 20)
        data[36:38] = (0xFFFF - folded(bytes(pseudo + data[20:]))).to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (1, "tos"),
        (8, "ttl"),
        (20, "port"),
        (27, "sequence"),
        (31, "ack"),
        (33, "flags"),
        (35, "window"),
        (45, "options"),
        (4, "id"),
    ],
)
def test_what_does_not_continue_a_flow_is_not_joined(at: int, why: str) -> None:
    segments = full_segments(4, True, 8)
    segments[4] = changed(segments[4], at, repair=True)
    Packet.parse(segments[4])
    given = coalesced(segments)
    assert len(given) >= 2, why
    singles = [g[VNET_SIZE:] for g in given if g[:VNET_SIZE] == bytes(VNET_SIZE)]
    assert segments[4] in singles


def test_a_segment_that_comes_with_a_wrong_checksum_stays_wrong() -> None:
    for at in (60, 36, 10):  # payload, TCP checksum, IP checksum
        segments = full_segments(4, True, 8)
        segments[3] = changed(segments[3], at, repair=False)
        given = coalesced(segments)
        assert bytes(VNET_SIZE) + segments[3] in given
        assert len(given) == 3


def test_a_push_in_the_middle_is_the_super_packets() -> None:
    segments = full_segments(4, True, 4, flags=ACK | PSH) + full_segments(4, True, 4, seq=0xFFFFF000 + 4000)
    for i in range(4, 8):  # ids go on
        data = bytearray(segments[i])
        data[4:6] = ((65500 + i) & 0xFFFF).to_bytes(2, "big")
        data[10:12] = b"\0\0"
        data[10:12] = (0xFFFF - folded(bytes(data[:20]))).to_bytes(2, "big")
        segments[i] = bytes(data)
    (whole,) = coalesced(segments)
    assert len(whole) == VNET_SIZE + 52 + 8000
    assert whole[VNET_SIZE + 33] == ACK | PSH
    (plain,) = coalesced(segments[4:])
    assert plain[VNET_SIZE + 33] == ACK


def test_without_offloads_packets_stay_single() -> None:
    segments = full_segments(4, True, 8)
    assert coalesced(segments, Offloads()) == segments
    assert coalesced(segments, Offloads(header=True)) == [bytes(VNET_SIZE) + s for s in segments]
    udp = full_segments(4, False, 8)
    assert len(coalesced(udp, Offloads(header=True, tcp=True))) == 8


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=0, max_size=80), min_size=1, max_size=8), st.integers(0, 255))
def test_no_row_whatever_is_in_it_breaks_the_coalescer(payloads: list[bytes], first: int) -> None:
    bench = Bench(1500)
    width = max(16, (max(map(len, payloads)) + 15) & ~15)
    plain = rows([bytes([first]) + p[1:] for p in payloads], width)
    Coalescer(OFFLOADS).packets(bench.core, bench.core.peers[1], plain, len(payloads))
