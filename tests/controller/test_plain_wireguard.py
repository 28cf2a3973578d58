"""Devices that have a WireGuard key and no daemon, let in by whoever vouches for the key."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from people import person
from test_registration import NAT, registered, wish_of

from shadowmesh.model import api
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.protocol.psk import derive_psk
from shadowmesh.protocol.sealing import network_key_info, open_sealed

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def refused(coroutine: object) -> str:
    with pytest.raises(ShadowMeshError) as caught:
        await coroutine  # type: ignore[misc]
    return caught.value.code


async def test_who_vouches_for_a_key_lets_it_in(world: World) -> None:
    await world.network()
    owner, member = await person(world, "olga", {"office": "owner"}), await person(world, "meg", {"office": "member"})
    other, camera = await world.member(name="other"), world.device()
    wish = wish_of(camera).model_dump(mode="json", exclude_none=True)
    made = (await member.ask("POST", "/networks/office/clients", wish)).json()
    path = "/networks/office/clients/server-1"
    assert (await owner.ask("POST", f"{path}/approve")).json()["code"] == "key_not_proved"
    assert (await member.ask("POST", f"{path}/plain-wireguard")).status_code == 403, "it would be their own approval"
    for _ in range(2):
        done = await owner.ask("POST", f"{path}/plain-wireguard")
        assert done.status_code == 200, done.text
    shown = done.json()
    assert (shown["state"], shown["plain_wireguard"], shown["device_key"], shown["expires_at"]) == (
        "approved", True, None, None,
    )  # fmt: skip
    found = await other.until_map(lambda m: len(m.members) == 2)
    entry = next(m for m in found.members if m.client_id == made["client_id"])
    assert (entry.wg_key, str(entry.ip)) == (camera.wg_key, made["assigned_ip"])
    world.clock.advance(hours=2)
    await world.at.registration.expire()
    assert {c.name for c in await world.call("client_list", "office")} == {"other", "server-1"}, (
        "there is no hour any more"
    )
    assert await refused(camera.join(made["invite"])) in ("invite_used_up", "key_taken", "invite_expired")
    assert len([e for e in await world.call("audit_list") if e.action == "client.declare-plain"]) == 1


async def test_its_preshared_keys_are_those_that_the_members_derive(world: World) -> None:
    await world.network()
    other, camera = await world.member(name="other"), world.device()
    await registered(world, camera)
    assert await refused(world.call("client_plain_configuration", "office", "server-1")) == "not_plain"
    await world.call("client_declare_plain", "office", "server-1")
    for epoch in (0, 1):
        found = await world.call("client_plain_configuration", "office", "server-1")
        network_id = other.map.head.network_id
        given = await other.until(lambda: [k for k in other.grants[network_id].keys if k.epoch == epoch])  # noqa: B023
        sealed = given[0].sealed
        key = Secret(open_sealed(other.sealing_secret, base64.b64decode(sealed), network_key_info(network_id, epoch)))
        (peer,) = found.peers
        assert (found.epoch, peer.name, peer.allowed_ips) == (epoch, "other", ["10.42.0.1/32"])
        psk = derive_psk(key, network_id, epoch, camera.wg_key, other.wg_key)
        assert base64.b64decode(peer.preshared_key) == psk.reveal() and peer.public_key == str(other.wg_key)
        await world.call("network_rotate_key", "office")
        world.clock.advance(seconds=31)


async def test_only_what_was_registered_can_be_one_and_it_is_removed_as_others_are(world: World) -> None:
    await world.network()
    await world.member(name="other")
    assert await refused(world.call("client_declare_plain", "office", "other")) == "not_registered"
    assert await refused(world.call("client_declare_plain", "office", "none")) == "client_unknown"
    await registered(world, world.device(), nat_capability=NAT)
    done = await world.call("client_declare_plain", "office", "server-1")
    moved = await world.call("client_set", "office", "server-1", ip="10.42.0.77")
    assert (moved.ip, moved.plain_wireguard) == ("10.42.0.77", True)
    peers = (await world.call("client_plain_configuration", "office", "server-1")).peers
    assert [p.name for p in peers] == ["other"]
    assert done.device in {d.id for d in await world.call("device_list")}
    await world.call("client_remove", "office", "server-1")
    assert [c.name for c in await world.call("client_list", "office")] == ["other"]
    assert (await world.call("network_show", "office")).epochs[-1].epoch == 1, "it knew keys of the network"
    assert isinstance(done, api.Client)
