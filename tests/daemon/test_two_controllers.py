"""A machine in networks of two controllers: each speaks for its own, and is not heard about the other's."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from daemonkit import Controller, Lan, Machine, controller, refused, until
from msgspec.structs import replace

from shadowmesh.client_api.link import ControllerLink
from shadowmesh.daemon import join
from shadowmesh.model.api import NetworkPatch
from shadowmesh.model.devicelink import Grant, MapUpdate, Pending, Presence, PresenceUpdate, Removed, SealedKey
from shadowmesh.model.errors import Kind
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.protocol.sealing import network_key_info, seal
from shadowmesh.protocol.signing import Signer, sign_map

pytestmark = pytest.mark.whole

Both = tuple[Controller, Controller, Machine]


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    """`corp` with its network, `guest` with another, and a machine that is in both."""
    lan = Lan()
    async with AsyncExitStack() as stack:
        corp = await stack.enter_async_context(controller(tmp_path, lan=lan, name="corp"))
        guest = await stack.enter_async_context(controller(tmp_path, lan=lan, name="guest"))
        await corp.network("office")
        await guest.network("lounge", "10.43.0.0/24")
        machine = await corp.member("laptop")
        await machine.join(await guest.invite("lounge"))
        await until(lambda: machine.network("lounge").connected)
        yield corp, guest, machine


async def heard_out(machine: Machine, guest: Controller) -> None:
    """Waits until the machine has taken all that `guest` has said so far: its own network's end comes last."""
    guest.say(
        machine, Pending(network_id=machine.network("lounge").id, client_id=machine.network("lounge").record.client_id)
    )
    await until(lambda: not machine.network("lounge").record.approved)


def forged_map(of: NetworkMap, signer: Signer, client_id: str) -> MapUpdate:
    fresh = NetworkMap(generation=of.generation + 1, serial=1, head=of.head)
    return MapUpdate(
        network_id=of.head.network_id, client_id=client_id, snapshot=fresh.snapshot(), signature=sign_map(signer, fresh)
    )


async def test_another_controllers_network_is_none_of_its_business(both: Both) -> None:
    _, guest, machine = both
    office = machine.network("office")
    record, keys, token, netmap = office.record, office.keys, office.relay_token, office.map
    assert netmap is not None
    stranger = next(iter(netmap.members)).client_id
    sealed = base64.b64encode(seal(office.secrets.sealing_public, b"x" * 32, network_key_info(office.id, 9))).decode()
    for message in (
        Removed(network_id=office.id, reason="removed"),
        Pending(network_id=office.id, client_id=record.client_id),
        PresenceUpdate(network_id=office.id, changes=(Presence(client_id=stranger, online=False),)),
        Grant(network_id=office.id, keys=(SealedKey(epoch=9, sealed=sealed),), relay_token="theirs"),
        forged_map(netmap, guest.at.context.keys.maps, record.client_id),
    ):
        guest.say(machine, message)
    await heard_out(machine, guest)
    assert machine.network("office") is office and office.run_state == "up"
    assert (office.record, office.keys, office.relay_token, office.map) == (record, keys, token, netmap)


async def test_each_controllers_clock_is_its_own(both: Both) -> None:
    _, guest, machine = both
    guest.clock.ahead = dt.timedelta(days=20)
    guest.at.hub.devices[machine.daemon.device.device_key].close(1001, "restart")
    await until(lambda: not machine.network("lounge").connected)
    await until(lambda: machine.network("lounge").connected)
    offsets = machine.daemon.mesh.node._surroundings.wall_offsets
    assert offsets[machine.network("lounge").id] == pytest.approx(20 * 86400.0, abs=2.0)
    assert offsets[machine.network("office").id] == pytest.approx(0.0, abs=2.0)


async def test_its_own_controller_is_heard(both: Both) -> None:
    corp, _, machine = both
    await corp.call("client_remove", "office", "laptop")
    await until(lambda: [n.name for n in machine.daemon.networks.values()] == ["lounge"])


async def test_a_network_joined_by_one_controller_cant_be_taken_over_by_anothers_invite(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to an enrolment names the network; what the challenge said before is a claim of the same controller."""
    _, guest, machine = both
    office = machine.network("office")
    await guest.network("trap", "10.44.0.0/24")
    real = join.enroll

    def lies(*arguments: object, **options: object) -> object:
        result = real(*arguments, **options)  # type: ignore[arg-type]
        object.__setattr__(result, "answer", replace(result.answer, network_id=office.id))
        return result

    monkeypatch.setattr(join, "enroll", lies)
    error = await refused(machine.join(await guest.invite("trap")))
    assert error.code == "already_joined"
    assert [n for n in machine.daemon.state.networks() if n.name == "office"] == [office.record]


async def test_a_link_takes_no_map_of_a_network_that_wasnt_joined_through_it(both: Both) -> None:
    _, guest, machine = both
    netmap = machine.network("office").map
    assert netmap is not None
    identity = machine.network("lounge").identity
    link = ControllerLink(
        urls=(guest.url,), fingerprint=guest.fingerprint, device=Signer.generate(), boot_id="b", identity=identity,
        maps=(), wall=lambda: 0.0,
    )  # fmt: skip
    update = forged_map(netmap, guest.at.context.keys.maps, "cli_x")
    assert await link._take_map(guest.url, update) is None
    assert update.network_id not in link.maps


async def test_networks_of_one_name_are_told_apart_by_their_controllers(both: Both) -> None:
    corp, guest, machine = both
    await guest.network("Office", "10.44.0.0/24")
    await machine.join(await guest.invite("Office"))
    error = await refused(machine.client.call("down", network="office"))
    assert (error.code, error.kind) == ("ambiguous", Kind.USAGE)
    ours, theirs = (f"{name}@{urlsplit(c.url).netloc}" for name, c in (("office", corp), ("Office", guest)))
    assert ours in error.remedy and theirs in error.remedy
    await machine.client.call("down", network=theirs.lower())
    assert {n.name for n in machine.daemon.networks.values() if n.interface is None} == {"Office"}
    await machine.client.call("down", network="LOUNGE")
    assert machine.network("lounge").interface is None, "one that has no namesake needs no more than its name"


async def test_a_network_that_grows_over_anothers_gets_none_of_its_packets(both: Both) -> None:
    corp, guest, machine = both
    peer = await corp.member("peer")
    office = machine.network("office").interface
    assert office is not None
    await guest.call("network_set", "lounge", NetworkPatch(subnet="10.42.0.0/15"))
    await until(lambda: machine.network("lounge").run_state == "error")
    assert "overlaps 10.42.0.0/24 of network office" in (machine.network("lounge").error or "")
    assert [set(i.routes) for i in machine.host.interfaces.values()] == [{ip_network("10.42.0.0/24")}]
    assert machine.network("office").interface is office and await machine.reaches(peer)
    await machine.restart()
    await until(lambda: machine.network("lounge").run_state == "error")
    assert machine.network("office").run_state == "up", "it was joined first"
    await guest.call("network_set", "lounge", NetworkPatch(subnet="10.43.0.0/24"))
    await until(lambda: machine.network("lounge").run_state == "up")


async def test_two_networks_of_one_ipv6_subnet_dont_meet(both: Both) -> None:
    corp, guest, machine = both
    await corp.network("lab", "10.45.0.0/24", subnet6="fd12:3456:789a::/64")
    await guest.network("bar", "10.46.0.0/24", subnet6="fd12:3456:789a::/64")
    await machine.join(await corp.invite("lab"))
    invite = await guest.invite("bar")
    error = await refused(machine.join(invite))
    assert (error.code, error.kind) == ("overlap", Kind.CONFLICT) and "network lab" in error.what
    await machine.client.call("down", network="lab")
    assert (await machine.join(invite)).state == "up", "the invite wasn't used up"
    error = await refused(machine.client.call("up", network="lab"))
    assert (error.code, error.kind) == ("overlap", Kind.CONFLICT)


@pytest.mark.parametrize(
    ("head", "member"),
    [
        ({}, {"ip": ip_address("10.42.0.1")}),  # the other network's
        ({}, {"ip6": ip_address("fd00::1")}),  # of no subnet
        ({"subnet": ip_network("0.0.0.0/0")}, {}),
        ({"subnet6": ip_network("2000::/3")}, {"ip6": ip_address("2001:db8::1")}),
    ],
)
async def test_a_controller_gives_no_addresses_outside_its_network(
    both: Both, head: dict[str, Any], member: dict[str, Any]
) -> None:
    _, guest, machine = both
    lounge, office = machine.network("lounge"), machine.network("office").interface
    assert lounge.map is not None and lounge.me is not None and office is not None
    wrong = NetworkMap(
        generation=lounge.map.generation,
        serial=lounge.map.serial + 1,
        head=replace(lounge.map.head, **head),
        members=[replace(lounge.me, **member)],
    )
    guest.say(
        machine,
        MapUpdate(
            network_id=lounge.id,
            client_id=lounge.record.client_id,
            snapshot=wrong.snapshot(),
            signature=sign_map(guest.at.context.keys.maps, wrong),
        ),
    )
    await until(lambda: lounge.run_state == "error")
    assert "its map can't be used" in (lounge.error or "")
    assert list(machine.host.interfaces) == [office.fd], "nothing of it is on the host"
    assert machine.network("office").interface is office
