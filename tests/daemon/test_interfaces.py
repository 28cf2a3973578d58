"""What happens to a network when something happens to its interface, or to the host that carries it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from daemonkit import Controller, Machine, controller, until

from shadowmesh.daemon import carrier
from shadowmesh.daemon.hostnet import HostSettled, InterfaceChanged, InterfaceGone, UnderlayChanged
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.pump import AddTun, Install


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as running:
        await running.network("office")
        yield running


def fd(machine: Machine, network: str = "office") -> int:
    interface = machine.network(network).interface
    assert interface is not None
    return interface.fd


async def test_a_deleted_interface_is_made_anew_and_sessions_go_on(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b)
    handshakes = sum(isinstance(c, Install) for c in a.pumps[0].applied)
    lost = a.network().interface
    a.host.tell(InterfaceGone(fd(a)))
    assert a.network().interface != lost and a.network().run_state == "up"
    assert [c.fd for c in a.pumps[0].applied if isinstance(c, AddTun)][-1] == fd(a)
    assert list(a.host.interfaces) == [fd(a)]
    assert await a.reaches(b) and await b.reaches(a)
    assert sum(isinstance(c, Install) for c in a.pumps[0].applied) == handshakes


async def test_an_interface_that_cant_be_made_anew_is_an_error_until_it_can(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    a.tun_error = ShadowMeshError("tun_missing", "this kernel has no /dev/net/tun", "load the tun module")
    a.host.tell(InterfaceGone(fd(a)))
    seen = await a.network_status()
    assert seen.state == "error" and "no /dev/net/tun" in (seen.error or "")
    assert any("no /dev/net/tun" in w for w in (await a.status()).warnings)
    a.tun_error = None
    a.host.tell(HostSettled())
    await until(lambda: a.network().run_state == "up")
    assert await a.reaches(b)


async def test_what_fails_for_good_isnt_tried_at_each_change(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "_RETRY", 60.0)
    a = await there.member("a")
    a.tun_error = ShadowMeshError("tun_failed", "no")
    a.host.tell(InterfaceGone(fd(a)))
    tried = a._tuns
    for _ in range(100):
        a.host.tell(HostSettled())
        a.daemon.carrier.try_again()
    assert a._tuns == tried


async def test_a_renamed_interface_goes_on_under_its_new_name(there: Controller) -> None:
    a = await there.member("a")
    a.host.tell(InterfaceChanged(fd(a), "vpn7"))
    seen = await a.network_status()
    assert (seen.state, seen.interface) == ("up", "vpn7")


async def test_a_lan_that_covers_the_subnet_is_an_error_as_long_as_it_is_there(there: Controller) -> None:
    a = await there.member("a")
    a.host.tell(InterfaceChanged(fd(a), "shadowmesh0", overlap=("wlan0", ip_network("10.42.0.0/16"))))
    seen = await a.network_status()
    assert seen.state == "error" and "wlan0" in (seen.error or "")
    a.host.tell(InterfaceChanged(fd(a), "shadowmesh0"))
    assert (await a.network_status()).state == "up"


async def test_half_an_interface_is_up_with_a_warning(there: Controller) -> None:
    a = await there.member("a")
    a.host.tell(InterfaceChanged(fd(a), "shadowmesh0", trouble="IPv6 doesn't work on shadowmesh0: permission denied"))
    assert (await a.network_status()).state == "up"
    assert (await a.status()).warnings == ("office: IPv6 doesn't work on shadowmesh0: permission denied",)


async def test_a_network_that_waits_for_anothers_subnet_comes_up_when_that_is_free(there: Controller) -> None:
    a = await there.member("a")
    await there.network("annex", subnet="10.43.0.0/24")
    await a.join(await there.invite("annex"))
    await there.call("network_set", "annex", _grown("10.42.0.0/15"))
    await until(lambda: str(a.network("annex").map.head.subnet) == "10.42.0.0/15")  # type: ignore[union-attr]
    await a.restart()
    states = {n.name: n.state for n in (await a.status()).networks}
    assert sorted(states.values()) == ["error", "up"]
    (first,) = (name for name, state in states.items() if state == "up")
    await a.client.call("down", network=first)
    (second,) = states.keys() - {first}
    await until(lambda: a.network(second).run_state == "up")


async def test_a_change_of_routes_alone_puts_paths_and_links_to_the_test(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b)
    (link,) = a.links
    kicked = []
    link.kick = lambda: kicked.append(True)  # type: ignore[method-assign]
    a.host.tell(UnderlayChanged(moved=False))
    assert kicked


async def test_addresses_in_use_are_kept_out_of_the_overlays(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b)
    await until(lambda: ip_address(b.address) in a.host.outer.around())
    assert ip_address("127.0.0.1") in a.host.outer.around(), "the controller's"
    with pytest.raises(ShadowMeshError) as caught:
        await there.network("wide", subnet="192.168.7.0/24")
        await a.join(await there.invite("wide"))
    assert caught.value.kind is Kind.CONFLICT and caught.value.code == "overlap"
    assert str(caught.value).count("192.168.7.") == 2
    await b.stop()
    await there.call("client_remove", "office", "b")
    await until(lambda: ip_address(b.address) not in a.host.outer.held())


def _grown(subnet: str) -> object:
    from shadowmesh.model.api import NetworkPatch

    return NetworkPatch(subnet=subnet)
