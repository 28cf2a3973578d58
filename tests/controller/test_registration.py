"""Clients registered by their WireGuard key: what they are before the key is proved, and how they become members."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from people import Person, person
from test_possession import Applicant

from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.devicelink import Report
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import NetworkID
from shadowmesh.protocol.noise import generate_private_key
from shadowmesh.protocol.sealing import generate_sealing_keys, network_key_info, open_sealed

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World

NAT = {"public_ip": "203.0.113.45", "public_port": 51820, "nat_type": "port_restricted"}


def wish_of(device: Device, **more: Any) -> api.ClientRegister:
    return api.ClientRegister(client_name="server-1", public_key=str(device.wg_key), **more)


async def registered(world: World, device: Device, **more: Any) -> api.ClientRegistered:
    found = await world.call("client_register", "office", wish_of(device, **more))
    assert isinstance(found, api.ClientRegistered)
    return found


async def eventually_gone(world: World) -> None:
    await world.at.registration.expire()
    assert await world.call("client_list", "office") == []


async def audited(world: World, action: str) -> list[Any]:
    return [e for e in await world.call("audit_list") if e.action == action]


async def test_who_is_registered_is_in_nobodys_map_until_the_key_is_proved(world: World) -> None:
    await world.network()
    other, device = await world.member(name="other"), world.device()
    made = await registered(world, device)
    assert made.state == "pending" and made.invite is not None and made.assigned_ip == "10.42.0.2"
    shown = await world.call("client_show", "office", "server-1")
    assert (shown.state, shown.status, shown.device_key, shown.device) == ("pending", "offline", None, "")
    assert shown.expires_at == made.expires_at
    await world.call("network_set", "office", api.NetworkPatch(description="a newer map"))
    assert len((await other.until_map(lambda m: m.serial > 2)).members) == 1
    assert [d.name for d in await world.call("device_list")] == ["other"]
    answer = await device.join(made.invite, hostname="some-host")
    assert (answer.client_id, answer.name, str(answer.ip)) == (made.client_id, "server-1", "10.42.0.2")
    assert answer.state == "approved" and answer.grant is not None
    members = (await other.until_map(lambda m: len(m.members) == 2)).members
    assert {m.wg_key for m in members} == {other.wg_key, device.wg_key}
    shown = await world.call("client_show", "office", "server-1")
    assert shown.expires_at is None and shown.device_key == str(device.signer.device_key)
    assert (await device.join(made.invite)).client_id == made.client_id, "a lost answer is given again"
    (entry,) = await audited(world, "client.register")
    assert (entry.detail["id"], entry.detail["key_given"]) == (made.client_id, False)


async def test_a_code_registers_and_proves_and_waits_for_approval(world: World) -> None:
    code = (await world.network()).invitation_code
    device = world.device()
    made = await registered(world, device, invitation_code=code.upper())
    assert made.invite is None
    answer = await device.join(code)
    assert (answer.client_id, answer.state) == (made.client_id, "pending")
    assert (await world.call("client_approve", "office", "server-1")).state == "approved"


async def test_approving_does_not_stand_for_the_proof(world: World) -> None:
    await world.network()
    await registered(world, world.device())
    with pytest.raises(ShadowMeshError) as caught:
        await world.call("client_approve", "office", "server-1")
    assert caught.value.code == "key_not_proved"
    await world.call("client_deny", "office", "server-1")
    assert await world.call("client_list", "office") == []


@pytest.mark.parametrize("missing", ["wg", "sealing"])
async def test_who_lacks_a_private_key_does_not_become_the_client(world: World, missing: str) -> None:
    await world.network()
    device = world.device()
    made = await registered(world, device)
    assert made.invite is not None
    thief = Applicant(world, device, made.invite)
    if missing == "wg":
        thief.wg_private = generate_private_key()
    else:
        thief.sealing_private, _ = generate_sealing_keys()
    assert (await thief.enrol()).json()["code"] == "bad_proof"
    assert (await world.call("client_show", "office", "server-1")).device_key is None


async def test_what_nobody_proves_in_an_hour_is_removed_and_revokes_nothing(world: World) -> None:
    await world.network()
    await world.member(name="other")
    device = world.device()
    made = await registered(world, device)
    assert made.invite is not None
    world.clock.advance(minutes=59)
    await world.at.registration.expire()
    assert len(await world.call("client_list", "office")) == 2
    world.clock.advance(minutes=2)
    await world.at.registration.expire()
    assert [c.name for c in await world.call("client_list", "office")] == ["other"]
    (entry,) = await audited(world, "client.remove")
    assert (entry.actor, entry.detail["reason"], entry.detail["rotated"]) == ("controller", "expired", False)
    revoked = await world.at.context.read(lambda c: c.execute(sa.select(schema.revocations.c.id)).all())
    assert revoked == [], "a revocation that names no device would void every member's tokens"
    with pytest.raises(ShadowMeshError) as caught:
        await device.join(made.invite)
    assert caught.value.kind.name in ("NOT_ALLOWED", "CONFLICT")


async def test_who_proves_a_key_finds_nobody_in_the_way_who_did_not(world: World) -> None:
    await world.network()
    device = world.device()
    squatted = await registered(world, device)
    answer = await device.join((await world.invite()).invite, name="mine")
    assert (answer.state, answer.name) == ("approved", "mine") and answer.client_id != squatted.client_id
    assert [c.client_id for c in await world.call("client_list", "office")] == [answer.client_id]
    (entry,) = await audited(world, "client.remove")
    assert (entry.detail["id"], entry.detail["reason"]) == (squatted.client_id, "displaced")


async def test_a_revoked_code_proves_nothing(world: World) -> None:
    await world.network()
    invite, device = await world.invite(uses=2), world.device()
    await registered(world, device, invitation_code=invite.code)
    await world.call("invite_revoke", "office", invite.id)
    with pytest.raises(ShadowMeshError) as caught:
        await device.join(invite.code)
    assert caught.value.code == "invite_revoked"


async def test_the_network_key_is_given_sealed_to_who_need_not_wait(world: World) -> None:
    made = await world.network(subnet="10.42.0.0/24")
    secret, sealing = generate_sealing_keys()
    waits = await registered(world, world.device(), sealing_key=str(sealing), invitation_code=made.invitation_code)
    assert (waits.network_key, waits.network_key_reason) == (None, "waits_for_approval")
    await world.call("client_deny", "office", "server-1")
    given = await registered(world, world.device(), sealing_key=str(sealing))
    assert given.network_key is not None and given.network_key_reason is None
    info = network_key_info(NetworkID.parse(made.wire_id), given.network_key.epoch)
    assert len(open_sealed(secret, base64.b64decode(given.network_key.sealed), info)) == 32
    world.clock.advance(minutes=61)
    await eventually_gone(world)
    assert len((await world.call("network_show", "office")).epochs) == 2, (
        "who got the key and isn't there has an old one"
    )


async def test_a_code_says_nothing_of_networks_that_it_is_not_of(world: World) -> None:
    code = (await world.network()).invitation_code
    await world.network("secret", "10.43.0.0/24")
    ann = await person(world, "ann")
    device = world.device()

    async def ask(network: str, code: str | None) -> tuple[int, str]:
        wish = {"client_name": "x", "public_key": str(device.wg_key)} | ({"invitation_code": code} if code else {})
        answer = await ann.ask("POST", f"/networks/{network}/clients", wish)
        return answer.status_code, answer.json().get("code", "")

    assert await ask("secret", code) == await ask("nowhere", code) == await ask("secret", "no-such-code")
    assert await ask("secret", None) == await ask("nowhere", None) == (404, "network_unknown")
    assert (await ask("office", code))[0] == 201, "who has the code need not be a member"
    seen = [await ask("office", "no-such-code") for _ in range(6)]
    assert seen[-1] == (429, "rate_limited") and (403, "invite_invalid") in seen


async def test_what_is_taken_is_refused_and_a_request_sent_twice_done_once(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "member"})
    wish = wish_of(world.device()).model_dump(mode="json", exclude_none=True)
    assert (await ann.ask("POST", "/networks/office/clients", wish)).status_code == 201
    same_key = wish | {"client_name": "server-2"}
    for body, code in (
        (wish, "key_taken"),
        (same_key, "key_taken"),
        (wish | {"public_key": _key(world)}, "name_taken"),
    ):
        answer = await ann.ask("POST", "/networks/office/clients", body)
        assert (answer.status_code, answer.json()["code"]) == (409, code), body
    low = base64.b64encode((1).to_bytes(32, "little")).decode()
    assert (await ann.ask("POST", "/networks/office/clients", wish | {"public_key": low})).status_code == 422
    assert (await ann.ask("DELETE", "/networks/office/clients/server-1")).status_code == 204, "it is her own"


def _key(world: World) -> str:
    return str(world.device().wg_key)


async def test_addresses_are_shown_to_who_may_connect(world: World) -> None:
    await world.network()
    device, other = await world.member(name="server-1"), await world.member(name="other")
    assert device.link is not None and device.answer is not None
    device.link.post(Report(network_id=device.answer.network_id, endpoints=(SockAddr("192.0.2.7", 4500),)))
    member = await person(world, "ann", {"office": "member"})
    guest = await person(world, "bob", {"office": "guest"})

    async def endpoints(who: Person) -> list[Any]:
        paths = ("/networks/office/peers/server-1", "/networks/office/clients/server-1")
        found = [(await who.ask("GET", path)).json()["endpoints"] for path in paths]
        listed = (await who.ask("GET", "/networks/office/clients")).json()["clients"]
        return [*found, next(c["endpoints"] for c in listed if c["name"] == "server-1")]

    await other.until(lambda: (seen := other.presence.get(device.answer.client_id)) and seen.endpoints)
    direct = {"type": "direct", "address": "192.0.2.7:4500", "nat_type": None}
    assert await endpoints(member) == [[direct], ["192.0.2.7:4500"], ["192.0.2.7:4500"]]
    assert await endpoints(guest) == [[direct | {"address": None}], [], []]
    await world.call("network_set", "office", api.NetworkPatch(p2p_enabled=False))
    assert (await endpoints(member))[0] == []


async def test_who_waits_shows_what_was_told_of_its_nat_and_is_nobodys_peer_yet(world: World) -> None:
    await world.network()
    await registered(world, world.device(), nat_capability=NAT)
    shown = await world.call("client_show", "office", "server-1")
    assert (shown.state, shown.nat_type) == ("pending", "port_restricted")
    with pytest.raises(ShadowMeshError, match="server-1 waits to be let into office") as refused:
        await world.call("peer_show", "office", "server-1")
    assert refused.value.code == "client_unknown" and "client approve office server-1" in refused.value.remedy


@pytest.mark.lab
async def test_a_node_proves_what_was_registered_at_another(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    device = two.device()
    made = await registered(one, device, nat_capability=NAT)
    assert made.invite is not None
    assert (await device.join(made.invite)).client_id == made.client_id
    peer = await one.call("peer_show", "office", "server-1")
    assert peer.endpoints[0].model_dump() == {
        "type": "direct", "address": "203.0.113.45:51820", "nat_type": "port_restricted"
    }  # fmt: skip
