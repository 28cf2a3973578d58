"""The state machine of one peer's path, rule by rule (docs/paths.md)."""

from __future__ import annotations

import pytest
from pathplay import SLOT, Play

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.reasons import Reason
from shadowmesh.paths.candidates import Candidate, CandidateKind, PathKey
from shadowmesh.paths.values import ACTIVE, DORMANT_PING, STRANGE_PINGS, STRANGE_PINGS_RATE, PathRoute, Policy

PUNCHED = SockAddr("198.51.100.7", 5000)
LAN = SockAddr("192.168.1.9", 5000)
CANDIDATES = (Candidate(PUNCHED, CandidateKind.REFLEXIVE), Candidate(LAN, CandidateKind.HOST))
WAY = PathKey(SLOT, PUNCHED)
LAN_WAY = PathKey(SLOT, LAN)


def direct(play: Play) -> None:
    """Traffic, candidates, and an answer on the punched path."""
    play.answer = lambda ping: ping.path == WAY
    play.path.traffic(play.now)
    play.path.call_received(CANDIDATES, False, play.now)
    play.collect()
    play.run(2.0, traffic=True)
    assert play.path.route == PathRoute(WAY, None)


def test_the_relay_is_used_at_once_and_the_peer_is_called(play: Play) -> None:
    play.path.traffic(play.now)
    play.collect()
    assert play.path.route == PathRoute("relay", None)
    assert play.calls == [(1000.0, True)]
    assert play.path.reason is Reason.RELAY_UPGRADING


def test_an_idle_peer_causes_nothing(play: Play) -> None:
    play.run(1000.0)
    assert not play.pings
    assert not play.calls


def test_all_pairs_are_pinged_on_schedule_and_again_after_a_minute(play: Play) -> None:
    play.path.traffic(play.now)
    play.path.call_received(CANDIDATES, False, play.now)
    play.run(13.0, traffic=True)
    wanted = [0.0, 0.2, 0.5, *map(float, range(1, 13))]
    for way in (WAY, LAN_WAY):
        assert [round(at - 1000.0, 1) for at in play.pinged(way)] == wanted
    assert play.path.reason is Reason.RELAY_NO_ANSWER
    play.run(48.0, traffic=True)
    tried_again = [at for at in play.pinged(WAY) if at > 1013.0]
    play.run(30.0, traffic=True)
    tried_again = [at for at in play.pinged(WAY) if at > 1013.0]
    assert 1062.0 <= tried_again[0] <= 1082.0


def test_an_unanswered_call_is_repeated(play: Play) -> None:
    play.path.traffic(play.now)
    play.run(3.0, traffic=True)
    assert [round(at - 1000.0, 1) for at, _ in play.calls] == [0.0, 0.5, 1.0, 2.0]


def test_a_call_that_asks_is_answered_with_ours_and_pings(play: Play) -> None:
    play.path.call_received(CANDIDATES, True, play.now)
    play.collect()
    assert play.calls == [(1000.0, False)]
    assert play.pinged(WAY)


def test_a_ping_out_of_the_blue_is_answered_with_a_check_of_that_path(play: Play) -> None:
    way = PathKey(SLOT, SockAddr("198.51.100.7", 61234))
    play.answer = lambda ping: ping.path == way
    play.path.traffic(play.now)
    play.path.ping_received(way, play.now)
    play.run(1.0)
    assert play.path.route.primary == way


def test_pings_out_of_the_blue_fill_no_memory(play: Play) -> None:
    for port in range(1000, 1100):
        play.path.ping_received(PathKey(SLOT, SockAddr("198.51.100.7", port)), play.now)
    assert len(play.path.probes) <= 8


def test_pings_out_of_the_blue_fill_no_memory_while_one_of_their_like_is_in_use(play: Play) -> None:
    punched = PathKey(SLOT, SockAddr("198.51.100.7", 61234))
    play.answer = lambda ping: ping.path == punched
    play.path.traffic(play.now)
    play.path.ping_received(punched, play.now)
    play.run(1.0)
    assert play.path.best is not None and play.path.best.path == punched
    play.now += 1.0
    for host in range(1, 200):  # of a better kind, so that each is tried at once
        play.path.ping_received(PathKey(SLOT, SockAddr(f"192.168.1.{host}", 4000)), play.now)
    assert len(play.path.probes) <= 8
    assert play.path.best.path in play.path.probes


def test_ever_other_candidates_make_no_ever_growing_checks(play: Play) -> None:
    for call in range(100):
        told = [Candidate(SockAddr(f"198.51.{call}.{n}", 4000), CandidateKind.REFLEXIVE) for n in range(1, 25)]
        play.path.call_received(told, False, play.now)
        play.run(0.1)
    assert len(play.path.probes) <= 24 + 8


def strangers(call: int) -> list[Candidate]:
    """As many addresses as a call may name, others in each call."""
    return [Candidate(SockAddr(f"198.51.{call}.{n}", 4000), CandidateKind.REFLEXIVE) for n in range(1, 25)]


def test_a_member_that_names_third_parties_makes_few_pings_to_them(play: Play) -> None:
    for call in range(100):
        play.path.call_received(strangers(call), True, play.now)
        play.run(0.1)
    to_strangers = [at for at, ping in play.pings if ping.path is not None]
    assert len([at for at in to_strangers if at == 1000.0]) <= STRANGE_PINGS
    assert len(to_strangers) <= STRANGE_PINGS + STRANGE_PINGS_RATE * 10.0


def test_each_of_many_addresses_is_tried_within_two_seconds(play: Play) -> None:
    many = strangers(0)
    play.path.traffic(play.now)
    play.path.call_received(many, False, play.now)
    play.run(2.1, traffic=True)
    assert all(play.pinged(PathKey(SLOT, c.addr)) for c in many)


def test_who_answered_before_waits_for_no_stranger(play: Play) -> None:
    direct(play)
    play.answer = lambda ping: ping.path in (WAY, LAN_WAY)
    play.path.call_received(CANDIDATES, True, play.now)
    play.run(3.0, traffic=True)
    assert play.path.route == PathRoute(LAN_WAY, None)
    for call in range(2):
        play.path.call_received([*strangers(call)[:20], *CANDIDATES], True, play.now)
        play.run(0.15, traffic=True)
    assert len([at for at, _ in play.pings if at > play.now - 0.15]) < 10, "the strangers have to wait"
    assert play.pinged(WAY)[-1] > play.now - 0.16


def test_a_path_that_answered_is_kept_though_the_peer_names_it_no_more(play: Play) -> None:
    direct(play)
    play.answer = lambda ping: ping.path in (WAY, LAN_WAY)
    play.path.call_received(CANDIDATES, True, play.now)
    play.run(3.0, traffic=True)
    best = play.path.best
    assert best is not None and {WAY, LAN_WAY} <= play.path.probes.keys()
    play.path.call_received([Candidate(SockAddr("198.51.100.8", 1), CandidateKind.REFLEXIVE)], False, play.now)
    assert {WAY, LAN_WAY} <= play.path.probes.keys()
    assert play.path.best is best


def test_a_pong_under_way_while_p2p_is_switched_off_makes_nothing_direct(play: Play) -> None:
    play.path.traffic(play.now)
    play.path.call_received(CANDIDATES, True, play.now)
    play.collect()
    ping = next(p for _, p in play.pings if p.path == WAY)
    play.path.set_policy(Policy(p2p=False), play.now)
    play.path.pong_received(WAY, ping.tx_id, play.now + 0.05)
    assert play.path.route == PathRoute("relay", None)


def test_a_lan_path_wins_over_a_punched_one_whatever_the_round_trip(play: Play) -> None:
    direct(play)
    play.answer = lambda ping: ping.path in (WAY, LAN_WAY)
    play.round_trip = 0.2
    play.path.call_received((*CANDIDATES, Candidate(SockAddr("198.51.100.8", 1), CandidateKind.HOST)), True, play.now)
    play.run(3.0, traffic=True)
    assert play.path.route == PathRoute(LAN_WAY, None)
    assert play.path.reason is Reason.DIRECT_LAN


def test_an_equal_path_a_little_faster_changes_nothing(play: Play) -> None:
    direct(play)
    other = PathKey(SLOT, SockAddr("198.51.100.7", 61234))
    play.answer = lambda ping: True
    play.round_trip = 0.045
    play.path.ping_received(other, play.now)
    play.run(2.0, traffic=True)
    assert play.path.route == PathRoute(WAY, None)


def test_heartbeat_each_3_s_while_there_is_traffic(play: Play) -> None:
    direct(play)
    began = play.now
    play.run(30.0, traffic=True)
    beats = [at for at in play.pinged(WAY) if at > began]
    assert 9 <= len(beats) <= 11


def test_a_lost_heartbeat_is_repeated_and_shakes_nothing(play: Play) -> None:
    direct(play)
    count = 0

    def two_of_three_lost(ping: object) -> bool:
        nonlocal count
        count += 1
        return count % 3 == 0

    play.answer = two_of_three_lost
    play.run(120.0, traffic=True)
    assert play.path.best is not None
    assert not [r for _, r in play.routes if r.primary == "relay" and _ > 1003.0]


def test_trust_runs_out_after_6_5_s_then_relay_and_old_path_until_the_relay_is_proven(play: Play) -> None:
    direct(play)
    last = play.path.best.pong_at if play.path.best else 0.0
    play.answer = lambda ping: False
    play.run(9.0, traffic=True)
    assert play.path.route == PathRoute("relay", WAY)
    at = next(t for t, r in play.routes if r == PathRoute("relay", WAY))
    assert at - last <= 7.0
    assert play.path.reason is Reason.RELAY_PATH_LOST
    play.answer = lambda ping: ping.path is None
    play.run(2.0, traffic=True)
    assert play.path.route == PathRoute("relay", None)


def test_the_old_path_that_answers_again_is_taken_back(play: Play) -> None:
    direct(play)
    play.answer = lambda ping: False
    play.run(9.0, traffic=True)
    play.answer = lambda ping: ping.path == WAY
    play.run(4.0, traffic=True)
    assert play.path.route == PathRoute(WAY, None)


def test_a_dormant_path_is_kept_open_and_its_first_packets_go_both_ways(play: Play) -> None:
    direct(play)
    play.run(60.0)
    assert play.path.direct
    assert play.path.route == PathRoute(WAY, "relay")
    began = play.now
    play.run(100.0)
    assert 3 <= len([at for at in play.pinged(WAY) if at > began]) <= 5
    play.path.traffic(play.now)
    play.collect()
    assert play.path.route == PathRoute(WAY, "relay")
    play.run(0.2)
    assert play.path.route == PathRoute(WAY, None)


def test_after_5_minutes_of_silence_all_is_forgotten(play: Play) -> None:
    direct(play)
    play.run(320.0)
    assert not play.path.probes
    assert play.path.reason is Reason.NONE_IDLE
    assert play.path.deadline == float("inf")


def test_without_p2p_nothing_is_tried(play: Play) -> None:
    only = Play(Policy(p2p=False))
    only.path.traffic(only.now)
    only.path.call_received(CANDIDATES, True, only.now)
    only.path.ping_received(WAY, only.now)
    only.run(100.0, traffic=True)
    assert all(ping.path is None for _, ping in only.pings), "only the relay's round trip is measured"
    assert only.path.route == PathRoute("relay", None)
    assert only.path.reason is Reason.RELAY_P2P_DISABLED
    direct(play)
    play.path.set_policy(Policy(p2p=False), play.now)
    assert play.path.route == PathRoute("relay", None)


def test_a_pong_from_elsewhere_proves_nothing_by_itself(play: Play) -> None:
    play.path.traffic(play.now)
    play.path.call_received(CANDIDATES, False, play.now)
    play.collect()
    ping = next(p for _, p in play.pings if p.path == WAY)
    elsewhere = PathKey(SLOT, SockAddr("198.51.100.99", 1))
    assert play.path.pong_received(elsewhere, ping.tx_id, play.now) is None
    assert play.path.best is None
    assert play.path.pong_received(WAY, ping.tx_id, play.now) is None, "one id serves once"


def test_a_pong_nobody_asked_for_is_nothing(play: Play) -> None:
    assert play.path.pong_received(WAY, bytes(12), play.now) is None
    assert play.path.best is None


def test_a_network_change_doubts_the_path_and_looks_again(play: Play) -> None:
    direct(play)
    calls = len(play.calls)
    play.path.network_changed(play.now)
    play.collect()
    assert play.path.route == PathRoute(WAY, "relay")
    assert len(play.calls) == calls + 1


def test_a_plain_wireguard_peer_is_where_it_was_heard(play: Play) -> None:
    play.path.wireguard_proven(WAY, play.now)
    assert play.path.route == PathRoute(WAY, None)
    assert play.path.reason is Reason.DIRECT_WIREGUARD
    play.run(1000.0, traffic=True)
    assert not play.pings


@pytest.mark.parametrize("seconds", [0.1, 1.0, 10.0])
def test_early_ticks_do_no_harm(play: Play, seconds: float) -> None:
    direct(play)
    pings = len(play.pings)
    play.path.tick(play.path.deadline - 0.001)
    play.collect()
    assert len(play.pings) == pings


def test_a_dormant_path_waits_for_its_next_ping_whether_a_relay_may_carry_data_or_not() -> None:
    for fallback in (True, False):
        play = Play(Policy(relay_fallback=fallback))
        direct(play)
        play.now += ACTIVE + 1.0  # the conversation is over
        play.path.tick(play.now)
        play.collect()
        way, ping = play.pings[-1]
        play.path.pong_received(WAY, ping.tx_id, play.now)
        assert play.path.direct
        assert play.path.deadline == pytest.approx(way + DORMANT_PING)
