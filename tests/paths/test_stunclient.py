"""Whom the STUN client asks, and what it concludes."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.hostaddresses import HostAddresses
from shadowmesh.model.pump import Slot
from shadowmesh.paths.candidates import BoundSocket, HostView
from shadowmesh.paths.netcheck import NatVerdict, verdict
from shadowmesh.paths.stunclient import Ask, StunClient

SLOT = Slot(1)
SOCKET = BoundSocket(SLOT, 4000)
ONE, ONE_NEXT = SockAddr("198.51.100.1", 8443), SockAddr("198.51.100.1", 8444)
TWO = SockAddr("198.51.100.2", 9545)
TWO_NEXT = SockAddr("198.51.100.2", 9546)
MAPPED = SockAddr("203.0.113.7", 40000)
VIEW = HostView(HostAddresses((ipaddress.IPv4Interface("192.168.1.5/24"),)))


class Play:
    """A client in virtual time; `server` gives the reflexive address that a server sees, None for no answer."""

    def __init__(self, server: Callable[[Ask], SockAddr | None]) -> None:
        self.now = 0.0
        self.client = StunClient(random.Random(1))
        self.server = server
        self.asked: list[tuple[float, Ask]] = []
        self.answers_other_port = False
        self.changes = 0

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        waiting: list[tuple[float, Ask, SockAddr]] = []
        while True:
            for ask in self.client.take():
                self.asked.append((self.now, ask))
                mapped = self.server(ask)
                if mapped is not None and (not ask.change_port or self.answers_other_port):
                    waiting.append((self.now + 0.03, ask, mapped))
            due = min([self.client.deadline, *(at for at, _, _ in waiting), end])
            self.now = max(self.now, due)
            if due >= end:
                return
            for entry in [w for w in waiting if w[0] <= self.now]:
                waiting.remove(entry)
                _, ask, mapped = entry
                source = SockAddr(ask.server.host, ask.server.port + ask.change_port)
                self.changes += self.client.answered(ask.tx_id, mapped, SLOT, source, self.now)
            self.client.tick(self.now)


def test_two_servers_on_two_hosts_are_asked() -> None:
    play = Play(lambda ask: MAPPED)
    play.client.configure([ONE, ONE_NEXT, TWO], [SOCKET], 0.0)
    play.run(3.0)
    assert {a.server for _, a in play.asked if not a.change_port} == {ONE, TWO}
    assert play.client.reflexive == (MAPPED,)
    assert play.client.verdict(VIEW) == NatVerdict("port_restricted", "endpoint-independent", MAPPED)
    assert 0.02 < play.client.rtt[ONE] < 0.04


def test_an_answer_from_a_port_never_sent_to_shows_a_looser_filter() -> None:
    play = Play(lambda ask: MAPPED)
    play.answers_other_port = True
    play.client.configure([ONE, ONE_NEXT, TWO], [SOCKET], 0.0)
    play.run(3.0)
    assert play.client.verdict(VIEW).type == "restricted"


def test_with_one_host_its_second_port_is_asked_after_the_filter_was_tried() -> None:
    play = Play(lambda ask: MAPPED)
    play.client.configure([ONE, ONE_NEXT], [SOCKET], 0.0)
    play.run(5.0)
    order = [(a.server, a.change_port) for _, a in play.asked]
    assert order.index((ONE, True)) < order.index((ONE_NEXT, False))
    assert play.client.verdict(VIEW).type == "port_restricted"


def test_another_port_for_each_server_is_a_symmetric_nat() -> None:
    play = Play(lambda ask: SockAddr("203.0.113.7", 40000 + ask.server.port))
    play.client.configure([ONE, TWO], [SOCKET], 0.0)
    play.run(3.0)
    assert play.client.verdict(VIEW).symmetric
    changes = play.changes
    play.server = lambda ask: SockAddr("203.0.113.7", 50000 + ask.server.port)
    play.run(300.0)
    assert play.changes - changes <= 4, "its ports change all the time: that alone is no move"


def test_silence_is_repeated_given_up_and_called_blocked() -> None:
    play = Play(lambda ask: None)
    play.client.configure([ONE, TWO], [SOCKET], 0.0)
    play.run(10.0)
    assert [round(at, 2) for at, a in play.asked if a.server == ONE] == [0.0, 0.25, 0.75, 1.75, 3.0]
    assert play.client.verdict(VIEW, tcp_works=True).type == "udp_blocked"
    assert play.client.verdict(VIEW).type == "unknown", "perhaps nothing gets out at all"


def test_one_server_that_is_gone_changes_nothing() -> None:
    gone: set[str] = set()
    for mapped in (lambda ask: MAPPED, lambda ask: SockAddr(MAPPED.host, 40000 + ask.server.port)):
        play = Play(lambda ask, mapped=mapped: None if ask.server.host in gone else mapped(ask))  # type: ignore[misc]
        gone.clear()
        play.client.configure([ONE, ONE_NEXT, TWO, TWO_NEXT], [SOCKET], 0.0)
        play.run(5.0)
        before, reflexive = play.client.verdict(VIEW, tcp_works=True), set(play.client.reflexive)
        gone.add(TWO.host)
        for _ in range(30):
            play.run(20.0)
            assert play.client.verdict(VIEW, tcp_works=True).type == before.type
            assert reflexive <= set(play.client.reflexive)


def test_when_all_fall_silent_and_tcp_works_it_is_udp_that_is_blocked() -> None:
    play = Play(lambda ask: MAPPED)
    play.client.configure([ONE, ONE_NEXT, TWO, TWO_NEXT], [SOCKET], 0.0)
    play.run(5.0)
    play.server = lambda ask: None
    play.client.ask_all(play.now, every=True)
    play.run(5.0)
    assert play.client.verdict(VIEW, tcp_works=True).type == "udp_blocked"
    play.server = lambda ask: MAPPED
    play.run(80.0)
    assert play.client.verdict(VIEW, tcp_works=True).type == "port_restricted"


def test_a_port_that_one_server_alone_sees_makes_no_symmetric_nat() -> None:
    odd: dict[SockAddr, SockAddr] = {}
    play = Play(lambda ask: odd.get(ask.server, MAPPED))
    play.client.configure([ONE, ONE_NEXT, TWO, TWO_NEXT], [SOCKET], 0.0)
    play.run(5.0)
    for port in range(50000, 50010):
        odd[TWO] = SockAddr(MAPPED.host, port)
        for _ in range(400):
            play.run(0.2)
            assert play.client.verdict(VIEW).type == "port_restricted"
    assert play.client.reflexive == (MAPPED,)


def test_another_port_for_each_host_but_not_for_each_port_is_symmetric_too() -> None:
    play = Play(lambda ask: SockAddr(MAPPED.host, 40000 + int(ask.server.host.split(".")[-1])))
    play.client.configure([ONE, ONE_NEXT, TWO, TWO_NEXT], [SOCKET], 0.0)
    play.run(5.0)
    assert play.client.verdict(VIEW).symmetric


def test_a_changed_address_is_seen_within_a_refresh_and_asked_everywhere() -> None:
    play = Play(lambda ask: MAPPED)
    play.client.configure([ONE, TWO], [SOCKET], 0.0)
    play.run(5.0)
    moved = SockAddr("203.0.113.99", 41000)
    play.server = lambda ask: moved
    play.run(80.0)
    assert play.client.reflexive == (moved,)
    assert play.changes


def test_answers_to_no_question_count_nothing() -> None:
    play = Play(lambda ask: None)
    play.client.configure([ONE], [SOCKET], 0.0)
    assert not play.client.answered(bytes(12), MAPPED, SLOT, ONE, 0.1)
    assert not play.client.reflexive


def test_no_nat_where_the_reflexive_address_is_an_own_one() -> None:
    own = HostView(HostAddresses((ipaddress.IPv4Interface("203.0.113.7/32"),)))
    assert verdict(own, {ONE: MAPPED}).type == "none"
    assert verdict(VIEW, {}).type == "unknown"
    assert verdict(VIEW, {ONE: MAPPED}).type == "unknown"


def test_a_server_that_tells_another_address_each_time_makes_few_questions_and_changes() -> None:
    """It may be one network's alone, and all networks here ask and move by what is seen."""
    told = [SockAddr(f"203.0.113.{n}", 40000) for n in range(1, 250)]
    play = Play(lambda ask: MAPPED if ask.server == ONE else told[len(play.asked) % len(told)])
    play.client.configure([ONE, TWO], [SOCKET], 0.0)
    play.run(600.0)
    assert len(play.asked) < 200
    assert play.changes < 60
    play.server = lambda ask: MAPPED
    play.run(200.0)
    assert play.client.reflexive == (MAPPED,)
