"""What every pump has to do (`docs/pump.md`), told as behaviour. Each way to run a pump subclasses `Conformance` with its own rig."""

from __future__ import annotations

import errno
import itertools
import os
from collections import Counter

import pytest
from pump_peer import Keys, Peer, frame_header, initiation, ip_packet
from pump_rig import Rig
from tcp_segments import segment

from shadowmesh.dataplane.tcp import split
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr

NET, OTHER_NET = m.NetIndex(0), m.NetIndex(1)
SLOT, STREAM = m.Slot(0), m.Slot(9)
HOST, PEER = "10.7.0.1", "10.7.0.2"
HOST6, PEER6 = "fd07::1", "fd07::2"


def numbered(count: int, size: int = 100, start: int = 0, *, to_host: bool = True) -> list[bytes]:
    """Distinct packets between the two ends."""
    ends = (PEER, HOST) if to_host else (HOST, PEER)
    return [ip_packet(*ends, i.to_bytes(4, "big") + bytes(size - 4)) for i in range(start, start + count)]


def unpadded(packet: bytes) -> bytes:
    size = int.from_bytes(packet[2:4], "big") if packet[0] >> 4 == 4 else 40 + int.from_bytes(packet[4:6], "big")
    assert not any(packet[size:])
    return packet[:size]


def opened(keys: Keys, datagrams: list[bytes]) -> list[bytes]:
    return [unpadded(keys.opened(d)[1]) for d in datagrams]


class Conformance:
    """Uses the fixture `rig`: a pump with nothing in it yet."""

    @pytest.fixture
    def peer(self, rig: Rig) -> Peer:
        """Network 0 with one peer, direct on socket 0, without a session."""
        rig.add_net(NET, HOST + "/32")
        rig.add_socket(SLOT)
        return Peer(rig)

    # sessions

    def test_packets_wait_for_a_session_which_is_wanted_once(self, rig: Rig, peer: Peer) -> None:
        packets = numbered(5, to_host=False)
        rig.host_sends(NET, *packets)
        (wants,) = rig.expect(m.Wants)
        assert wants.peer == peer.index
        rig.host_sends(NET, *numbered(1, start=5, to_host=False))
        keys = peer.session(7)
        assert opened(keys, rig.sent_to("peer", 6)) == numbered(6, to_host=False)
        assert not [e for e in rig.drain() if isinstance(e, m.Wants)]

    def test_what_waits_is_bounded_and_the_oldest_go(self, rig: Rig, peer: Peer) -> None:
        rig.host_sends(NET, *numbered(300, to_host=False))
        rig.expect_counter(peer.index, "drop_queue", 44)
        keys = peer.session(7)
        assert opened(keys, rig.sent_to("peer", 256)) == numbered(256, start=44, to_host=False)

    def test_unstage_drops_what_waits_and_wants_may_come_again(self, rig: Rig, peer: Peer) -> None:
        rig.host_sends(NET, *numbered(3, to_host=False))
        rig.expect(m.Wants)
        rig.apply(m.Unstage(peer.index))
        rig.sync()
        rig.host_sends(NET, *numbered(1, start=3, to_host=False))
        rig.expect(m.Wants)
        keys = peer.session(7)
        assert opened(keys, rig.sent_to("peer", 1)) == numbered(1, start=3, to_host=False)

    def test_next_is_promoted_by_its_first_packet_under_traffic(self, rig: Rig, peer: Peer) -> None:
        old = peer.session(7)
        rig.arrive(SLOT, "peer", *(old.seal(p) for p in numbered(20)))
        new = peer.session(8, initiator=False)
        rig.sync()
        rig.host_sends(NET, *numbered(10, to_host=False))
        assert opened(old, rig.sent_to("peer", 10)) == numbered(10, to_host=False)  # unconfirmed: not yet sent on
        assert not [e for e in rig.drain() if isinstance(e, m.Confirmed)]
        rig.arrive(SLOT, "peer", old.seal(numbered(1, start=20)[0]), new.seal(numbered(1, start=21)[0]))
        (confirmed,) = rig.expect(m.Confirmed)
        assert (confirmed.peer, confirmed.local_index) == (peer.index, 8)
        rig.host_sends(NET, *numbered(10, to_host=False))
        assert opened(new, rig.sent_to("peer", 10)) == numbered(10, to_host=False)
        rig.arrive(SLOT, "peer", old.seal(numbered(1, start=22)[0]))  # previous still receives
        assert rig.host_got(NET, 23) == numbered(23)

    def test_what_waited_goes_out_when_a_responder_is_confirmed(self, rig: Rig, peer: Peer) -> None:
        rig.host_sends(NET, *numbered(3, to_host=False))
        rig.expect(m.Wants)
        keys = peer.session(7, initiator=False)
        rig.arrive(SLOT, "peer", keys.seal(b""))
        rig.expect(m.Confirmed)
        assert opened(keys, rig.sent_to("peer", 3)) == numbered(3, to_host=False)

    def test_an_initiators_session_is_current_at_once_and_the_older_two_still_receive(
        self, rig: Rig, peer: Peer
    ) -> None:
        first, second = peer.session(7), peer.session(8)
        rig.sync()
        rig.host_sends(NET, *numbered(1, to_host=False))
        assert opened(second, rig.sent_to("peer", 1)) == numbered(1, to_host=False)
        third = peer.session(9, initiator=False)
        packets = numbered(3)
        rig.arrive(SLOT, "peer", first.seal(packets[0]), second.seal(packets[1]), third.seal(packets[2]))
        assert rig.host_got(NET, 3) == packets

    def test_a_session_ends_when_it_dies_even_if_nobody_says_so(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7, lifetime=0.4)
        rig.arrive(SLOT, "peer", keys.seal(numbered(1)[0]))
        assert rig.host_got(NET, 1) == numbered(1)
        rig.pass_time(0.5)
        rig.arrive(SLOT, "peer", *(keys.seal(p) for p in numbered(3)))
        rig.expect_counter(peer.index, "drop_no_session", 3)
        rig.host_sends(NET, *numbered(1, to_host=False))
        rig.expect(m.Wants)
        assert rig.host_got(NET, 0) == []
        assert rig.sent_to("peer", 0) == []

    def test_an_index_may_be_used_again_by_another_peer(self, rig: Rig, peer: Peer) -> None:
        other = Peer(rig, 2, name="other", inner="10.7.0.3")
        peer.session(7)
        keys = other.session(7)
        rig.apply(m.DropSessions(peer.index, (7,)))  # the old owner's end must not take the new owner's place
        rig.sync()
        packet = ip_packet("10.7.0.3", HOST)
        rig.arrive(SLOT, "other", keys.seal(packet))
        assert rig.host_got(NET, 1) == [packet]

    def test_dropped_sessions_neither_send_nor_receive(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.apply(m.DropSessions(peer.index, None))
        rig.sync()
        rig.arrive(SLOT, "peer", keys.seal(numbered(1)[0]))
        rig.expect_counter(None, "drop_no_session", 1)
        rig.host_sends(NET, *numbered(1, to_host=False))
        rig.expect(m.Wants)

    def test_a_removed_peer_is_gone(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.apply(m.RemovePeer(peer.index))
        rig.sync()
        rig.arrive(SLOT, "peer", keys.seal(numbered(1)[0]))
        rig.expect_counter(None, "drop_no_session", 1)
        rig.host_sends(NET, *numbered(1, to_host=False))
        rig.expect_counter(None, "drop_destination", 1)

    def test_a_counter_is_never_used_twice(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.sync()
        counters = []
        for _ in range(5):
            rig.host_sends(NET, *numbered(100, to_host=False))
            rig.apply(m.Keepalive(peer.index))
            counters += [keys.opened(d)[0] for d in rig.sent_to("peer", 101)]
        assert sorted(counters) == list(range(505))

    def test_packets_are_padded_to_sixteen_but_not_beyond_the_mtu(self, rig: Rig) -> None:
        rig.add_net(NET, HOST + "/32", mtu=1300)
        rig.add_socket(SLOT)
        keys = Peer(rig).session(7)
        rig.sync()
        for inner, wire in ((21, 32), (32, 32), (1290, 1296), (1299, 1300), (1300, 1300)):
            packet = ip_packet(HOST, PEER, bytes(inner - 20))
            rig.host_sends(NET, packet)
            (datagram,) = rig.sent_to("peer", 1)
            assert len(datagram) == wire + 32
            assert opened(keys, [datagram]) == [packet]

    # traffic

    @pytest.mark.parametrize("sizes", [(100,), (1376,), (64, 1000, 1376, 20), (1376, 1376, 700)], ids=str)
    def test_a_burst_arrives_whole_in_order_and_once(self, rig: Rig, peer: Peer, sizes: tuple[int, ...]) -> None:
        keys = peer.session(7)
        rig.sync()
        lengths = list(itertools.islice(itertools.cycle(sizes), 300))
        inwards = [ip_packet(PEER, HOST, i.to_bytes(4, "big") + bytes(n))[: max(24, n)] for i, n in enumerate(lengths)]
        inwards = [ip_packet(PEER, HOST, p[20:]) for p in inwards]
        rig.arrive(SLOT, "peer", *(keys.seal(p) for p in inwards))
        assert rig.host_got(NET, 300) == inwards
        outwards = [ip_packet(HOST, PEER, p[20:]) for p in inwards]
        for start in range(0, 300, 50):
            rig.host_sends(NET, *outwards[start : start + 50])
            assert opened(keys, rig.sent_to("peer", 50)) == outwards[start : start + 50]

    def test_ipv6_inside(self, rig: Rig) -> None:
        rig.add_net(NET, HOST6 + "/128")
        rig.add_socket(SLOT)
        keys = Peer(rig, inner=PEER6).session(7)
        rig.sync()
        inwards = [ip_packet(PEER6, HOST6, bytes([i]) * 200) for i in range(50)]
        rig.arrive(SLOT, "peer", *map(keys.seal, inwards))
        assert rig.host_got(NET, 50) == inwards
        outwards = [ip_packet(HOST6, PEER6, bytes([i]) * 200) for i in range(50)]
        rig.host_sends(NET, *outwards)
        assert opened(keys, rig.sent_to("peer", 50)) == outwards

    def test_the_longest_prefix_says_whose_a_packet_is(self, rig: Rig, peer: Peer) -> None:
        wide = Peer(rig, 2, name="wide", inner="10.7.0.0/24")
        narrow_keys, wide_keys = peer.session(7), wide.session(8)
        rig.sync()
        rig.host_sends(NET, ip_packet(HOST, PEER), ip_packet(HOST, "10.7.0.77"))
        assert opened(narrow_keys, rig.sent_to("peer", 1)) == [ip_packet(HOST, PEER)]
        assert opened(wide_keys, rig.sent_to("wide", 1)) == [ip_packet(HOST, "10.7.0.77")]
        rig.arrive(SLOT, "wide", wide_keys.seal(ip_packet(PEER, HOST)))  # the narrower one's address
        rig.expect_counter(wide.index, "drop_source", 1)

    def test_two_networks_with_equal_addresses_stay_apart(self, rig: Rig) -> None:
        rig.add_socket(SLOT)
        rig.add_net(NET, HOST + "/32")
        rig.add_net(OTHER_NET, HOST + "/32")
        one, two = Peer(rig, 1, 0, "one"), Peer(rig, 2, 1, "two")
        one_keys, two_keys = one.session(7), two.session(8)
        rig.sync()
        a, b = numbered(20), numbered(20, start=100)
        for x, y in zip(a, b, strict=True):
            rig.arrive(SLOT, "one", one_keys.seal(x))
            rig.arrive(SLOT, "two", two_keys.seal(y))
        assert rig.host_got(NET, 20) == a
        assert rig.host_got(OTHER_NET, 20) == b
        rig.host_sends(NET, *numbered(5, to_host=False))
        rig.host_sends(OTHER_NET, *numbered(5, start=50, to_host=False))
        assert opened(one_keys, rig.sent_to("one", 5)) == numbered(5, to_host=False)
        assert opened(two_keys, rig.sent_to("two", 5)) == numbered(5, start=50, to_host=False)

    # what must not pass

    def test_inner_addresses_are_checked(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.sync()
        forged = [ip_packet("10.7.0.9", HOST), ip_packet("192.0.2.1", HOST, bytes(900)), ip_packet(PEER6, HOST6)]
        rig.arrive(SLOT, "peer", *map(keys.seal, forged * 2))
        rig.expect_counter(peer.index, "drop_source", 6)
        elsewhere = [ip_packet(PEER, "10.7.0.9"), ip_packet(PEER, "192.0.2.1"), ip_packet(PEER, "10.8.0.1")]
        groups = [ip_packet(PEER, "224.0.0.251"), ip_packet(PEER, "255.255.255.255")]
        rig.arrive(SLOT, "peer", *map(keys.seal, elsewhere + groups))
        rig.expect_counter(peer.index, "drop_destination", 5)
        junk = [b"\x45" * 3, bytes(40), b"\x45\0\xff\xff" + ip_packet(PEER, HOST)[4:], b"\x60" + bytes(30)]
        rig.arrive(SLOT, "peer", *map(keys.seal, junk))
        rig.expect_counter(peer.index, "drop_source", 10)
        rig.arrive(SLOT, "peer", keys.seal(numbered(1)[0]))
        assert rig.host_got(NET, 1) == numbered(1)

    def test_a_batch_of_forged_packets_is_dropped_too(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.sync()
        good = numbered(60)
        mixed = [ip_packet("10.7.0.9", HOST, bytes(100)) if i % 3 == 0 else good[i] for i in range(60)]
        rig.arrive(SLOT, "peer", *map(keys.seal, mixed))
        assert rig.host_got(NET, 40) == [p for i, p in enumerate(good) if i % 3]
        rig.expect_counter(peer.index, "drop_source", 20)

    def test_this_host_sends_only_from_its_own_addresses(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.sync()
        rig.host_sends(NET, ip_packet("10.8.0.1", PEER), ip_packet(HOST, "224.0.0.1"), ip_packet(HOST, "10.7.0.99"))
        rig.host_sends(NET, *numbered(1, to_host=False))
        assert opened(keys, rig.sent_to("peer", 1)) == numbered(1, to_host=False)
        assert rig.counter(None, "drop_source") == 1
        assert rig.counter(None, "drop_destination") == 2

    def test_a_replay_is_dropped(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.sync()
        datagrams = [keys.seal(p) for p in numbered(50)]
        rig.arrive(SLOT, "peer", *datagrams)
        assert rig.host_got(NET, 50) == numbered(50)
        rig.arrive(SLOT, "peer", *datagrams)
        rig.expect_counter(peer.index, "drop_duplicate", 50)
        late = keys.seal(numbered(1, start=50)[0])
        rig.arrive(SLOT, "peer", *datagrams[:25], late, *datagrams[25:])
        assert rig.host_got(NET, 1) == numbered(1, start=50)
        rig.expect_counter(peer.index, "drop_duplicate", 100)

    def test_what_comes_late_passes_within_the_window(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.sync()
        packets = numbered(4)
        rig.arrive(SLOT, "peer", keys.seal(packets[0], 100_000))
        rig.arrive(SLOT, "peer", keys.seal(packets[1], 100_000 - m.REPLAY_WINDOW + 1))
        rig.arrive(SLOT, "peer", keys.seal(packets[2], 99_999))
        assert rig.host_got(NET, 3) == packets[:3]
        rig.arrive(SLOT, "peer", keys.seal(packets[3], 100_000 - m.REPLAY_WINDOW))
        rig.expect_counter(peer.index, "drop_duplicate", 1)

    def test_damaged_packets_are_dropped_and_leave_the_window_alone(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.sync()
        good = keys.seal(numbered(1)[0])
        flipped = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(8, len(good))]
        cut = [good[:i] for i in range(32, len(good))]
        rig.arrive(SLOT, "peer", *flipped, *cut, good)
        assert rig.host_got(NET, 1) == numbered(1)
        rig.expect_counter(peer.index, "drop_auth", len(flipped) + len(cut))
        assert rig.host_got(NET, 0) == []

    def test_garbage_is_counted_and_nothing_else(self, rig: Rig, peer: Peer) -> None:
        peer.session(7)
        rig.sync()
        garbage = [
            b"x",
            b"\4\0\0\0",
            bytes(31),
            b"SM\x01\x09" + bytes(60),
            b"SM\x01\x02",
            b"\x80" + bytes(99),
            b"\4\0\0\0" + bytes(20),
        ]
        nested = frame_header(PEER, HOST) + frame_header(PEER, HOST) + bytes(60)
        rig.arrive(SLOT, "stranger", *garbage, nested, b"\4\0\0\0" + bytes(60))
        rig.settle()
        rig.expect_counter(None, "drop_auth", len(garbage) + 1)
        rig.expect_counter(None, "drop_no_session", 1)
        (unclaimed,) = rig.drain()
        assert isinstance(unclaimed, m.Unclaimed)

    def test_a_filter_that_the_pump_cannot_run_closes_the_network(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.apply(m.SetFilter(NET, b"unknown"))
        rig.sync()
        rig.arrive(SLOT, "peer", keys.seal(numbered(1)[0]))
        rig.host_sends(NET, *numbered(1, to_host=False))
        rig.expect_counter(peer.index, "drop_filter", 2)
        rig.apply(m.SetFilter(NET, None))
        rig.sync()
        rig.arrive(SLOT, "peer", keys.seal(numbered(1)[0]))
        assert rig.host_got(NET, 1) == numbered(1)

    # paths

    def test_also_sends_the_same_bytes_twice_and_a_double_is_delivered_once(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        relayed = m.Path(SLOT, rig.remote("relay"), prefix=frame_header(HOST, PEER))
        rig.apply(m.SetPath(peer.index, peer.path, relayed))
        rig.sync()
        rig.host_sends(NET, *numbered(70, size=700, to_host=False), *numbered(1, start=70, to_host=False))
        direct, double = rig.sent_to("peer", 71), rig.sent_to("relay", 71)
        assert [relayed.prefix + d for d in direct] == double
        assert opened(keys, direct)[:70] == numbered(70, size=700, to_host=False)
        inwards = [keys.seal(p) for p in numbered(50)]
        rig.arrive(SLOT, "peer", *inwards)
        rig.arrive(SLOT, "relay", *(frame_header(PEER, HOST) + d for d in inwards))
        rig.expect_counter(peer.index, "drop_duplicate", 50)
        assert rig.host_got(NET, 50) == numbered(50)
        assert not [e for e in rig.drain() if isinstance(e, m.Source)]  # both paths are known

    def test_a_thousand_path_switches_lose_and_double_nothing(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.add_socket(m.Slot(1))
        paths = [
            peer.path,
            m.Path(m.Slot(1), rig.remote("second")),
            m.Path(SLOT, rig.remote("relay"), prefix=frame_header(HOST, PEER)),
        ]
        seen: Counter[bytes] = Counter()
        for i in range(1000):
            rig.apply(m.SetPath(peer.index, paths[i % 3], paths[(i + 1) % 3] if i % 7 == 0 else None))
            rig.host_sends(NET, *numbered(1, start=i, to_host=False))
            if i % 50 == 49:
                rig.sync()
                rig.settle()
                for remote in ("peer", "second", "relay"):
                    for datagram in rig.sent_to(remote, 0):
                        seen[keys.opened(datagram[44:] if remote == "relay" else datagram)[1]] |= 1
        rig.until(
            lambda: rig.counter(peer.index, "tx_packets_direct") + rig.counter(peer.index, "tx_packets_relay") == 1000
        )
        for remote in ("peer", "second", "relay"):
            for datagram in rig.sent_to(remote, 0):
                seen[keys.opened(datagram[44:] if remote == "relay" else datagram)[1]] |= 1
        assert {unpadded(p) for p in seen} == set(numbered(1000, to_host=False))

    def test_a_path_change_keeps_the_old_socket_receiving(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.add_socket(m.Slot(1))
        rig.apply(m.SetPath(peer.index, m.Path(m.Slot(1), rig.remote("second"))))
        rig.sync()
        rig.arrive(SLOT, "peer", keys.seal(numbered(1)[0]))
        assert rig.host_got(NET, 1) == numbered(1)

    def test_another_source_is_told_at_most_once_a_second(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.sync()
        rig.arrive(SLOT, "elsewhere", *(keys.seal(p) for p in numbered(30)))
        (source,) = rig.expect(m.Source)
        assert (source.peer, source.path.via, source.path.remote) == (peer.index, SLOT, rig.remote("elsewhere"))
        rig.settle()
        assert not [e for e in rig.drain() if isinstance(e, m.Source)]
        rig.pass_time(1.05)
        rig.arrive(SLOT, "elsewhere", keys.seal(numbered(1, start=30)[0]))
        rig.expect(m.Source)
        rig.sync()
        rig.host_sends(NET, *numbered(1, to_host=False))
        rig.sent_to("peer", 1)  # but the path stays: the engine decides

    def test_a_plain_wireguard_peer_is_followed(self, rig: Rig) -> None:
        rig.add_net(NET, HOST + "/32")
        rig.add_socket(SLOT)
        keys = Peer(rig, roam=True).session(7)
        rig.arrive(SLOT, "elsewhere", keys.seal(numbered(1)[0]))
        rig.expect(m.Source)
        rig.host_sends(NET, *numbered(1, to_host=False))
        assert opened(keys, rig.sent_to("elsewhere", 1)) == numbered(1, to_host=False)

    def test_relayed_traffic_is_the_same_with_a_header_before_it(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        prefix = frame_header(HOST, PEER)
        rig.apply(m.SetPath(peer.index, m.Path(SLOT, rig.remote("relay"), prefix=prefix)))
        rig.sync()
        rig.host_sends(NET, *numbered(50, size=900, to_host=False))
        frames = rig.sent_to("relay", 50)
        assert {f[:44] for f in frames} == {prefix}
        assert opened(keys, [f[44:] for f in frames]) == numbered(50, size=900, to_host=False)
        rig.arrive(SLOT, "relay", *(frame_header(PEER, HOST) + keys.seal(p) for p in numbered(50, size=900)))
        assert rig.host_got(NET, 50) == numbered(50, size=900)
        assert not [e for e in rig.drain() if isinstance(e, m.Source)]
        rig.expect_counter(peer.index, "rx_packets_relay", 50)
        rig.expect_counter(peer.index, "tx_bytes_relay", 50 * 920)
        assert rig.counter(peer.index, "rx_packets_direct") == rig.counter(peer.index, "tx_packets_direct") == 0

    def test_streams_carry_frames(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.add_stream(STREAM)
        prefix = frame_header(HOST, PEER)
        rig.apply(m.SetPath(peer.index, m.Path(STREAM, prefix=prefix)))
        rig.sync()
        sizes = [100, 100, 1300, 64, 1300, 1300, 1300] * 10
        outwards = [ip_packet(HOST, PEER, bytes(n)) for n in sizes]
        rig.host_sends(NET, *outwards)
        frames = rig.frames_out(STREAM, 70)
        assert {f[:44] for f in frames} == {prefix}
        assert opened(keys, [f[44:] for f in frames]) == outwards
        inwards = [ip_packet(PEER, HOST, bytes(n)) for n in sizes]
        rig.frames_in(STREAM, *(frame_header(PEER, HOST) + keys.seal(p) for p in inwards))
        assert rig.host_got(NET, 70) == inwards
        rig.frames_in(STREAM, b"SM\x01\x03control")
        (event,) = rig.expect(m.Datagram)
        assert (event.kind, event.path, event.data) == (
            m.DatagramKind.RELAY_CONTROL,
            m.Path(STREAM),
            b"SM\x01\x03control",
        )
        rig.close_stream(STREAM)
        (gone,) = rig.expect(m.DescriptorGone)
        assert (gone.what, gone.index) == (m.DescriptorKind.STREAM, STREAM)

    def test_a_packet_above_the_paths_mtu_is_answered_by_icmp(self, rig: Rig) -> None:
        rig.add_net(NET, HOST + "/32")
        rig.add_socket(SLOT)
        peer = Peer(rig, mtu=1200)
        keys = peer.session(7)
        rig.sync()
        rig.host_sends(NET, ip_packet(HOST, PEER, bytes(1300)), ip_packet(HOST, PEER, bytes(1180)))
        (answer,) = rig.host_got(NET, 1)
        assert (answer[9], answer[20:22], answer[26:28]) == (1, b"\3\4", (1200).to_bytes(2, "big"))
        assert opened(keys, rig.sent_to("peer", 1)) == [ip_packet(HOST, PEER, bytes(1180))]
        rig.expect_counter(peer.index, "drop_too_big", 1)

    def test_a_tcp_segment_above_the_paths_mtu_goes_in_parts(self, rig: Rig) -> None:
        rig.add_net(NET, HOST + "/32")
        rig.add_socket(SLOT)
        keys = Peer(rig, mtu=700).session(7)
        rig.sync()
        whole = segment(4, bytes(range(240)) * 5, ends=(HOST, PEER))
        rig.host_sends(NET, whole)
        assert opened(keys, rig.sent_to("peer", 2)) == split(whole, 700)

    # edges and keepalives

    def test_long_packets_have_an_edge_of_their_own(self, rig: Rig, peer: Peer) -> None:
        peer.session(7)
        rig.apply(m.Arm(peer.index, m.Edges.TX_LONG))
        rig.sync()
        rig.host_sends(NET, *numbered(50, to_host=False))
        rig.settle()
        assert not rig.drain()
        rig.host_sends(NET, ip_packet(HOST, PEER, bytes(m.LONG)))
        (edge,) = rig.expect(m.Edge)
        assert (edge.peer, edge.which) == (peer.index, m.Edges.TX_LONG)

    def test_edges_are_told_once_each_time_they_are_armed(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.apply(m.Arm(peer.index, m.Edges.TX_DATA | m.Edges.RX_DATA | m.Edges.RX_ANY))
        rig.sync()
        rig.arrive(SLOT, "peer", keys.seal(b""))  # a keepalive is not data
        (edge,) = rig.expect(m.Edge)
        assert edge.which == m.Edges.RX_ANY
        rig.arrive(SLOT, "peer", *(keys.seal(p) for p in numbered(50)))
        (edge,) = rig.expect(m.Edge)
        assert edge.which == m.Edges.RX_DATA
        rig.host_sends(NET, *numbered(50, to_host=False))
        (edge,) = rig.expect(m.Edge)
        assert (edge.peer, edge.which) == (peer.index, m.Edges.TX_DATA)
        rig.host_sends(NET, *numbered(2, to_host=False))
        rig.arrive(SLOT, "peer", *(keys.seal(p) for p in numbered(2)))
        rig.settle()
        assert not rig.drain()
        rig.apply(m.Arm(peer.index, m.Edges.RX_DATA))
        rig.sync()
        rig.arrive(SLOT, "peer", keys.seal(numbered(1)[0]))
        rig.expect(m.Edge)

    def test_a_keepalive_is_empty_and_not_data(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.apply(m.Arm(peer.index, m.Edges.TX_DATA), m.Keepalive(peer.index))
        (datagram,) = rig.sent_to("peer", 1)
        assert keys.opened(datagram) == (0, b"")
        rig.arrive(SLOT, "peer", keys.seal(b""), keys.seal(b""))
        rig.settle()
        assert not rig.drain()
        assert rig.host_got(NET, 0) == []
        assert rig.counter(peer.index, "tx_packets_direct") == rig.counter(peer.index, "rx_packets_direct") == 0
        assert rig.counter(peer.index, "last_rx_any_ns") > 0 == rig.counter(peer.index, "last_rx_data_ns")

    # datagrams for the engine

    def test_datagrams_go_up_by_kind_with_the_path_to_answer_on(self, rig: Rig, peer: Peer) -> None:
        key = os.urandom(32)
        rig.apply(m.AddIdentity(NET, key))
        rig.sync()
        stun = b"\1\1\0\0\x21\x12\xa4\x42" + os.urandom(12)
        hello, disco, control = initiation(key), b"SM\x01\x01" + os.urandom(80), b"SM\x01\x03" + os.urandom(20)
        rig.arrive(SLOT, "peer", hello, disco, control, stun)
        rig.arrive(SLOT, "relay", frame_header(PEER, HOST) + hello, frame_header(PEER, HOST) + disco)
        events = rig.expect(m.Datagram, 6)
        direct = {e.kind: e for e in events if not e.path.prefix}
        assert {k: e.data for k, e in direct.items()} == {
            m.DatagramKind.HANDSHAKE: hello, m.DatagramKind.DISCO: disco, m.DatagramKind.RELAY_CONTROL: control, m.DatagramKind.STUN: stun,
        }  # fmt: skip
        assert all((e.path.via, e.path.remote) == (SLOT, rig.remote("peer")) for e in direct.values())
        relayed = {e.kind: e for e in events if e.path.prefix}
        assert {k: e.data for k, e in relayed.items()} == {m.DatagramKind.HANDSHAKE: hello, m.DatagramKind.DISCO: disco}
        assert all(e.path.prefix == frame_header(HOST, PEER) for e in relayed.values())
        for event in events:
            rig.apply(m.Send(event.path, b"answer to " + event.kind.name.encode()))
        assert len(rig.sent_to("peer", 4)) == 4
        assert {f[:44] for f in rig.sent_to("relay", 2)} == {frame_header(HOST, PEER)}

    def test_a_handshake_for_no_identity_never_goes_up(self, rig: Rig, peer: Peer) -> None:
        rig.apply(m.AddIdentity(NET, os.urandom(32)))
        rig.sync()
        response = b"\2\0\0\0" + os.urandom(88)
        rig.arrive(SLOT, "stranger", initiation(os.urandom(32)), response, b"\3\0\0\0" + os.urandom(60))
        rig.settle()
        assert not rig.drain()
        rig.expect_counter(None, "drop_auth", 3)

    def test_a_cookie_reply_goes_up_if_it_answers_a_handshake_of_ours(self, rig: Rig, peer: Peer) -> None:
        message = initiation(os.urandom(32))
        rig.apply(m.Send(peer.path, message))
        rig.sync()
        reply = b"\3\0\0\0" + message[4:8] + os.urandom(56)
        rig.arrive(SLOT, "peer", reply)
        (event,) = rig.expect(m.Datagram)
        assert (event.kind, event.data) == (m.DatagramKind.HANDSHAKE, reply)

    @pytest.mark.parametrize("kind", list(m.DatagramKind))
    def test_a_full_ring_of_one_kind_tells_what_it_lost_and_leaves_the_others_alone(
        self, rig: Rig, peer: Peer, kind: m.DatagramKind
    ) -> None:
        key = os.urandom(32)
        rig.apply(m.AddIdentity(NET, key))
        rig.sync()
        disco = b"SM\x01\x01" + os.urandom(80)
        flood = {
            m.DatagramKind.HANDSHAKE: initiation(key), m.DatagramKind.DISCO: disco, m.DatagramKind.RELAY_CONTROL: b"SM\x01\x03" + os.urandom(80),
            m.DatagramKind.STUN: b"\1\1\0\0\x21\x12\xa4\x42" + os.urandom(90),
        }  # fmt: skip
        number = m.RING_SIZES[kind] + 600
        rig.arrive(SLOT, "stranger", *[flood[kind]] * number)
        other = m.DatagramKind.STUN if kind is m.DatagramKind.DISCO else m.DatagramKind.DISCO
        rig.arrive(SLOT, "peer", flood[other])
        got = dict.fromkeys(m.DatagramKind, 0)
        lost = 0

        def complete() -> bool:
            nonlocal lost
            for event in rig.pump.drain(10_000):
                if isinstance(event, m.Datagram):
                    got[event.kind] += 1
                elif isinstance(event, m.Lost):
                    assert event.kind is kind
                    lost += event.n
            return got[kind] + lost == number and got[other] == 1

        if rig.real:
            rig.pass_time(0.3)  # nobody drains while the flood comes
        rig.until(complete)
        assert lost > 0
        assert got[kind] >= m.RING_SIZES[kind]

    def test_a_packet_of_an_unknown_index_is_told_once_a_second_for_each_place(self, rig: Rig, peer: Peer) -> None:
        """As after a restart: peers go on with sessions that this pump never had, in runs and one by one."""
        lost = Keys(local=0xDEADBEEF, remote=5)
        packets = [lost.seal(p) for p in numbered(40)]
        header = frame_header(PEER, HOST)
        rig.arrive(SLOT, "peer", *packets)
        rig.arrive(SLOT, "relay", *(header + p for p in packets))
        told = rig.expect(m.Unclaimed, 2)
        rig.settle()
        told += [e for e in rig.drain() if isinstance(e, m.Unclaimed)]
        answer = frame_header(HOST, PEER)
        assert {(e.path.remote, e.path.prefix, e.receiver_index, e.size) for e in told} == {
            (rig.remote("peer"), b"", 0xDEADBEEF, len(packets[0])),
            (rig.remote("relay"), answer, 0xDEADBEEF, len(packets[0])),
        }
        assert len(told) == 2
        rig.expect_counter(None, "drop_no_session", 80)
        rig.pass_time(1.05)
        rig.arrive(SLOT, "peer", packets[0])
        rig.expect(m.Unclaimed)

    def test_a_flood_of_unknown_indices_is_bounded_and_starves_nobody(self, rig: Rig, peer: Peer) -> None:
        lost = Keys(local=7, remote=5)
        frames = [frame_header(f"10.8.{n >> 8}.{n & 255}", HOST) + lost.seal(numbered(1)[0]) for n in range(3000)]
        for start in range(0, 3000, 100):
            rig.arrive(SLOT, "stranger", *frames[start : start + 100])
            rig.settle()
        rig.expect_counter(None, "drop_no_session", 3000)
        rig.drain()
        keys = peer.session(8)
        rig.sync()
        rig.arrive(SLOT, "elsewhere", keys.seal(numbered(1)[0]))
        rig.expect(m.Source)
        rig.arrive(SLOT, "peer", lost.seal(numbered(1)[0]))
        rig.expect(m.Unclaimed)

    # descriptors

    def test_the_networks_weather_does_not_close_a_socket(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.remote("deaf")
        rig.apply(m.SetPath(peer.index, m.Path(SLOT, rig.remote("deaf"))))
        rig.sync()
        rig.lose_remote("deaf")
        for _ in range(5):  # ECONNREFUSED comes back by ICMP
            rig.host_sends(NET, *numbered(3, to_host=False))
        rig.apply(m.Send(m.Path(SLOT, SockAddr("255.255.255.255", 9)), b"x"))  # EACCES
        rig.apply(m.Send(m.Path(SLOT, SockAddr("240.0.0.1", 9)), b"x"))  # ENETUNREACH or EINVAL
        for error in (errno.EPERM, errno.ECONNREFUSED, errno.ENETUNREACH, errno.ENOBUFS):
            if rig.fail_sends(SLOT, error):
                rig.host_sends(NET, *numbered(1, to_host=False))
        rig.fail_sends(SLOT, 0)
        rig.apply(m.SetPath(peer.index, peer.path))
        rig.sync()
        rig.host_sends(NET, *numbered(1, to_host=False))
        assert opened(keys, rig.sent_to("peer", 1)) == numbered(1, to_host=False)
        rig.arrive(SLOT, "peer", keys.seal(numbered(1)[0]))
        assert rig.host_got(NET, 1) == numbered(1)
        assert not [e for e in rig.drain() if isinstance(e, m.DescriptorGone)]

    def test_a_datagram_that_is_too_big_is_told(self, rig: Rig, peer: Peer) -> None:
        rig.fail_sends(SLOT, errno.EMSGSIZE)
        rig.apply(m.Send(peer.path, bytes(65508)))
        (event,) = rig.expect(m.TooBig)
        assert (event.path, event.size) == (peer.path, 65508)

    def test_sockets_come_and_go(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.add_socket(m.Slot(1))
        rig.apply(m.RemoveSocket(SLOT))
        rig.sync(m.Slot(1))
        rig.host_sends(NET, *numbered(2, to_host=False))
        rig.expect_counter(peer.index, "drop_queue", 2)
        rig.add_socket(SLOT)
        rig.sync()
        rig.host_sends(NET, *numbered(1, start=2, to_host=False))
        assert opened(keys, rig.sent_to("peer", 1)) == numbered(1, start=2, to_host=False)

    def test_an_interface_may_go_and_come_back(self, rig: Rig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.apply(m.RemoveTun(NET))
        rig.sync()
        rig.arrive(SLOT, "peer", keys.seal(numbered(1)[0]))
        rig.expect_counter(peer.index, "drop_destination", 1)
