"""What a relay says without proof: whoever can write its address may have said it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from simworld import Host, Relay, World

from shadowmesh.engine.relaysession import BUSY_PING, DOUBT_INTERVAL, RELOGIN_INTERVAL
from shadowmesh.model.addresses import SockAddr
from shadowmesh.protocol.relay import ControlMessage, Hello, NoPeer, NoSession, Ping, Pong, decode_control, is_control
from shadowmesh.relay.sessiontable import Transport


def relayed() -> tuple[World, Host, Host, Relay]:
    """Two hosts that talk through one relay."""
    world = World(4)
    relay = world.relay("relay1")
    a, b = world.host("a", "symmetric"), world.host("b", "symmetric")
    world.start()
    world.run(2.5)
    world.stream(a, b, every=0.05, count=1000)
    world.run(5.0)
    return world, a, b, relay


def tap(world: World, relay: Relay, host: Host) -> list[tuple[float, ControlMessage]]:
    """When and what `host` says to the relay from now on, frames aside."""
    said: list[tuple[float, ControlMessage]] = []
    receive: Callable[[Transport, bytes], None] = relay.receive

    def listen(source: Transport, data: bytes) -> None:
        where = source if isinstance(source, SockAddr) else source.peer
        if is_control(data) and where.host == host.site.public_ip:
            said.append((world.time, decode_control(data)))
        receive(source, data)

    relay.receive = listen  # type: ignore[method-assign]
    return said


def times(said: list[tuple[float, ControlMessage]], kind: type[ControlMessage]) -> list[float]:
    return [at for at, message in said if isinstance(message, kind)]


@pytest.mark.parametrize("tx_id", [bytes(8), b"a guess."])
def test_no_session_that_answers_no_ping_makes_one_ping_a_second_and_no_login(tx_id: bytes) -> None:
    world, a, b, relay = relayed()
    said = tap(world, relay, a)
    for _ in range(2000):
        a.arrive(relay.addr, NoSession(world.network_id, a.overlay, tx_id).encode())
        world.run(0.01)
    assert not times(said, Hello)
    assert 10 <= len(times(said, Ping)) <= 20 / DOUBT_INTERVAL + 20 / BUSY_PING
    assert not world.flow(a, b).lost[:-10], "a packet was lost that wasn't on its way"
    assert not world.flow(a, b).doubled


def test_who_sees_each_ping_and_answers_before_the_relay_makes_one_login_each_three_seconds() -> None:
    world, a, _, relay = relayed()
    answer = relay.send

    def say_no_first(transport: Transport, data: bytes) -> None:
        message = decode_control(data) if is_control(data) else None
        if isinstance(message, Pong) and message.ip == a.overlay:
            a.arrive(relay.addr, NoSession(world.network_id, a.overlay, message.tx_id).encode())
        answer(transport, data)

    relay.send = say_no_first  # type: ignore[method-assign]
    said = tap(world, relay, a)
    world.run(30.0)
    logins = times(said, Hello)
    assert len(logins) >= 2
    gaps = [later - earlier for earlier, later in itertools.pairwise(logins)]
    assert min(gaps) >= RELOGIN_INTERVAL - 0.1, gaps  # but for the jitter of the way


def test_no_peer_without_the_sessions_number_means_nothing() -> None:
    world, a, b, relay = relayed()
    peer = a.node.engines[world.network_id].peers[b.client_id]
    number = relay.core.sessions.by_key[world.network_id + a.overlay.packed].number
    told: list[object] = []
    a.node.engines[world.network_id].no_peer = lambda *what: told.append(what)  # type: ignore[method-assign]
    for wrong in (bytes(8), number[:-1] + bytes((number[-1] ^ 1,))):
        a.arrive(relay.addr, NoPeer(world.network_id, peer.member.ip, wrong).encode())
    assert not told
    a.arrive(relay.addr, NoPeer(world.network_id, peer.member.ip, number).encode())
    assert len(told) == 1
