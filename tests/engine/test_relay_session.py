"""What others say in a relay's name: refusals and denials aren't signed, so they may cost a login, and never a session that stands."""

from __future__ import annotations

import ipaddress

from fake_crypto import Fake
from simworld import UDP, Host, Relay, World

from shadowmesh.dataplane.aead import FakeAead
from shadowmesh.engine.relaysession import LONGEST_REFUSAL, RelaySession
from shadowmesh.model.pump import Datagram, DatagramKind, Path
from shadowmesh.protocol.relay import Control, NoSession, Refusal, Refuse


def logged_in() -> tuple[World, Relay, Host, RelaySession]:
    world = World(1, primitives=Fake(1), aead=FakeAead)
    relay = world.relay("relay1")
    world.relay("relay2")
    host = world.host("a", "none")
    world.host("b", "none")
    world.start()
    world.run(2.5)
    session = host.node.engines[world.network_id].relays.sessions[relay.relay_id]
    assert session.up
    return world, relay, host, session


def say(relay: Relay, host: Host, message: Control) -> None:
    """A message from the relay's address."""
    now = host.clock()
    host.node.receive(Datagram(now.boot, Path(UDP, relay.addr), DatagramKind.RELAY_CONTROL, message.encode()), now)
    host.settle(now)


def test_a_refusal_ends_no_session_and_holds_off_for_no_longer_than_a_minute_or_so() -> None:
    world, relay, host, session = logged_in()
    session.login_again(host.clock())
    assert session._attempt is not None
    say(relay, host, Refuse(session._attempt.echo, Refusal.FULL, 65535))
    assert session.up
    assert session._retry_at - world.time <= LONGEST_REFUSAL * 1.5
    world.run(5.0)
    assert session.up, "the relay itself goes on with it"


def test_a_denial_of_anothers_session_means_nothing() -> None:
    world, relay, host, session = logged_in()
    hellos = relay.core.counters.hellos
    say(relay, host, NoSession(world.network_id, ipaddress.IPv4Address("10.77.0.200")))
    world.run(1.0)
    assert session.up
    assert relay.core.counters.hellos == hellos


def test_denials_without_end_end_no_session_that_the_relay_answers_for() -> None:
    world, relay, host, session = logged_in()
    hellos = relay.core.counters.hellos
    for _ in range(200):
        say(relay, host, NoSession(world.network_id, host.overlay))
        assert session.up
        world.run(0.1)
    assert relay.core.counters.hellos == hellos, "a ping a second asks, not a login"


def test_a_relay_that_knows_nobody_and_lets_nobody_in_is_left_and_udp_is_not_blamed() -> None:
    world, relay, host, session = logged_in()
    relay.restart()
    relay.core.set_draining(True)
    session.verify(host.clock())
    host.settle(host.clock())
    world.run_until(lambda: not session.up, 3.0)
    assert host.node.engines[world.network_id].relays.home == world.relays["relay2"].relay_id
    world.run(10.0)
    assert not [what for _, who, what in world.log if who == "a" and "needs a stream" in what]
