"""The relay's core in virtual time: who gets in, what crosses, what an outsider can get out of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_world import MESSAGE, NET_A, NET_B, Client, World, udp

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.relaylink import Revocation
from shadowmesh.protocol import relay as wire
from shadowmesh.protocol.relay import ByeReason, Refusal
from shadowmesh.protocol.signing import Signer
from shadowmesh.relay.relaycore import AnswersOfSecond
from shadowmesh.relay.sessiontable import StreamAddr


def test_two_clients_of_a_network_reach_each_other_unchanged(world: World) -> None:
    a = world.client(NET_A, "10.0.0.1", udp(1)).login()
    b = world.client(NET_A, "10.0.0.2", StreamAddr(7, udp(2))).login()
    assert a.welcome is not None
    assert b.welcome is not None
    assert a.welcome.observed == udp(1)
    assert b.welcome.observed == udp(2)
    frame = a.frame(b)
    assert a.send(frame) == [(b.at, frame)]
    frame = b.frame(a)
    assert b.send(frame) == [(a.at, frame)]
    assert world.core.counters.forwarded_frames == 2
    assert world.core.counters.dropped_frames == 0


def test_isolation_nothing_crosses_networks_and_nobody_speaks_for_another(world: World) -> None:
    """Both networks have the same addresses; each of four clients tries every network, source and destination."""
    clients = [
        world.client(net, ip, udp(n)).login()
        for n, (net, ip) in enumerate(product((NET_A, NET_B), ("10.0.0.1", "10.0.0.2")), 1)
    ]
    home = {(c.network, str(c.ip)): c for c in clients}
    passed = dropped = 0
    for sender in clients:
        for net, source, dest in product((NET_A, NET_B), ("10.0.0.1", "10.0.0.2"), ("10.0.0.1", "10.0.0.2")):
            frame = wire.frame_prefix(net, IPv4Address(source), IPv4Address(dest)) + MESSAGE
            moved = [(t, d) for t, d in sender.send(frame) if wire.is_frame(d)]
            if net == sender.network and source == str(sender.ip):
                assert moved == [(home[net, dest].at, frame)]
                passed += 1
            else:
                assert moved == []
                dropped += 1
    assert (passed, dropped) == (8, 24)
    assert world.core.counters.forwarded_frames == 8
    assert world.core.counters.drop_foreign == 24


def test_a_sniffed_token_is_worth_nothing_without_the_device_key(world: World) -> None:
    owner = world.client(NET_A, "10.0.0.1", udp(1)).login()
    thief = replace(owner, device=Signer.generate(), at=udp(66), log=[]).login()
    assert thief.welcome is None
    assert thief.refused is not None
    assert thief.refused.code == Refusal.BAD_SIGNATURE
    assert world.core.sessions.at(owner.at)


def test_a_proof_made_for_one_relay_does_not_open_another() -> None:
    """A hostile relay passes the challenge of a good one on to the client, and the client's proof back."""
    good, evil = World(), World()
    good.core.set_token_keys([evil.controller.public])
    client = evil.client(NET_A, "10.0.0.1", udp(1))
    attempt = wire.LoginAttempt(client.token, evil.signer.public, client.device)
    [(_, challenge)] = good.core.receive(udp(1), attempt.hello(), good.now)
    proof = attempt.receive(wire.decode_control(challenge))
    assert proof is not None
    [(_, answer)] = good.core.receive(udp(1), proof, good.now)
    assert wire.decode_control(answer) == wire.Refuse(attempt.echo, Refusal.BAD_SIGNATURE)


def proof_of(client: Client) -> bytes:
    attempt = wire.LoginAttempt(client.token, client.world.signer.public, client.device)
    [(_, challenge)] = client.world.core.receive(client.at, attempt.hello(), client.world.now)
    proof = attempt.receive(wire.decode_control(challenge))
    assert proof is not None
    return proof


def code_of(out: list[tuple[object, bytes]]) -> int:
    [(_, data)] = out
    message = wire.decode_control(data)
    assert isinstance(message, wire.Refuse)
    return message.code


def test_a_replayed_proof_neither_moves_nor_revives_a_session(world: World) -> None:
    c = world.client(NET_A, "10.0.0.1", udp(1))
    old = proof_of(c)
    first = c.send(old)
    assert c.send(old) == first  # the Welcome got lost: the same again
    assert len(world.core.sessions) == 1
    assert code_of(world.core.receive(udp(66), old, world.now)) == Refusal.BAD_COOKIE  # from elsewhere
    c.at = udp(2)
    c.login()  # roamed
    assert code_of(world.core.receive(udp(1), old, world.now)) == Refusal.BAD_COOKIE
    assert world.core.sessions.at(udp(2))
    [session] = world.core.sessions.at(udp(2))
    last = proof_of(c)
    c.send(last)
    [session] = world.core.sessions.at(udp(2))
    c.send(wire.Bye(NET_A, c.ip, session.number, ByeReason.LEAVING).encode())
    assert len(world.core.sessions) == 0
    assert code_of(c.send(last)) == Refusal.BAD_COOKIE
    assert len(world.core.sessions) == 0


def test_a_challenge_is_good_for_ten_seconds_and_one_token(world: World) -> None:
    c = world.client(NET_A, "10.0.0.1", udp(1))
    proof = proof_of(c)
    world.sleep(10.5)
    assert code_of(c.send(proof)) == Refusal.BAD_COOKIE
    message = wire.decode_control(proof_of(c))
    assert isinstance(message, wire.Proof)
    other = world.client(NET_A, "10.0.0.9", udp(1))
    assert code_of(c.send(replace(message, token=other.token).encode())) == Refusal.BAD_COOKIE


def test_expired_and_foreign_tokens_are_refused(world: World) -> None:
    c = world.client(NET_A, "10.0.0.1", udp(1), age=100, valid=99).login()
    assert c.refused is not None
    assert c.refused.code == Refusal.EXPIRED
    c = world.client(NET_A, "10.0.0.1", udp(1), by=Signer.generate()).login()
    assert c.refused is not None
    assert c.refused.code == Refusal.BAD_SIGNATURE
    assert world.core.counters.refused == {"expired": 1, "bad_signature": 1}


def test_a_running_session_ends_when_its_token_runs_out(world: World) -> None:
    c = world.client(NET_A, "10.0.0.1", udp(1), valid=50).login()
    assert world.sleep(44) == []
    [(where, bye)] = world.sleep(12)
    assert where == c.at
    assert wire.decode_control(bye).reason == ByeReason.EXPIRED  # type: ignore[union-attr]


def test_cut_off_from_the_controller_an_old_token_counts_and_in_touch_it_must_be_fresh(world: World) -> None:
    old = world.client(NET_A, "10.0.0.1", udp(1), age=86400.0).login()
    assert old.welcome is not None
    assert not old.welcome.fresh
    world.core.heard_controller(world.now)
    assert old.login().welcome is not None  # the controller has to be given time to hand out new ones
    assert old.welcome is not None
    assert old.welcome.fresh
    for _ in range(13):
        world.sleep(10)
        world.core.heard_controller(world.now)
        old.send(wire.Ping(NET_A, old.ip, bytes(8)).encode())
    assert len(world.core.sessions) == 0
    assert old.login().refused is not None
    assert old.refused is not None
    assert old.refused.code == Refusal.STALE_TOKEN
    renewed = world.client(NET_A, "10.0.0.1", udp(1)).login()
    assert renewed.welcome is not None
    world.sleep(61)
    assert not world.core.fresh(world.now)
    old.ip = IPv4Address("10.0.0.3")
    old.token = world.token(old.device, NET_A, "10.0.0.3", age=86400.0)
    assert old.login().welcome is not None


def test_expiry_goes_by_the_controllers_clock() -> None:
    world = World()
    world.core.heard_controller(world.now, wall=world.now.wall + 3600)
    c = world.client(NET_A, "10.0.0.1", udp(1), valid=3000).login()
    assert c.refused is not None
    assert c.refused.code == Refusal.EXPIRED


@pytest.mark.parametrize("how", ["device", "network", "everywhere"])
def test_a_revoked_client_is_out_at_once_and_stays_out(world: World, how: str) -> None:
    """Well within the 2 s promised: the same call that takes the revocation in ends the session."""
    a = world.client(NET_A, "10.0.0.1", udp(1)).login()
    b = world.client(NET_A, "10.0.0.2", udp(2)).login()
    other = world.client(NET_B, "10.0.0.1", udp(3)).login()
    entry = {
        "device": {"network_id": NET_A, "device_key": a.device.device_key},
        "network": {"network_id": NET_A},
        "everywhere": {"device_key": a.device.device_key},
    }[how]
    out = world.core.revoke([Revocation(before=world.now.wall + 1, until=world.now.wall + 1e7, **entry)])  # type: ignore[arg-type]
    assert udp(1) in [t for t, _ in out]
    assert world.core.sessions.at(other.at)
    assert [d for _, d in b.send(b.frame(a)) if wire.is_frame(d)] == []
    assert a.send(a.frame(b)) == [(a.at, wire.NoSession(NET_A, a.ip).encode())]
    assert a.login().refused is not None
    assert a.refused is not None
    assert a.refused.code == Refusal.REVOKED
    world.now = world.now.after(5)
    a.token = world.token(a.device, NET_A, "10.0.0.1")  # let in again: a newer token counts
    assert a.login().welcome is not None


def test_a_removed_clients_token_is_void_whenever_it_was_issued(world: World) -> None:
    """It may have been made in the moment of the removal; the same device as another client is welcome at once."""
    client = world.client(NET_A, "10.0.0.1", udp(1))
    gone, back = ClientID("cli_gone"), ClientID("cli_back")
    who = {"network_id": NET_A, "device_key": client.device.device_key}
    until = world.now.wall + 1e7
    world.core.revoke([Revocation(client_id=gone, before=world.now.wall, until=until, **who)])  # type: ignore[arg-type]
    world.now = world.now.after(5)
    client.token = world.token(client.device, NET_A, "10.0.0.1", client_id=gone)
    refused = client.login().refused
    assert refused is not None and refused.code == Refusal.REVOKED
    client.token = world.token(client.device, NET_A, "10.0.0.1", client_id=back)
    assert client.login().welcome is not None


def test_a_complete_list_replaces_and_an_outlived_entry_is_forgotten(world: World) -> None:
    c = world.client(NET_A, "10.0.0.1", udp(1))
    entry = Revocation(network_id=NET_A, before=world.now.wall + 1, until=world.now.wall + 100)
    world.core.revoke([entry])
    world.core.revoke([], complete=True)
    assert c.login().welcome is not None
    world.core.revoke([entry], complete=True)
    assert len(world.core.sessions) == 0
    world.client(NET_B, "10.0.0.1", udp(1)).login()
    world.sleep(120)
    assert len(world.core.revocations) == 0


def test_the_newest_token_has_the_address_even_after_its_session(world: World) -> None:
    old = world.client(NET_A, "10.0.0.1", udp(1), age=50).login()
    new = world.client(NET_A, "10.0.0.1", udp(2)).login()
    assert new.welcome is not None
    assert world.core.sessions.at(udp(1)) == []
    assert old.login().refused is not None
    assert old.refused is not None
    assert old.refused.code == Refusal.SUPERSEDED
    world.sleep(70)
    assert len(world.core.sessions) == 0
    assert old.login().welcome is None


def test_roaming_moves_the_session_and_tells_the_old_place(world: World) -> None:
    a = world.client(NET_A, "10.0.0.1", udp(1)).login()
    b = world.client(NET_A, "10.0.0.2", udp(2)).login()
    b.send(b.frame(a))
    was, a.at = a.at, udp(9)
    frame = a.frame(b)
    assert a.send(frame) == [(a.at, wire.NoSession(NET_A, a.ip).encode())]
    out = a.send(proof_of(a))
    assert [t for t, _ in out] == [was, a.at]
    assert wire.decode_control(out[0][1]).reason == ByeReason.REPLACED  # type: ignore[union-attr]
    assert b.send(b.frame(a)) == [(udp(9), b.frame(a))]
    assert a.send(frame) == [(b.at, frame)]


def test_one_address_may_hold_sessions_of_several_networks(world: World) -> None:
    here = udp(1)
    a, b = world.client(NET_A, "10.0.0.1", here).login(), world.client(NET_B, "10.0.0.1", here).login()
    far = world.client(NET_B, "10.0.0.2", udp(2)).login()
    assert a.welcome is not None
    assert b.send(b.frame(far)) == [(far.at, b.frame(far))]
    world.core.gone(here)
    assert len(world.core.sessions) == 1


def test_silence_ends_a_session_and_pings_keep_it(world: World) -> None:
    silent, talker = (world.client(NET_A, f"10.0.0.{n}", udp(n)).login() for n in (1, 2))
    for _ in range(6):
        world.sleep(wire.KEEPALIVE)
        talker.send(wire.Ping(NET_A, talker.ip, b"12345678").encode())
    assert talker.log[-1] == wire.Pong(NET_A, talker.ip, b"12345678")
    assert world.core.sessions.at(talker.at)
    assert not world.core.sessions.at(silent.at)
    assert talker.welcome is not None
    no_peer = wire.NoPeer(NET_A, silent.ip, talker.welcome.session)
    assert talker.send(talker.frame(silent)) == [(talker.at, no_peer.encode())]
    silent.send(wire.Ping(NET_A, silent.ip, b"12345678").encode())
    assert silent.log[-1] == wire.NoSession(NET_A, silent.ip, b"12345678")


def test_answers_about_the_missing_are_few(world: World) -> None:
    a = world.client(NET_A, "10.0.0.1", udp(1)).login()
    nobody = IPv4Address("10.0.0.200")
    assert len([1 for _ in range(1000) if a.send(a.frame(nobody))]) == 1
    stranger = world.client(NET_A, "10.0.0.3", udp(3))
    assert len([1 for _ in range(1000) if stranger.send(stranger.frame(a))]) == 1
    world.sleep(1.1)
    assert a.send(a.frame(nobody))
    assert world.core.counters.drop_no_peer == 1001
    assert world.core.counters.drop_no_session == 1000
    flood = [
        world.core.receive(udp(n % 250)._replace(port=1024 + n), stranger.frame(a), world.now) for n in range(3000)
    ]
    assert sum(map(bool, flood)) <= 1000


def test_no_host_uses_up_the_answers_of_others(world: World) -> None:
    a = world.client(NET_A, "10.0.0.1", udp(1)).login()
    b = world.client(NET_B, "10.0.0.1", udp(2)).login()
    world.sleep(1.1)
    ghosts = [IPv4Address(f"10.0.{n // 250}.{n % 250 + 2}") for n in range(2000)]
    greedy = [a.send(a.frame(ghost)) for ghost in ghosts]
    assert sum(map(bool, greedy)) == 250
    stranger = world.client(NET_A, "10.0.9.9", udp(3))
    for n in range(3000):
        world.core.receive(udp(3)._replace(host=f"198.51.{n // 250}.{n % 250}"), stranger.frame(a), world.now)
    b.at = b.at._replace(host="203.0.113.7")  # roamed
    b.login()
    assert b.send(b.frame(ghosts[0])), "answers to strangers don't count against those to clients"


@given(
    st.one_of(
        st.binary(max_size=120),
        st.binary(max_size=120).map(lambda b: wire.CONTROL_HEADER + b),
        st.binary(max_size=120).map(lambda b: wire.FRAME_HEADER + b),
        st.builds(
            lambda kind, body: wire.CONTROL_HEADER + bytes((kind,)) + body, st.integers(0, 12), st.binary(max_size=200)
        ),
        st.builds(lambda e, t: wire.Hello(e, t).encode(), st.binary(min_size=8, max_size=8), st.just("x")),
    )
)
def test_an_unproven_address_never_gets_more_than_it_sent(data: bytes) -> None:
    core = SHARED.core
    answers = core.receive(udp(77), data, SHARED.now)
    assert all(t == udp(77) for t, _ in answers)
    assert sum(len(d) for _, d in answers) <= len(data)


SHARED = World()


def test_a_hello_costs_no_state(world: World) -> None:
    for n in range(1, 200):
        world.core.receive(udp(n), wire.Hello(bytes(8), "x" * 400).encode(), world.now)
    assert len(world.core.sessions) == 0
    assert world.core.sessions.owners == {}


def test_a_host_that_keeps_failing_is_not_listened_to_for_a_while(world: World) -> None:
    thief = world.client(NET_A, "10.0.0.1", udp(1), by=Signer.generate())
    answers = [thief.send(proof_of(thief)) for _ in range(50)]
    assert len([a for a in answers if a]) == 20
    world.now = world.now.after(10.5)
    thief.token = world.token(thief.device, NET_A, "10.0.0.1")
    assert thief.login().welcome is not None


def test_a_draining_relay_takes_nobody_new_and_keeps_who_is_there(world: World) -> None:
    a = world.client(NET_A, "10.0.0.1", udp(1)).login()
    world.core.set_draining(True)
    b = world.client(NET_A, "10.0.0.2", udp(2)).login()
    assert b.refused is not None
    assert (b.refused.code, b.refused.retry_after) == (Refusal.DRAINING, 30)
    assert a.login().welcome is not None
    out = world.core.shutdown()
    assert [t for t, _ in out] == [a.at]
    assert len(world.core.sessions) == 0


def test_a_full_relay_says_so_and_existing_sessions_renew() -> None:
    world = World(max_sessions=2)
    a, _b, c = (world.client(NET_A, f"10.0.0.{n}", udp(n)).login() for n in (1, 2, 3))
    assert c.refused is not None
    assert c.refused.code == Refusal.FULL
    assert a.login().welcome is not None


def test_another_version_is_refused_by_name(world: World) -> None:
    [(_, data)] = world.core.receive(udp(1), wire.Hello(b"12345678", "t" * 50, version=9).encode(), world.now)
    assert wire.decode_control(data) == wire.Refuse(b"12345678", Refusal.WRONG_VERSION)


def test_a_forged_goodbye_ends_nothing(world: World) -> None:
    a = world.client(NET_A, "10.0.0.1", udp(1)).login()
    a.send(wire.Bye(NET_A, a.ip, bytes(8), ByeReason.LEAVING).encode())
    assert len(world.core.sessions) == 1


def rate(sender: Client, dest: Client, seconds: float, per_second: int, size: int = 1000) -> int:
    """Frames let through of a steady stream."""
    frame = sender.frame(dest) + bytes(size - len(sender.frame(dest)))
    passed = 0
    for _ in range(int(seconds * per_second)):
        passed += bool([1 for _, d in sender.send(frame) if wire.is_frame(d)])
        sender.world.now = sender.world.now.after(1 / per_second)
    return passed


def test_a_tokens_rate_limit_holds(world: World) -> None:
    b = world.client(NET_A, "10.0.0.2", udp(2)).login()
    a = world.client(NET_A, "10.0.0.1", udp(1), kbit=800).login()  # 100 kB/s
    assert a.welcome is not None
    assert a.welcome.kbit == 800
    assert 1090 <= rate(a, b, 10, 1000) <= 1120  # a second's burst, then the rate
    assert world.core.counters.drop_quota > 8000
    assert rate(a, b, 5, 90) >= 5 * 90 - 1


def test_a_short_capacity_is_shared_fairly_and_the_modest_get_all_they_want(pump: str) -> None:
    """Fault 13: one client floods a relay of 1 MB/s; two modest ones lose nothing once the share is known."""
    world = World(capacity=1_000_000.0, pump=pump)
    dest = world.client(NET_A, "10.0.0.9", udp(9)).login()
    modest = [world.client(NET_A, f"10.0.0.{n}", udp(n)).login() for n in (1, 2)]
    greedy = [world.client(NET_A, f"10.0.0.{n}", udp(n)).login() for n in (3, 4)]
    got = dict.fromkeys(range(4), 0)
    seconds = 5
    for step in range(seconds * 1000):
        for n, (client, every) in enumerate([(modest[0], 10), (modest[1], 5), (greedy[0], 1), (greedy[1], 1)]):
            frames = 10 if every == 1 else 1
            if step % every == 0:
                frame = client.frame(dest) + bytes(924)
                got[n] += sum(len(d) for _ in range(frames) for _, d in client.send(frame) if wire.is_frame(d))
        world.now = world.now.after(0.001)
    assert got[0] >= 100_000 * seconds * 0.99
    assert got[1] >= 200_000 * seconds * 0.99
    assert abs(got[2] - got[3]) <= 0.02 * got[2]
    assert sum(got.values()) <= 1_000_000 * seconds * 1.6  # the first window, before anybody's demand was known
    assert got[2] >= 350_000 * seconds * 0.95


def test_a_networks_limit_holds_and_is_shared_fairly_and_another_network_has_its_own(world: World) -> None:
    limited = {"network_kbit": 8000}  # 1 MB/s, all together
    dest = world.client(NET_A, "10.0.0.9", udp(9), **limited).login()
    modest = world.client(NET_A, "10.0.0.1", udp(1), **limited).login()
    greedy = [world.client(NET_A, f"10.0.0.{n}", udp(n), **limited).login() for n in (2, 3)]
    other, there = (world.client(NET_B, f"10.0.0.{n}", udp(20 + n)).login() for n in (1, 2))
    got = [0, 0, 0, 0]
    seconds = 5
    for step in range(seconds * 1000):
        for n, (client, frames) in enumerate([(modest, step % 10 == 0), (greedy[0], 5), (greedy[1], 10), (other, 2)]):
            frame = client.frame(there if client is other else dest) + bytes(924)
            got[n] += sum(len(d) for _ in range(frames) for _, d in client.send(frame) if wire.is_frame(d))
        world.now = world.now.after(0.001)
    assert got[0] >= 100_000 * seconds * 0.98, "who wants less than an equal part gets all of it"
    assert abs(got[1] - got[2]) <= 0.25 * got[1], "and the others the same (but for the first window)"
    assert 1_000_000 * seconds * 0.95 <= sum(got[:3]) <= 1_000_000 * (seconds + 1) * 1.05  # with a second's burst
    assert got[3] == 2000 * 1000 * seconds


def test_pauses_gain_a_network_nothing(world: World) -> None:
    dest = world.client(NET_A, "10.0.0.9", udp(9), network_kbit=800).login()
    a = world.client(NET_A, "10.0.0.1", udp(1), network_kbit=800).login()  # 100 kB/s
    passed = 0
    for _ in range(25):  # a window of all that goes, then one of nothing
        passed += rate(a, dest, 0.1, 5000)
        world.now = world.now.after(0.1)
    assert passed <= 600 + 25 * 30  # of 1000 bytes; each window may overdraw by its last batch


def test_counting_goes_on_when_a_client_renews(world: World) -> None:
    a = world.client(NET_A, "10.0.0.1", udp(1)).login()
    b = world.client(NET_A, "10.0.0.2", udp(2)).login()
    a.send(a.frame(b))
    a.login()
    a.send(a.frame(b))
    assert world.core.counters.forwarded_frames == 2
    [session] = world.core.sessions.at(a.at)
    assert (session.rx_frames, session.rx_bytes) == (2, 2 * len(a.frame(b)))


def test_tables_do_not_grow_with_what_has_gone(world: World) -> None:
    for n in range(1, 40):
        a = world.client(NET_A, f"10.0.1.{n}", udp(n), valid=30).login()
        b = world.client(NetworkID(bytes([n]) * 32), "10.0.0.2", udp(n), valid=30).login()
        a.send(a.frame(a))
        b.send(b.frame(b))
    world.sleep(100)
    assert len(world.core.sessions) == 0
    assert world.core.sessions.by_transport == {}
    assert world.core.sessions.owners == {}


def test_who_has_seen_a_token_keeps_its_holder_from_nothing(world: World) -> None:
    owner = world.client(NET_A, "10.0.0.1", udp(1))
    thief = replace(owner, device=Signer.generate(), at=udp(66), log=[])
    answers = [thief.send(proof_of(thief)) for _ in range(50)]
    assert len([a for a in answers if a]) == 20
    assert owner.login().welcome is not None


def test_a_neighbour_that_keeps_failing_keeps_nobody_out_who_was_here_before(world: World) -> None:
    """Behind one router, all have one address."""

    def near(port: int) -> SockAddr:
        return SockAddr("192.0.2.50", port)

    owner = world.client(NET_A, "10.0.0.1", near(1)).login()
    for claim in ("10.0.0.9", "10.0.0.1"):  # its own address, and the owner's
        thief = world.client(NET_A, claim, near(9), by=Signer.generate())
        for _ in range(30):
            thief.send(proof_of(thief))
    owner.token = world.token(owner.device, NET_A, "10.0.0.1")
    owner.welcome = None
    assert owner.login().welcome is not None
    assert [bool(owner.send(proof_of(owner))) for _ in range(30)].count(True) < 20, "though not as often as it likes"


def test_the_addresses_of_one_ipv6_line_are_one_host_that_keeps_failing(world: World) -> None:
    answers = []
    for n in range(1, 51):
        thief = world.client(NET_A, "10.0.0.1", SockAddr(f"2001:db8::{n:x}", 40000), by=Signer.generate())
        answers.append(thief.send(proof_of(thief)))
    assert len([a for a in answers if a]) == 20


def test_strangers_of_one_ipv6_line_are_answered_as_one_host() -> None:
    answers = AnswersOfSecond()
    sent = [answers.one_more(f"2001:db8:1:2::{n:x}", 1.0) for n in range(1, 400)]
    assert sum(sent) == 250
    assert answers.one_more("2001:db8:1:3::1", 1.0), "another line has its own"


def test_a_relay_that_is_for_some_networks_takes_no_clients_of_others(world: World) -> None:
    world.core.serves = frozenset({NET_A})
    assert world.client(NET_A, "10.0.0.1", udp(1)).login().refused is None
    assert world.client(NET_B, "10.0.0.1", udp(2)).login().refused is not None
    world.core.serves = None
    assert world.client(NET_B, "10.0.0.2", udp(3)).login().refused is None
