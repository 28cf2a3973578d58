"""The small parts that packets lean on, against plain models of them."""

from __future__ import annotations

import contextlib
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pump_peer import ip_packet

from shadowmesh.dataplane import icmp, wire
from shadowmesh.dataplane.aead import FakeAead, InvalidTag
from shadowmesh.dataplane.packets import Sort, addresses, inner_size, sort_of
from shadowmesh.dataplane.prefixes import PrefixMap
from shadowmesh.dataplane.replay import ReplayWindow
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import MalformedError


class PlainWindow:
    """What a replay window means."""

    def __init__(self) -> None:
        self.top, self.seen = -1, set[int]()

    def accept(self, n: int) -> bool:
        if n <= self.top - m.REPLAY_WINDOW or n in self.seen:
            return False
        self.seen.add(n)
        self.top = max(self.top, n)
        return True


steps = st.one_of(
    st.integers(-20, 20), st.integers(-m.REPLAY_WINDOW - 3, m.REPLAY_WINDOW + 3), st.integers(-200_000, 200_000)
)


@given(st.lists(st.tuples(steps, st.integers(1, 70)), max_size=60))
def test_the_replay_window_is_a_set_of_the_last_65536(moves: list[tuple[int, int]]) -> None:
    window, plain = ReplayWindow(), PlainWindow()
    for step, run in moves:
        first = max(0, plain.top + step)
        if run % 2:  # one at a time
            for n in range(first, first + run):
                assert window.accept(n) == plain.accept(n)
        else:
            assert window.accept_run(first, run) == (first > plain.top)
            if first > plain.top:
                assert all(plain.accept(n) for n in range(first, first + run))
            else:
                for n in range(first, first + run):
                    assert window.accept(n) == plain.accept(n)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=20), st.integers(0, 2**32 - 1))
def test_lookup_is_the_longest_prefix(entries: list[tuple[int, int]], address: int) -> None:
    networks = {IPv4Network((n, length), strict=False): object() for n, length in entries}
    found: PrefixMap[object] = PrefixMap()
    for network, value in networks.items():
        found.put(network, value)
    holding = [n for n in networks if IPv4Address(address) in n]
    expected = networks[max(holding, key=lambda n: n.prefixlen)] if holding else None
    for _ in range(2):  # the second time from the cache
        assert found.lookup(IPv4Address(address).packed) is expected
    for network, value in networks.items():
        found.discard(network, object())  # another's value: stays
        found.discard(network, value)
    assert found.lookup(IPv4Address(address).packed) is None


def test_both_families_live_in_one_map() -> None:
    found: PrefixMap[str] = PrefixMap()
    found.put(ip_network("0.0.0.0/0"), "v4")
    found.put(ip_network("fd07::/16"), "v6")
    assert found.lookup(IPv4Address("1.2.3.4").packed) == "v4"
    assert found.lookup(IPv6Address("fd07::1").packed) == "v6"
    assert found.lookup(IPv6Address("fe80::1").packed) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_some_sort_and_never_an_error(data: bytes) -> None:
    assert sort_of(data) in Sort
    size = inner_size(data)
    assert 0 <= size <= len(data)
    assert not size or addresses(data) is not None


PATH = m.Path(m.Slot(3), SockAddr("192.0.2.1", 5), IPv4Address("192.0.2.9"), b"prefix")
COMMANDS: list[m.Command] = [
    m.AddTun(m.NetIndex(1), 5, 1376, (ip_network("10.0.0.1/32"), ip_network("fd00::1/128"))),
    m.SetLocal(m.NetIndex(1), ()),
    m.SetMtu(m.NetIndex(1), 1280),
    m.RemoveTun(m.NetIndex(1)),
    m.AddIdentity(m.NetIndex(1), bytes(32)),
    m.RemoveIdentity(m.NetIndex(1)),
    m.AddSocket(m.Slot(1), 6),
    m.RemoveSocket(m.Slot(1)),
    m.AddStream(m.Slot(2), 7),
    m.RemoveStream(m.Slot(2)),
    m.PutPeer(m.PeerIndex(1), m.NetIndex(1), (IPv6Network("fd00::/64"),), True),
    m.RemovePeer(m.PeerIndex(1)),
    m.SetPath(m.PeerIndex(1), PATH, m.Path(m.Slot(2)), 1200),
    m.SetPath(m.PeerIndex(1), None),
    m.Install(m.PeerIndex(1), m.Session(1, 2, b"a" * 32, b"b" * 32, True, 1.5, 181.5)),
    m.DropSessions(m.PeerIndex(1), (1, 2)),
    m.DropSessions(m.PeerIndex(1), None),
    m.SetFilter(m.NetIndex(1), b"x"),
    m.Send(PATH, b"data"),
    m.Keepalive(m.PeerIndex(1)),
    m.Arm(m.PeerIndex(1), m.Edges.RX_ANY | m.Edges.TX_DATA),
    m.Unstage(m.PeerIndex(1)),
]
EVENTS: list[m.Event] = [
    m.Datagram(1.0, PATH, m.DatagramKind.DISCO, b"x"),
    m.Wants(1.0, m.PeerIndex(1)),
    m.Confirmed(1.0, m.PeerIndex(1), 7),
    m.Edge(1.0, m.PeerIndex(1), m.Edges.RX_DATA),
    m.Source(1.0, m.PeerIndex(1), m.Path(m.Slot(2))),
    m.TooBig(1.0, PATH, 1400),
    m.DescriptorGone(1.0, m.DescriptorKind.TUN, 3, 77),
    m.Lost(1.0, m.DatagramKind.STUN, 9),
    m.Unclaimed(1.0, PATH, 0xFFFFFFFF, 1432),
]


def test_every_command_and_event_crosses_the_process_unchanged() -> None:
    assert {type(c) for c in COMMANDS} == set(wire.COMMANDS)
    assert {type(e) for e in EVENTS} == set(wire.EVENTS)
    for value in EVENTS:
        assert wire.decode(wire.encode(value)) == value
    packed = wire.messages(COMMANDS * 2000)
    assert len(packed) > 1
    received: list[m.Command] = []
    for body, descriptors in packed:
        assert len(body) < 2 * wire.MESSAGE_BYTES and len(descriptors) <= wire.MESSAGE_DESCRIPTORS
        received += wire.unpack_message(body, descriptors)
    assert received == COMMANDS * 2000


@given(st.binary(max_size=60))
def test_any_bytes_from_a_pump_are_an_event_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        wire.decode(data)


def words(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    return sum(struct.unpack(f"!{len(padded) // 2}H", padded)) % 0xFFFF


def test_icmp_answers_carry_right_checksums_and_quote_the_packet() -> None:
    packet = ip_packet("10.7.0.1", "10.7.0.2", bytes(range(200)) * 7)
    answer = icmp.too_big(packet, 1200)
    assert answer is not None and words(answer[:20]) == 0 == words(answer[20:])
    assert answer[28:] == packet[:28] and answer[12:20] == packet[16:20] + packet[12:16]
    six = ip_packet("fd07::1", "fd07::2", bytes(1400))
    answer = icmp.too_big(six, 1280)
    assert answer is not None and len(answer) == 1280
    assert words(answer[8:40] + struct.pack("!II", len(answer) - 40, 58) + answer[40:]) == 0


@pytest.mark.parametrize(
    "packet", [ip_packet("10.7.0.1", "10.7.0.2", b"\3\4" + bytes(60), protocol=1), b""], ids=["error", "df"]
)
def test_no_icmp_answers_an_error_or_what_may_be_fragmented(packet: bytes) -> None:
    if not packet:
        packet = bytearray(ip_packet("10.7.0.1", "10.7.0.2", bytes(1400)))
        packet[6] = 0
    assert icmp.too_big(bytes(packet), 1200) is None


def test_the_fake_cipher_still_fails_on_a_wrong_key_or_counter() -> None:
    one, two = FakeAead(b"1" * 32), FakeAead(b"2" * 32)
    sealed = one.encrypt(bytes(12), b"text", None)
    assert one.decrypt(bytes(12), sealed, None) == b"text"
    for cipher, nonce in ((two, bytes(12)), (one, b"\1" * 12)):
        with pytest.raises(InvalidTag):
            cipher.decrypt(nonce, sealed, None)
