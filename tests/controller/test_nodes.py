"""Two controllers on one PostgreSQL: what is taken away at one ends at the other, within a second."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from people import person

from shadowmesh.controller.authz import LOCAL, Principal, require_signed_in
from shadowmesh.controller.service import revocations
from shadowmesh.controller.service.api_keys import add_key
from shadowmesh.controller.service.hub import RelayLink
from shadowmesh.controller.settings import Timing
from shadowmesh.controller.store import schema, sequences
from shadowmesh.model import accounts, api
from shadowmesh.model.devicelink import Removed
from shadowmesh.model.ids import RelayID

if TYPE_CHECKING:
    from tests.controller.conftest import World

pytestmark = pytest.mark.lab


async def test_rights_taken_away_at_one_node_end_connections_at_the_other(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann = dataclasses.replace(await person(one, "ann", {"office": "member"}), world=two)
    bob = dataclasses.replace(await person(one, "bob", {"office": "member"}), world=two)
    async with ann.watching(network_id="office") as hers, bob.watching() as his:
        await one.call("member_remove", "office", ann.email)
        await one.call("user_set", bob.email, accounts.UserPatch(disabled=True))
        began = time.monotonic()
        assert await hers.ended() == (4003, "network_unknown")
        assert await his.ended() == (4401, "not_signed_in")
        assert time.monotonic() - began < two.at.context.timing.follow + 2.0, "it is polled for, not found by chance"


async def test_what_groups_and_lists_give_and_take_counts_at_both_nodes(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann = dataclasses.replace(await person(one, "ann"), world=two)
    await one.call("group_create", accounts.GroupCreate(name="ops"))
    await one.call("group_add", "ops", ann.email)
    await one.call("group_set_role", "ops", "office", api.GivenRole(role="owner"))
    assert [n["name"] for n in (await ann.ask("GET", "/networks")).json()["networks"]] == ["office"]
    made = (await ann.ask("POST", "/networks/office/invites", {"uses": 2})).json()["id"]
    async with ann.watching(network_id="office") as watch:
        document = {"networks": {"office": {"role": "guest", "permissions": ["client.remove"]}}}
        await one.call("policy_document_set", ann.email, accounts.PolicyDocumentPut.model_validate(document))
        assert await watch.ended() == (4003, "not_allowed")
    assert {i.id: i.state for i in await two.invites()} == {made: "revoked"}
    said = (await ann.ask("GET", "/networks/office/access")).json()["permissions"]
    assert [p["permission"] for p in said if p["allowed"]] == ["client.remove"]


async def test_a_client_removed_at_one_node_is_cut_off_at_the_other(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    gone = await two.member(name="gone")
    await one.call("client_remove", "office", "gone")
    assert (await gone.until_event(Removed)).reason == "removed"


async def test_a_device_that_joins_again_at_once_is_not_cut_off_by_its_own_removal(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    device = two.device()
    await device.join((await one.invite()).invite)
    before = two.at.following._done
    await one.call("client_remove", "office", "laptop")
    await device.join((await one.invite()).invite)
    await (await device.connect()).settled()
    two.at.following._done = before  # as if the other node's poll came only now
    await two.at.follow()
    assert not [e for e in device.events if isinstance(e, Removed)]


@pytest.mark.parametrize(
    "timing", [Timing(presence_gather=0.02, offline_after=0.1, shutdown_grace=1.0, alive_every=0.2)]
)
async def test_an_ephemeral_client_that_is_alive_at_another_node_is_left_alone(nodes: tuple[World, World]) -> None:
    """Until it is away for longer than it may be; whichever node notices, it is removed once."""
    one, two = nodes
    await one.network()
    device = two.device()
    await device.join((await one.invite(ephemeral=True, idle=1)).invite)
    await (await device.connect()).settled()
    joined = one.at.context.now()
    for _ in range(30):  # of the first node's looks
        await one.at.ephemeral.remove_idle()
        await asyncio.sleep(0.05)
    seen = (await one.call("client_show", "office", "laptop")).last_seen
    assert seen > joined and one.at.context.now() - seen < dt.timedelta(seconds=1)
    await device.close()
    async with asyncio.timeout(8):
        while await one.call("client_list", "office"):
            await asyncio.gather(one.at.ephemeral.remove_idle(), two.at.ephemeral.remove_idle())
    removals = [e for e in await one.call("audit_list") if e.action == "client.remove"]
    assert [e.detail["reason"] for e in removals] == ["expired"]


@pytest.mark.parametrize("timing", [Timing(housekeeping=3600.0)])  # the other node doesn't remove it meanwhile
async def test_a_client_that_comes_back_in_the_last_moment_is_not_removed(nodes: tuple[World, World]) -> None:
    """The decision to remove it was taken on an old row; the removal looks at the row as it is."""
    one, two = nodes
    await one.network()
    await two.device().join((await one.invite(ephemeral=True, idle=300)).invite)
    one.clock.advance(minutes=6)
    c = schema.clients
    write, came_back = one.at.context.store.write, False

    async def write_later(tx: Any) -> Any:
        nonlocal came_back
        if not came_back:
            came_back = True
            await write(lambda conn: conn.execute(c.update().values(last_seen=one.at.context.now())))
        return await write(tx)

    with patch.object(one.at.context.store, "write", write_later):
        await one.at.ephemeral.remove_idle()
    assert came_back and len(await one.call("client_list", "office")) == 1
    one.clock.advance(minutes=6)
    await one.at.ephemeral.remove_idle()
    assert await one.call("client_list", "office") == []


async def test_a_relay_removed_or_drained_at_one_node_hears_of_it_at_the_other(nodes: tuple[World, World]) -> None:
    one, two = nodes
    relay = {"id": "rly_r", "name": "r", "key": bytes(32), "url": "ws://192.0.2.1:9545", "region": "", "version": ""}
    row = relay | {"draining": False, "created_at": one.at.context.now()}
    await one.at.context.write(lambda conn: conn.execute(schema.relays.insert().values(row)))
    told: list[str] = []
    link = RelayLink(RelayID("rly_r"), "boot", told.append, lambda code, why: told.append(f"closed {code} {why}"))
    two.at.hub.relays[link.relay_id] = link
    for act, heard in (
        (one.call("relay_drain", "r"), '"draining":true'),
        (one.call("relay_drain", "r", draining=False), '"draining":false'),
        (one.call("relay_remove", "r"), "closed 4001 removed"),
    ):
        await act
        async with asyncio.timeout(8):
            while not any(heard in text for text in told):
                await two.at.follow()
    del two.at.hub.relays[link.relay_id]


async def test_what_ails_one_revocation_keeps_no_other_from_being_acted_on(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann = dataclasses.replace(await person(one, "ann", {"office": "member"}), world=two)
    broken, act = True, two.at.following._act

    async def fails_at_first(row: Any) -> None:
        if broken and row.user_id is None:
            raise OSError("not now")
        await act(row)

    gone = await two.member(name="gone")
    with patch.object(two.at.following, "_act", fails_at_first):
        async with ann.watching() as watch:
            await one.call("client_remove", "office", "gone")
            await one.call("user_set", ann.email, accounts.UserPatch(disabled=True))
            assert await watch.ended() == (4401, "not_signed_in")
        broken = False
        assert (await gone.until_event(Removed)).reason == "removed"


async def test_revocations_are_numbered_as_they_are_committed(nodes: tuple[World, World]) -> None:
    """Who has read up to a number misses none below it, whatever transactions were open meanwhile."""
    one, two = nodes
    await person(one, "ann")
    store = one.at.context.store.engine
    user = (await one.call("user_list"))[0].id
    with store.connect() as slow, slow.begin():
        revocations.rights_changed(one.at.context, slow, user)
        with store.connect() as other, other.begin():
            other.exec_driver_sql("SET LOCAL lock_timeout = '200ms'")
            with pytest.raises(sa.exc.OperationalError):
                revocations.rights_changed(two.at.context, other, user)
    with store.connect() as conn:
        numbers = list(conn.execute(sa.select(schema.revocations.c.id).order_by(schema.revocations.c.id)).scalars())
        assert (
            numbers == list(range(1, len(numbers) + 1)) and sequences.newest(conn, sequences.REVOCATIONS) == numbers[-1]
        )


async def test_a_watcher_hears_of_what_happened_at_the_other_node(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann = dataclasses.replace(await person(one, "ann", {"office": "member"}), world=two)
    async with ann.watching(network_id="office") as watch:
        await one.call("network_set", "office", api.NetworkPatch(description="x"))
        await watch.until("network_changed", change="set")
        gone = await two.member(name="gone")
        await watch.until("client_online", client_id=gone.answer.client_id)
        await one.call("client_remove", "office", "gone")
        await watch.until("client_removed", client_id=gone.answer.client_id)
        numbers = [message["seq"] for message in watch.told]
        assert numbers == sorted(set(numbers)), "each once, in order"


async def test_a_watcher_misses_no_event_whose_transaction_took_longer(nodes: tuple[World, World]) -> None:
    """One that was begun before another and is committed after it has the later number."""
    one, two = nodes
    network = await one.network()
    await one.at.events.flush()
    ann = dataclasses.replace(await person(one, "ann", {"office": "member"}), world=two)
    write, written, commit = one.at.context.store.write, threading.Event(), threading.Event()

    async def slow(tx: Any) -> Any:
        if "Events" not in tx.__qualname__:
            return await write(tx)

        def held(conn: sa.Connection) -> Any:
            result = tx(conn)
            written.set()
            assert commit.wait(8)
            return result

        return await write(held)

    async with ann.watching(network_id="office") as watch:
        with patch.object(one.at.context.store, "write", slow):
            one.at.events.publish("network_changed", network.network_id, change="first")
            first = asyncio.create_task(one.at.events.flush())
            assert await asyncio.to_thread(written.wait, 8)
            two.at.events.publish("network_changed", network.network_id, change="second")
            second = asyncio.create_task(two.at.events.flush())
            async with asyncio.timeout(8):
                while not second.done() and not await two.at.context.read(_someone_waits):
                    pass
            commit.set()
            await asyncio.gather(first, second)
        await watch.until("network_changed", change="second")
        told = [(m["seq"], m["data"]["change"]) for m in watch.told if m["type"] == "network_changed"]
        assert [change for _, change in told] == ["first", "second"] and told == sorted(told)


async def test_no_key_is_made_with_one_that_is_being_revoked(nodes: tuple[World, World]) -> None:
    one, two = nodes
    ann = await person(one, "ann")
    parent = (await ann.ask("POST", "/api-keys", {})).json()
    who, engine = Principal("ann by key", ann.user, ann.email, credential=parent["id"]), one.at.context.store.engine
    with engine.connect() as making:
        with making.begin():
            require_signed_in(making, who, one.at.context.now())
            _, child = add_key(one.at.context, making, who, ann.user, accounts.ApiKeyCreate(name="child"))
            revoking = asyncio.create_task(two.at.api_keys.revoke(LOCAL, parent["id"]))
            async with asyncio.timeout(8):
                while not await two.at.context.read(_someone_waits):
                    pass
        await revoking
    assert [(await ann.ask("GET", "/whoami", token=key)).status_code for key in (parent["key"], child)] == [401, 401]


def _someone_waits(conn: sa.Connection) -> bool:
    return bool(conn.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar_one())
