"""Several controllers on one PostgreSQL: presence, moves, clones, deaths and drains, told by notices as they happen."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import msgspec
import pytest
import sqlalchemy as sa
from people import person

from shadowmesh.client_api.link import ControllerLink, LinkRefused
from shadowmesh.controller.service.hub import Elsewhere
from shadowmesh.controller.settings import Timing
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import database_url
from shadowmesh.controller.store.notices import patience
from shadowmesh.model import accounts
from shadowmesh.model.devicelink import Presence, Report
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID, RelayID
from shadowmesh.protocol.signing import Signer

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World

pytestmark = pytest.mark.lab

# What is only looked at now and then is looked at so rarely that nothing but a notice can have told.
TOLD = Timing(
    join_gather=0.02,
    presence_gather=0.02,
    offline_after=2.0,
    duplicate_probe=0.3,
    node_beat=0.2,
    node_silence=3.0,
    node_tell=0.02,
    drain=0.2,
    follow=3600.0,
    housekeeping=3600.0,
    shutdown_grace=1.0,
)


@pytest.fixture
def timing() -> Timing:
    return TOLD


async def at(world: World, device: Device, boot_id: str | None = None) -> Device:
    """The same machine, or a clone of it with another boot id, connected to that node."""
    moved = dataclasses.replace(
        device, world=world, events=[], presence={}, grants={}, link=None, _task=None, _news=asyncio.Condition()
    )
    moved.boot_id = boot_id or device.boot_id
    return await moved.connect()


async def until(true: Any) -> None:
    async with asyncio.timeout(8):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def events(world: World, *kinds: str) -> list[tuple[str, str | None]]:
    await world.at.events.flush()
    return [(e.type, e.client_id) for e in await world.call("events") if e.type in kinds]


async def test_members_hear_of_those_at_the_other_node_and_all_nodes_list_them(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann, bob = await one.member(name="ann"), await two.member(name="bob")
    her, him = ann.answer.client_id, bob.answer.client_id
    await ann.until(lambda: him in ann.presence and ann.presence[him].online)
    await bob.until(lambda: her in bob.presence and bob.presence[her].online)
    bob.link.post(Report(network_id=bob.answer.network_id, home=RelayID("rly_x")))
    await ann.until(lambda: ann.presence[him].home == "rly_x")
    for world in nodes:
        assert [c.status for c in await world.call("client_list", "office")] == ["online", "online"]
        assert (await world.call("network_show", "office")).clients_online == 2
        assert [n.here for n in await world.call("node_list")] == [True, False]
    await bob.close()
    await ann.until(lambda: not ann.presence[him].online)
    assert (await one.call("network_show", "office")).clients_online == 1


async def test_a_map_changed_at_one_node_is_told_at_the_other_at_once(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    there = await two.member(name="there")
    await one.call("client_set", "office", "there", name="renamed")
    await there.until_map(lambda m: [member.name for member in m.members] == ["renamed"])


async def test_a_device_that_moves_between_nodes_is_online_all_the_while(nodes: tuple[World, World]) -> None:
    """Nobody hears that it went, and what the broken link leaves behind takes nothing away."""
    one, two = nodes
    await one.network()
    watcher, moving = await one.member(name="watcher"), await one.member(name="moving")
    client = moving.answer.client_id
    await watcher.until(lambda: client in watcher.presence)
    await until(lambda: client in two.at.hub.elsewhere)
    vanish(moving)
    await (await at(two, moving)).settled()
    await until(lambda: client in one.at.hub.elsewhere)
    await asyncio.sleep(2 * TOLD.offline_after)  # the old link's time is over
    heard = [p for e in watcher.events for p in getattr(e, "changes", ()) if p.client_id == client]
    assert heard and all(p.online for p in heard)
    assert await events(one, "client_online", "client_offline") == [
        ("client_online", watcher.answer.client_id),
        ("client_online", client),
    ]
    assert [c.status for c in await two.call("client_list", "office")] == ["online", "online"]


async def test_an_older_link_at_another_node_ends_when_the_same_boot_connects(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    here = await one.member(name="here")
    await (await at(two, here)).settled()
    await until(lambda: not one.at.hub.devices)
    assert [e.node for e in one.at.hub.elsewhere[here.answer.client_id]] == [two.at.nodes.id]


async def test_a_clone_at_another_node_is_refused_while_the_first_answers(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    first = await one.member(name="first")
    await until(lambda: first.answer.client_id in two.at.hub.elsewhere)
    clone = await at(two, first, "boot-2")
    refused = await clone.until_event(LinkRefused)
    assert refused.code == "client_duplicate" and "boot-1" in refused.what
    assert first.link.connected
    duplicates = [e for e in await one.call("audit_list") if e.action == "client.duplicate"]
    assert len(duplicates) == 1


async def test_a_machine_that_starts_anew_elsewhere_gets_in_when_its_old_link_is_dead(
    nodes: tuple[World, World],
) -> None:
    one, two = nodes
    await one.network()
    first = await one.member(name="first")
    await until(lambda: first.answer.client_id in two.at.hub.elsewhere)
    (old,) = one.at.hub.devices.values()
    old.post = lambda text: None  # what is asked of it never arrives
    await (await at(two, first, "boot-2")).settled()
    assert old not in one.at.hub.devices.values()


async def test_of_two_boots_that_knock_at_two_nodes_at_once_one_stays(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    first = one.device()
    await first.join((await one.invite()).invite)
    await asyncio.gather(at(one, first), at(two, first, "boot-2"))
    await until(
        lambda: len([*one.at.hub.devices, *two.at.hub.devices]) == 1 and (one.at.hub.elsewhere or two.at.hub.elsewhere)
    )


async def test_who_was_at_a_node_that_died_is_offline_for_all_and_said_so_once(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann, bob, cid = await one.member(name="ann"), await two.member(name="bob"), await two.member(name="cid")
    him = bob.answer.client_id
    await ann.until(lambda: {him, cid.answer.client_id} <= ann.presence.keys())
    kill(two)
    await (await at(one, cid)).settled()
    await ann.until(lambda: not ann.presence[him].online)
    assert ann.presence[cid.answer.client_id].online, "it came to the other node in time"
    await until(lambda: len(one.at.nodes._others) == 0)
    offline = await events(one, "client_offline")
    assert offline == [("client_offline", him)]
    assert len(await one.call("node_list")) == 1


async def test_a_node_that_was_taken_for_dead_comes_back_with_all_it_has(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann, bob = await one.member(name="ann"), await two.member(name="bob")
    him = bob.answer.client_id
    await ann.until(lambda: him in ann.presence)
    beat = two.at.nodes._beat
    with patch.object(two.at.nodes, "_beat", side_effect=OSError("the database is away")):
        await ann.until(lambda: not ann.presence[him].online)
    assert two.at.nodes._beat == beat
    await ann.until(lambda: ann.presence[him].online)
    assert (await one.call("network_show", "office")).clients_online == 2


async def test_a_drained_node_gives_up_its_links_and_takes_none(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    here = await two.member(name="here")
    here.link._candidates = lambda: (two.url, one.url)
    here.link._jitter = lambda most: 0.0
    with pytest.raises(ShadowMeshError, match="no node"):
        await one.call("node_drain", "nowhere")
    drained = await one.call("node_drain", two.at.nodes.id)
    assert drained.draining and not drained.here
    await until(lambda: one.at.hub.devices and not two.at.hub.devices)
    await until(lambda: here.link.connected)
    with pytest.raises(ShadowMeshError) as refused:
        await one.call("node_drain", one.at.nodes.id)
    assert refused.value.code == "last_node"
    await one.call("node_drain", two.at.nodes.id, draining=False)
    await until(lambda: not two.at.nodes.draining)
    assert [e.action for e in await one.call("audit_list")][-2:] == ["node.drain", "node.undrain"]


async def test_who_listens_again_after_a_break_has_missed_nothing(nodes: tuple[World, World]) -> None:
    """The connection that listens is cut; what was changed meanwhile is known once it listens again."""
    one, two = nodes
    await one.network()
    ann = await one.member(name="ann")
    with patch("shadowmesh.controller.store.notices.read", return_value=None):
        await two.call("client_set", "office", "ann", name="renamed")
        await two.at.events.flush()
    assert [member.name for member in ann.map.members] == ["ann"]
    listening = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'LISTEN|SELECT 1$' AND pid <> pg_backend_pid()"
    await one.at.context.read(lambda conn: conn.exec_driver_sql(listening).all())
    await ann.until_map(lambda m: [member.name for member in m.members] == ["renamed"])


async def test_relays_at_another_node_are_online_with_their_load(nodes: tuple[World, World]) -> None:
    from shadowmesh.controller.service.hub import RelayLink
    from shadowmesh.model.relaylink import Load

    one, two = nodes
    row = {"id": "rly_r", "name": "r", "key": bytes(32), "url": "ws://192.0.2.1:9545", "region": "", "version": ""}
    added = schema.relays.insert().values(**row, draining=False, created_at=one.at.context.now())
    await one.at.context.write(lambda conn: conn.execute(added))
    load = Load(
        sessions=3, networks=1, forwarded_frames=0, forwarded_bytes=0, dropped_frames=0, cpu=0.5, overloaded=False
    )
    link = RelayLink(RelayID("rly_r"), "boot", lambda text: None, lambda code, why: None)
    two.at.relays.loaded(link, load)
    two.at.hub.relays[link.relay_id] = link
    await until(lambda: one.at.hub.relay_online(RelayID("rly_r")))
    (shown,) = await one.call("relay_list")
    assert shown.online and shown.load.sessions == 3
    del two.at.hub.relays[link.relay_id]
    await until(lambda: not one.at.hub.relay_online(RelayID("rly_r")))


async def test_a_watcher_hears_at_once_what_happened_at_the_other_node(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann = dataclasses.replace(await person(one, "ann", {"office": "member"}), world=two)
    async with ann.watching(network_id="office") as watch:
        await one.call("member_remove", "office", ann.email)
        assert await watch.ended() == (4003, "network_unknown")


async def test_one_node_alone_is_the_only_one_and_is_not_drained(world: World) -> None:
    (node,) = await world.call("node_list")
    assert node.here and node.urls == [world.url] and not node.draining
    with pytest.raises(ShadowMeshError) as refused:
        await world.call("node_drain", node.node_id)
    assert refused.value.code == "last_node"


async def test_presences_that_went_are_forgotten(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    bob = await two.member(name="bob")
    await until(lambda: bob.answer.client_id in one.at.hub.elsewhere)
    await bob.close()
    await until(lambda: bob.answer.client_id not in one.at.hub.elsewhere)
    one.clock.advance(minutes=2)
    await two.at.nodes.tidy()
    count = sa.select(sa.func.count()).select_from(schema.node_presences)
    assert await one.at.context.read(lambda conn: conn.execute(count).scalar()) == 0


async def test_guesses_at_one_node_count_at_the_other(nodes: tuple[World, World]) -> None:
    one, two = nodes
    ann = await person(one, "ann")
    guess = accounts.Login(email=ann.email, password="not this one")
    told = asyncio.Event()
    heard = two.at.context.limits.heard
    with patch.object(two.at.context.limits, "heard", lambda *news: (heard(*news), told.set())):
        for _ in range(10):
            with pytest.raises(ShadowMeshError, match="password"):
                await one.at.signing_in.login(guess, "198.51.100.7")
        await asyncio.wait_for(told.wait(), 8)
        refused: list[str] = []
        async with asyncio.timeout(8):
            while "rate_limited" not in refused:
                with pytest.raises(ShadowMeshError) as caught:
                    await two.at.signing_in.login(guess, "198.51.100.7")
                refused.append(caught.value.code)
        assert len(refused) < 10, "it has no ten of its own"


async def test_who_is_online_is_known_even_where_no_notice_comes(nodes: tuple[World, World]) -> None:
    one, two = nodes
    network = (await one.network()).network_id
    with patch("shadowmesh.controller.store.notices.read", return_value=None):
        bob = await two.member(name="bob")
        await until(lambda: one.at.hub.is_online(network, bob.answer.client_id))
        await bob.close()
        await until(lambda: not one.at.hub.is_online(network, bob.answer.client_id))


async def test_one_that_two_nodes_have_stays_online_when_the_older_lets_go(nodes: tuple[World, World]) -> None:
    """In whatever order a third node reads of them: as after a drain."""
    one, _ = nodes
    network = (await one.network()).network_id
    client, now = ClientID("cli_moving"), one.at.context.now()
    older, newer = (
        Elsewhere(
            node, network, Presence(client_id=client, online=True, home=home), "boot", now + dt.timedelta(seconds=n)
        )
        for n, (node, home) in enumerate({"nod_a": "rly_a", "nod_b": "rly_b"}.items())
    )
    presences = one.at.presences
    for first, second in ((older, newer), (newer, older)):
        presences.came_elsewhere(client, first)
        presences.came_elsewhere(client, second)
        assert one.at.hub.presence[network][client].home == "rly_b"
        presences.went_elsewhere(client, "nod_a")
        assert one.at.hub.presence[network][client].home == "rly_b"
        presences.went_elsewhere(client, "nod_b")
        assert client not in one.at.hub.presence[network] and client not in one.at.hub.elsewhere


def test_a_silent_server_is_not_waited_for_longer_than_the_url_says() -> None:
    url = database_url("postgresql://u@one,two/d?connect_timeout=2", Path("unused"))
    assert patience(url)["tcp_user_timeout"] == 10_000 and "connect_timeout" not in patience(url)


@pytest.mark.timeout(180)
async def test_of_fifty_who_take_a_one_use_invite_at_two_nodes_one_gets_in(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    invite = (await one.invite()).invite
    crowd = [(one, two)[i % 2].device() for i in range(50)]
    results = await asyncio.gather(*(device.join(invite) for device in crowd), return_exceptions=True)
    refused = [r for r in results if isinstance(r, ShadowMeshError)]
    assert len(refused) == 49, {type(r) for r in results}
    assert {e.code for e in refused} == {"invite_used_up"}
    assert len(await one.call("client_list", "office")) == 1


def kill(world: World) -> None:
    """As `kill -9` does: it says nothing any more, and its links are gone."""
    for task in [*world.at._tasks, *world.at.nodes._tasks]:
        task.cancel()
    world.at.nodes._turns.close()
    world.at.presences.close()
    world.at.events.publish = lambda kind, ref, **data: None  # type: ignore[method-assign]
    world.at.presences._share = lambda ref, client_id: None
    for device in world.devices:
        vanish(device)


def vanish(device: Device) -> None:
    """Its connection breaks without a word, and it makes no other."""
    if device.link is not None and device._task is not None:
        device._task.cancel()
        device.link._socket.transport.abort()
        device.link = device._task = None


async def test_devices_spread_over_the_nodes_and_each_keeps_to_its_own_order(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    known = await one.member(name="known")
    await known.until_map(lambda m: set(m.head.controller_urls) == {one.url, two.url})
    identity = msgspec.structs.replace(known.identity, urls=(one.url, "https://192.0.2.1:8443"))

    def link(device: Signer) -> ControllerLink:
        return ControllerLink(
            urls=("https://192.0.2.9:8443",),
            fingerprint=None,
            device=device,
            boot_id="b",
            identity=identity,
            maps=(known.map,),
            wall=lambda: 0.0,
        )

    devices = [Signer.generate() for _ in range(200)]
    first = [link(device)._candidates() for device in devices]
    assert first == [link(device)._candidates() for device in devices]
    assert 60 < sum(urls[0] == one.url for urls in first) < 140
    for urls in first:
        assert urls.index(one.url) + 1 == urls.index("https://192.0.2.1:8443"), (
            "a node's URLs stay together, in its order"
        )
        assert urls[-1] == "https://192.0.2.9:8443"
    failed = link(devices[0])
    failed._failed_at[first[0][0]] = asyncio.get_running_loop().time()
    assert failed._candidates()[0] in {one.url, two.url} - {first[0][0]}
    failed._failed_at[first[0][0]] -= 301.0
    assert failed._candidates() == first[0]
