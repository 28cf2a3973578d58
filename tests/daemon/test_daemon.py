"""The whole daemon against a real controller: joining, speaking, restarting, leaving."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import errno
import ipaddress
import json
import os
import socket
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from daemonkit import Controller, controller, refused, timers_left, until

from shadowmesh.client_api.enroll import enroll, parse_invite
from shadowmesh.client_api.local import SOCKET_NAME
from shadowmesh.client_api.unixsocket import short_path
from shadowmesh.controller.service import presence
from shadowmesh.daemon import carrier, controllerlinks, healthreports, heartbeat, reporting, watching
from shadowmesh.daemon.network import Network
from shadowmesh.daemon.streams import Streams
from shadowmesh.engine import HostResumed, Node
from shadowmesh.model.api import NetworkPatch
from shadowmesh.model.devicelink import Grant, Health, LinkMessage, Report, SealedKey
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.pump import AddStream
from shadowmesh.protocol.noise import generate_private_key
from shadowmesh.protocol.sealing import generate_sealing_keys, network_key_info, seal


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as running:
        await running.network("office")
        yield running


async def test_two_machines_join_and_speak_through_the_tunnel(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b) and await b.reaches(a)
    seen = await a.network_status()
    assert (seen.state, seen.controller, seen.ip) == ("up", "connected", a.network().record.ip)
    (peer,) = seen.peers
    assert (peer.path, peer.online) == ("direct", True)


async def test_a_restarted_daemon_works_from_its_disk(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b)
    await a.restart()
    assert a.network().run_state == "up", "before the controller has said a word"
    assert await a.reaches(b)


async def test_a_machine_that_comes_back_keeps_the_keys_that_it_says_it_holds(there: Controller) -> None:
    a = await there.member("a")
    network, grants = a.network(), []
    keys = dict(network.keys)
    accept = Network.accept_grant

    def note(self: Network, grant: Grant) -> None:
        grants.append(grant)
        accept(self, grant)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "accept_grant", note)
        await a.restart()
        await until(lambda: grants)
    assert grants[0].keys == () and grants[0].held == tuple(keys)
    network = a.network()
    assert network.keys == keys
    fresh = os.urandom(32)
    sealed = base64.b64encode(seal(network.secrets.sealing_public, fresh, network_key_info(network.id, 9))).decode()
    network.accept_grant(Grant(network_id=network.id, keys=(SealedKey(epoch=9, sealed=sealed),), held=(0, 5)))
    assert network.keys == keys | {9: Secret(fresh)}, "an epoch that it doesn't hold is none"
    network.accept_grant(Grant(network_id=network.id, held=(9,)))
    assert network.keys.keys() == {9}, "what is neither sealed nor held has ended"


async def test_status_says_since_when_the_controller_was_not_heard(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shadowmesh.client_api.link._QUIET", 0.0)
    monkeypatch.setattr("shadowmesh.daemon.methods._LOOK_PATIENCE", 20.0)
    a = await there.member("a")
    (link,) = a.links
    link._heard_at -= 30.0
    silence = (await a.network_status()).controller_silent_s
    assert silence is not None and silence < 30.0, "it was asked, and answered"
    monkeypatch.setattr("shadowmesh.daemon.methods._LOOK_PATIENCE", 0.0)
    assert link._socket is not None
    link._socket.transport.pause_reading()
    await a.network_status()  # what had come before is taken
    link._heard_at -= 30.0
    found = await a.network_status()
    assert (
        found.controller == "connected" and found.controller_silent_s is not None and found.controller_silent_s >= 30.0
    )


async def test_a_pump_that_dies_has_a_successor(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b)
    (first,) = a.pumps
    first.die()
    await until(lambda: a.pumps and a.pumps[0] is not first)
    assert await a.reaches(b)


@pytest.mark.parametrize("by", ["death", "reset"])
@pytest.mark.parametrize(
    "why", [OSError(errno.EMFILE, "Too many open files"), ShadowMeshError("pump_missing", "it was deinstalled")]
)
async def test_a_daemon_whose_pump_can_have_no_successor_ends_and_says_why(
    there: Controller, by: str, why: Exception
) -> None:
    a = await there.member("a")

    def fails() -> Any:
        raise why

    a.daemon.mesh._environment = dataclasses.replace(a.daemon.environment, start_pump=fails)
    if by == "death":
        a.pumps[0].die()
    else:
        await a.daemon.reset_identity()
    await asyncio.wait_for(a.daemon.stopping.wait(), 10)
    assert a.daemon.failure is not None
    assert (getattr(why, "strerror", None) or "deinstalled") in a.daemon.failure.what


async def test_a_pump_that_says_nothing_any_more_is_replaced(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT", 0.02)
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b)
    (first,) = a.pumps
    beats = len([c for c in first.applied if isinstance(c, AddStream)])
    await until(lambda: len([c for c in first.applied if isinstance(c, AddStream)]) > beats + 5)
    assert a.pumps == [first], "one that answers stays"
    first.stuck = True
    await until(lambda: a.pumps and a.pumps[0] is not first)
    assert await a.reaches(b)


async def test_a_join_ends_with_its_timeout_and_names_the_network_as_the_cause(there: Controller) -> None:
    a = await there.machine("a")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        code = {"controller": url, "fingerprint": there.fingerprint}
        started = asyncio.get_running_loop().time()
        error = await refused(a.join("office-abcd-efgh12", timeout_s=0.5, **code))
        assert (error.code, error.kind) == ("controller_unreachable", Kind.UNREACHABLE)
        assert "(timed out)" in error.what and asyncio.get_running_loop().time() - started < 4


@pytest.mark.parametrize("key", ["name", "controller", "fingerprint"])
@pytest.mark.parametrize("value", [5, False, [], {"a": 1}])
async def test_a_join_with_what_is_no_text_is_refused(there: Controller, key: str, value: object) -> None:
    a = await there.machine("a")
    invite = await there.invite() if key == "name" else "office-abcd-efgh-jkmn"
    params = {"controller": there.url} | {key: value}
    error = await refused(a.client.call("join", invite=invite, **params))
    assert (error.code, error.kind) == ("malformed", Kind.USAGE) and key in error.what


@pytest.mark.parametrize("same", [True, False], ids=["one invite", "two invites"])
async def test_two_joins_at_once_are_one_membership(there: Controller, same: bool) -> None:
    a, b = await there.machine("a"), await there.member("b")
    invites = [await there.invite(), await there.invite()]
    twice = (a.join(invite, name=None) for invite in (invites[0], invites[0 if same else 1]))
    first, second = await asyncio.gather(*twice, return_exceptions=True)
    won, lost = (second, first) if isinstance(first, ShadowMeshError) else (first, second)
    assert not isinstance(won, BaseException) and won.state == "up"
    assert isinstance(lost, ShadowMeshError) and lost.code in ("join_under_way", "already_joined")
    assert lost.kind is Kind.CONFLICT
    assert len(a.daemon.networks) == 1 and len(await there.call("client_list", "office")) == 2
    assert await a.reaches(b)
    assert not isinstance(await a.client.call("leave", network="office"), ShadowMeshError)
    assert (await a.join(await there.invite())).state == "up", "nothing of it is left in the way"


async def test_a_map_that_isnt_of_this_machine_is_no_reason_to_be_busy(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await there.member("a")
    said: list[str] = []
    monkeypatch.setattr(carrier.log, "error", lambda *_, why, **__: said.append(why))
    invite = parse_invite(await there.invite())
    keys, sealing = generate_private_key(), generate_sealing_keys()[0]
    await asyncio.to_thread(enroll, invite, device=a.daemon.device, wg_private=keys, sealing_private=sealing)
    await until(lambda: a.network().interface is None)
    await until(lambda: said)
    before = len(said)
    for _ in range(20):
        await a.status()  # as many turns of its event loop as these take
    assert len(said) - before <= 2, "it is tried again in a minute, or with another map"
    assert "not a member" in (await a.network_status()).error  # type: ignore[operator]


async def test_a_join_whose_caller_has_gone_is_finished(there: Controller) -> None:
    a = await there.machine("a")
    with short_path(a.directory / SOCKET_NAME) as name:
        _, writer = await asyncio.open_unix_connection(name)
    writer.write(json.dumps({"method": "join", "params": {"invite": await there.invite()}}).encode() + b"\n")
    await writer.drain()
    await until(lambda: a.daemon._tasks)
    writer.close()
    await until(lambda: a.daemon.networks)
    assert a.network().run_state == "up"


@pytest.mark.parametrize("clock", ["right", "1970"])
async def test_handshakes_succeed_after_a_kill_whatever_the_clock_says_then(there: Controller, clock: str) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b)
    used = a.daemon.mesh.node.timestamp
    await a.crash()
    if clock == "1970":
        a.wall_shift = -1_790_000_000.0
    await a.start()
    assert await a.reaches(b)
    again = a.daemon.mesh.node.timestamp
    assert again > used, "else the peer takes it for a replay"
    assert a.daemon.state.timestamp() > again, "and so it is after the next one"
    await a.crash()
    await a.start()
    assert a.daemon.mesh.node.timestamp >= again
    assert await a.reaches(b)


async def test_timestamps_stay_within_what_is_kept_while_nothing_can_be(there: Controller) -> None:
    a = await there.member("a")
    kept, mesh = a.daemon.state.timestamp(), a.daemon.mesh
    held = sqlite3.connect(a.directory / "state.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    a.wall_shift = 86400.0
    for _ in range(1000):
        mesh._reserve_timestamps()
        mesh.node._timestamps.next(a.clock().wall)
        if mesh._keeper.failure is not None:
            break
    for _ in range(1000):
        mesh.node._timestamps.next(a.clock().wall)
    assert mesh.node.timestamp < kept
    held.close()
    mesh._keeper.write()
    mesh._reserve_timestamps()
    mesh.node._timestamps.next(a.clock().wall)
    assert mesh.node.timestamp > kept + 80_000


async def test_the_controllers_clock_is_known_after_a_restart_and_when_ours_is_set(there: Controller) -> None:
    a = await there.machine("a")
    a.wall_shift = -50_000.0
    await a.join(await there.invite())
    await until(lambda: a.network().connected)

    def offset() -> float:
        return a.daemon.mesh.node._surroundings.wall_offsets[a.network().id]

    assert offset() == pytest.approx(50_000.0, abs=2.0)
    assert (await a.network_status()).clock_offset_s == pytest.approx(50_000.0, abs=2.0)
    with there.unreachable():
        await a.restart()
        assert offset() == pytest.approx(50_000.0, abs=2.0)
    a.links[-1].kick()
    await until(lambda: a.network().connected)
    a.wall_shift = 0.0
    assert (await a.network_status()).clock_offset_s == pytest.approx(0.0, abs=2.0)


async def test_down_leaves_nothing_on_the_host_and_up_brings_it_back(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    await a.client.call("down", network="office")
    assert a.host.interfaces == {}
    assert a.network().run_state == "down"
    await a.client.call("up", network="office")
    assert [i.addresses[0] for i in a.host.interfaces.values()] == [a.network().me.ip]  # type: ignore[union-attr]
    assert await a.reaches(b)


async def test_who_leaves_is_gone_at_the_controller_too(there: Controller) -> None:
    a = await there.member("a")
    answer = await a.client.call("leave", network="office")
    assert answer["controller_told"] and (await a.status()).networks == ()
    assert await there.call("client_list", "office") == []
    assert a.host.interfaces == {}


async def test_after_waking_the_links_to_controllers_are_tried_at_once(there: Controller) -> None:
    a = await there.member("a")
    (link,) = a.links
    kicked = []
    link.kick = lambda: kicked.append(True)  # type: ignore[method-assign]
    a.daemon._node_event(HostResumed(1000.0, 3600.0))
    assert kicked


async def test_a_machine_is_a_witness_of_the_controllers_audit_log(there: Controller) -> None:
    """What it keeps, it keeps over a restart; and it tells who asks that it is there."""
    a = await there.member("a")
    await there.at.witnesses.tell()
    fingerprint = a.network().record.controller.fingerprint
    (kept,) = await until(lambda: a.daemon.checkpoints(fingerprint))
    await a.restart()
    await until(lambda: a.network().connected)
    assert a.daemon.checkpoints(fingerprint) == (kept,)
    verdict = await there.call("audit_verify")
    assert (verdict.ok, verdict.witnesses) == (True, 1) and verdict.vouched_for is not None


async def test_in_a_large_network_a_machine_hears_of_those_it_speaks_to(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (presence, watching):
        monkeypatch.setattr(module, "PRESENCE_OF_ALL", 1)
    a, b, c = await there.member("a"), await there.member("b"), await there.member("c")
    assert await a.reaches(b)

    def online(name: str) -> bool | None:
        peers = a.daemon.mesh.node.status(a.network().id, a.clock())
        return next(p.online for p in peers if p.name == name)

    await until(lambda: online("b") is True)
    assert online("c") is None, "nothing is told of who isn't spoken to"
    await b.stop()
    await until(lambda: online("b") is False)
    await a.restart()
    assert await c.reaches(a)
    await until(lambda: online("c") is True)
    assert c.running


async def test_a_wireguard_export_takes_the_endpoint_that_the_operator_says(there: Controller) -> None:
    a, _ = await there.member("a"), await there.member("b")
    wrong = await refused(a.client.call("export_wireguard", peer="b", takeover=True, endpoint="192.0.2.7"))
    assert wrong.kind is Kind.USAGE and a.network().run_state == "up"
    answer = await a.client.call("export_wireguard", peer="b", takeover=True, endpoint="192.0.2.7:4000")
    assert "Endpoint = 192.0.2.7:4000\n" in answer["config"] and a.network().run_state == "down"


async def test_a_second_network_of_a_controller_doesnt_look_like_its_loss(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link says hello anew for it, on a connection whose other end knows nothing of this machine yet."""
    a = await there.member("a")
    office, heard, reported = a.network(), [], []
    link_changed, send = a.daemon.link_changed, a.daemon.links.send

    def changed(network: Network, connected: bool, *rest: Any, **more: Any) -> None:
        heard.append((network.name, connected))
        link_changed(network, connected, *rest, **more)

    def sent(network_id: NetworkID, message: LinkMessage) -> bool:
        reported.extend([network_id] if isinstance(message, Report) else [])
        return send(network_id, message)

    monkeypatch.setattr(a.daemon, "link_changed", changed)
    monkeypatch.setattr(a.daemon.links, "send", sent)
    await there.network("shop", "10.43.0.0/24")
    await a.join(await there.invite("shop"))
    await until(lambda: a.network("shop").connected)
    assert sorted(heard) == [("office", True), ("shop", True)]
    await until(lambda: office.id in reported)
    b = await there.member("b")
    assert await a.reaches(b)


async def test_a_link_that_failed_isnt_opened_anew_after_the_daemons_end(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block's end looks for timers that were left."""
    a = await there.member("a")

    def fails(*_: object) -> None:
        raise RuntimeError("an event that can't be taken")

    failed = asyncio.Event()
    monkeypatch.setattr(a.daemon.links, "_event", fails)
    monkeypatch.setattr(controllerlinks.log, "exception", lambda *_, **__: failed.set())
    await there.call("network_set", "office", NetworkPatch(description="news"))
    await asyncio.wait_for(failed.wait(), 10)
    await a.stop()
    assert "ControllerLinks.refresh" not in timers_left()


async def test_no_link_is_opened_while_all_are_ended_and_forgotten_then(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine leaves and joins while another identity is asked for, and a link takes its time to close."""
    a = await there.member("a")
    (link,) = a.links
    cancelled, held, close = asyncio.Event(), asyncio.Event(), link.close
    calls: list[None] = []

    async def slow() -> None:
        calls.append(None)
        if len(calls) == 2:  # as its task is cancelled
            cancelled.set()
            await held.wait()
            await close()

    monkeypatch.setattr(link, "close", slow)
    stopping = asyncio.create_task(a.daemon.links.stop())
    await asyncio.wait_for(cancelled.wait(), 10)
    networks = dict(a.daemon.networks)
    a.daemon.networks.clear()
    a.daemon.links.refresh()
    a.daemon.networks.update(networks)
    a.daemon.links.refresh()
    held.set()
    await asyncio.wait_for(stopping, 10)
    assert a.links == [link]
    a.daemon.links.refresh()
    await until(lambda: len(a.links) == 2 and a.links[1].connected)


async def test_a_relay_stream_that_is_refused_here_is_one_that_failed() -> None:
    """As where this host's network can't be told from the overlay: `connect` says so."""

    class Refused:
        async def open(self) -> int:
            raise ShadowMeshError("no_mark", "the socket can't be marked")

    world = SimpleNamespace(stream=lambda *_: Refused())
    streams = Streams(world, SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    need = SimpleNamespace(url="ws://192.0.2.1", relay=SimpleNamespace(relay_id="rly_1"))
    await streams._carry(need)  # type: ignore[arg-type]


async def test_a_map_that_gives_a_member_a_peers_outer_address_takes_it_from_those_routed_around(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b)
    outer, told = ipaddress.ip_address(b.address), asyncio.Event()
    await until(lambda: outer in a.host.outer.around())
    monkeypatch.setattr(Node, "is_member", lambda _, address: address == outer)
    monkeypatch.setattr(a.host, "members_changed", told.set)
    await there.call("network_set", "office", NetworkPatch(description="news"))
    await asyncio.wait_for(told.wait(), 20)
    assert outer not in a.host.outer.around()


async def test_the_controller_hears_how_peers_are_reached_as_far_as_the_network_wants_it(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for timing, seconds in (("EVERY", 0.2), ("GATHER", 0.02)):
        monkeypatch.setattr(healthreports, timing, seconds)
        monkeypatch.setattr(reporting, timing, seconds, raising=False)
    a, b = await there.member("a"), await there.member("b")

    async def known() -> Any:
        ids = [m.network().record.client_id for m in (a, b)]
        found = await there.at.context.read(lambda conn: there.at.reports.of(conn, ids))
        return [getattr(found.get(i), "connection_type", None) for i in ids]

    async def until_known(*wanted: str | None) -> None:
        async with asyncio.timeout(10):
            while await known() != list(wanted):  # noqa: ASYNC110 - what is stored has no event
                await asyncio.sleep(0.02)

    assert await a.reaches(b)
    await until_known("p2p", "p2p")
    await there.call("network_set", "office", NetworkPatch(reports="off"))
    await until_known(None, None)
    sent: list[Health] = []
    monkeypatch.setattr(a.daemon._reporting, "_send", lambda _network, health: sent.append(health) or True)
    assert await a.reaches(b)
    looks, look = [], a.daemon._reporting._look
    monkeypatch.setattr(a.daemon._reporting, "_look", lambda: looks.append(look()))
    await until(lambda: len(looks) > 2)
    assert not sent
    await there.call("network_set", "office", NetworkPatch(reports="full"))
    await until(lambda: sent)
    assert await a.reaches(b)
    await until(lambda: any(peer.tx_bytes for health in sent for peer in health.peers))


async def test_presence_in_a_network_joined_just_now_is_live(there: Controller) -> None:
    """A further network of a controller whose link is up already: nothing is restarted."""
    a, b = await there.member("a"), await there.member("b")
    await there.network("lab", subnet="10.43.0.0/24")
    links = len(a.links)

    def online() -> bool | None:
        (peer,) = a.daemon.mesh.node.status(a.network("lab").id, a.clock())
        return peer.online

    await b.join(await there.invite("lab"))
    await a.join(await there.invite("lab"))
    await until(lambda: a.network("lab").map is not None and len(a.network("lab").map.members) == 2)
    await until(lambda: online() is True)
    await b.client.call("leave", network="office")
    assert online() is True
    await b.stop()
    await until(lambda: online() is False)
    await b.start()
    await until(lambda: online() is True)
    assert len(a.links) == links == 1
