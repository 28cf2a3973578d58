"""A machine over all its networks: told and cut off as far as who asks may remove it, and no word of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from people import person

from shadowmesh.model import api
from shadowmesh.model.devicelink import Removed
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.ids import NetworkRef, new_id

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World

PLACES = (("office", "10.42.0.0/24"), ("lab", "10.43.0.0/24"), ("secret", "10.44.0.0/24"))


async def everywhere(world: World) -> Device:
    """One laptop in three networks."""
    laptop = world.device()
    for network, subnet in PLACES:
        await world.network(network, subnet)
        await laptop.join((await world.invite(network)).invite, name="laptop" if network != "lab" else "pc")
    return laptop


async def test_a_stolen_laptop_is_one_command(world: World) -> None:
    laptop = await everywhere(world)
    other = await world.member(name="other")
    await (await laptop.connect()).settled()
    shown = await world.call("device_show", "laptop@office")
    assert shown.online and shown.id.startswith("dev_")
    assert [(m.network_name, m.name, m.state) for m in shown.networks] == [
        ("office", "laptop", "approved"), ("lab", "pc", "approved"), ("secret", "laptop", "approved")
    ]  # fmt: skip
    client = await world.call("client_show", "lab", "pc")
    for name in (shown.id, client.client_id, "pc", "laptop", "LAPTOP@Office", "10.43.0.1", "pc@" + client.network_id):
        assert (await world.call("device_show", name)).id == shown.id, name
    gone = await world.call("device_remove", shown.id)
    assert [m.network_name for m in gone.networks] == ["office", "lab", "secret"]
    await laptop.until_event(Removed)
    assert not any(world.at.hub.online(NetworkRef(m.network_id)) for m in shown.networks if m.network_name != "office")
    await other.until_map(lambda m: len(m.members) == 1)
    for network, _ in PLACES:
        assert [c.name for c in await world.call("client_list", network)] == (["other"] if network == "office" else [])
    with pytest.raises(ShadowMeshError) as caught:
        await world.call("device_remove", shown.id)
    assert (caught.value.code, caught.value.kind) == ("device_unknown", Kind.NOT_FOUND)


async def test_networks_in_which_one_may_not_remove_are_neither_named_nor_counted_nor_touched(world: World) -> None:
    await everywhere(world)
    ann = await person(world, "ann", {"office": "owner", "lab": "owner", "secret": "member"})
    shown = (await ann.ask("GET", "/devices/laptop")).json()
    assert [m["network_name"] for m in shown["networks"]] == ["office", "lab"]
    assert (await ann.ask("GET", "/devices")).json()["items"] == [shown]
    assert "secret" not in (await ann.ask("DELETE", f"/devices/{shown['id']}")).text
    left = (await world.call("device_show", shown["id"])).networks
    assert [m.network_name for m in left] == ["secret"]


async def test_a_device_that_is_only_elsewhere_is_none(world: World) -> None:
    await everywhere(world)
    await world.network("own", "10.45.0.0/24")
    ann = await person(world, "ann", {"own": "owner", "secret": "member"})
    theirs = await world.call("device_show", "laptop")
    client = theirs.networks[2].client_id
    assert (await ann.ask("GET", "/devices")).json()["items"] == []
    for method in ("GET", "DELETE"):
        answers = set()
        for name in (theirs.id, "laptop", client, "10.44.0.1", "laptop@secret", "nothing", new_id("cli")):
            got = await ann.ask(method, f"/devices/{name}")
            answers.add((got.status_code, got.text.replace(name, "…")))
        assert len(answers) == 1 and next(iter(answers))[0] == 404


async def test_ones_own_machines_are_ones_own_to_remove(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "member"})
    mine = (await ann.ask("POST", "/networks/office/invites", {})).json()["invite"]
    await world.device().join(mine, name="notebook")
    await world.device().join((await world.invite()).invite, name="server")
    assert [d["name"] for d in (await ann.ask("GET", "/devices")).json()["items"]] == ["notebook"]
    assert (await ann.ask("DELETE", "/devices/server")).status_code == 404
    assert (await ann.ask("DELETE", "/devices/notebook")).status_code == 200


async def test_a_name_of_several_devices_is_told_with_the_candidates(world: World) -> None:
    for network, subnet in PLACES[:2]:
        await world.network(network, subnet)
        await world.device().join((await world.invite(network)).invite, name="laptop")
    with pytest.raises(ShadowMeshError) as caught:
        await world.call("device_remove", "laptop")
    assert (caught.value.code, caught.value.kind) == ("device_ambiguous", Kind.USAGE)
    ids = [d.id for d in await world.call("device_list")]
    assert len(ids) == 2 and all(i in str(caught.value) for i in ids)
    assert (await world.call("device_remove", "laptop@lab")).networks[0].network_name == "lab"


async def test_the_list_pages(world: World) -> None:
    await world.network()
    for n in range(5):
        await world.device().join((await world.invite()).invite, name=f"m{n}")
    ann = await person(world, "ann", {"office": "owner"})
    names, cursor = [], ""
    while cursor is not None:
        page = (await ann.ask("GET", f"/devices?limit=2{cursor and '&cursor=' + cursor}")).json()
        names += [d["name"] for d in page["items"]]
        cursor = page["next"]
    assert sorted(names) == [f"m{n}" for n in range(5)]
    assert (await ann.ask("GET", "/devices?cursor=zz")).status_code == 422


async def test_what_a_network_may_be_in_the_way_of_is_said_at_once(world: World) -> None:
    assert (await world.network()).warnings == []
    (overlap,) = (await world.network("lab", "10.42.0.0/16")).warnings
    assert "office (10.42.0.0/24)" in overlap
    (public,) = (await world.network("wide", "8.8.8.0/24")).warnings
    assert "internet" in public
    assert (await world.network("cgnat", "100.64.3.0/24")).warnings == []
    changed = await world.call("network_set", "wide", api.NetworkPatch(subnet="10.42.9.0/24"))
    assert ["lab (10.42.0.0/16)" in w for w in changed.warnings] == [True]
    root = await person(world, "root", {"office": "guest"}, admin=True)
    assert (await root.ask("GET", "/networks/wide")).json()["warnings"] == []


async def test_a_device_is_cut_off_everywhere_though_telling_others_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop = await everywhere(world)
    await (await laptop.connect()).settled()
    shown = await world.call("device_show", "laptop@office")

    async def fail(*_: object, **__: object) -> None:
        raise ShadowMeshError("storage_failed", "the disk is full")

    monkeypatch.setattr(world.at.maps, "refresh", fail)
    assert (await world.call("device_remove", shown.id)).id == shown.id, "it is removed, and said so"
    await laptop.until(lambda: sum(isinstance(event, Removed) for event in laptop.events))
    assert not any(world.at.hub.online(NetworkRef(m.network_id)) for m in shown.networks)
