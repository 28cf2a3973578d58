"""A membership that ended, or that someone else uses, is told: in the status, in warnings, by `up` and `wait`, until `leave`."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from daemonkit import Controller, Machine, controller, refused, until

from shadowmesh.daemon import doctor, methods
from shadowmesh.daemon.local_api import Access, Caller
from shadowmesh.daemon.methods import Api
from shadowmesh.model.api import NetworkPatch
from shadowmesh.model.devicelink import Removed
from shadowmesh.model.errors import Kind, ShadowMeshError


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as running:
        await running.network("office")
        yield running


async def is_told(machine: Machine, state: str, words: str) -> None:
    """In every place where people look."""
    shown = await machine.network_status()
    assert shown.state == state and words in (shown.error or ""), shown
    assert shown.interface == "" and machine.host.interfaces == {}
    assert any("office" in w and words in w for w in (await machine.status()).warnings)
    for verb in ("up", "wait"):
        error = await refused(machine.client.call(verb, network="office", target="office", state="up", timeout_s=5))
        assert error.kind in (Kind.NOT_ALLOWED, Kind.CONFLICT) and words in error.what, (verb, error)
    assert words in (await refused(machine.client.call("up"))).what, "it is among all networks, too"
    (told,) = [c for c in doctor.running_network(shown) if c.name == "network office"]
    assert told.state == "fail" and words in told.what and told.remedy


async def is_forgotten_by_leave(machine: Machine) -> None:
    await machine.restart()
    assert [n.name for n in (await machine.status()).networks] == ["office"], "kept over a restart"
    await machine.client.call("leave", network="office")
    assert (await machine.status()).networks == ()
    await machine.restart()
    assert (await machine.status()).networks == ()


async def test_removed_by_an_administrator(there: Controller) -> None:
    a = await there.member("a")
    await there.call("client_remove", "office", "a")
    await until(lambda: not a.daemon.networks)
    await is_told(a, "removed", "removed by an administrator at 20")
    await is_forgotten_by_leave(a)


async def test_removed_while_the_daemon_was_down(there: Controller) -> None:
    a = await there.member("a")
    await a.stop()
    await there.call("client_remove", "office", "a")
    await a.start()
    await until(lambda: not a.daemon.networks)
    await is_told(a, "removed", "removed by an administrator at 20")


async def test_the_network_was_deleted(there: Controller) -> None:
    a = await there.member("a")
    await there.call("network_delete", "office")
    await until(lambda: not a.daemon.networks)
    await is_told(a, "removed", "the network was deleted at 20")


async def test_waiting_for_a_network_says_that_it_wants_approval(there: Controller) -> None:
    await there.network("guarded", "10.45.0.0/24", approval=True)
    a = await there.machine("a")
    await a.join(await there.invite("guarded"))
    error = await refused(a.client.call("wait", target="guarded", state="up", timeout_s=0.2))
    assert error.kind is Kind.WAITING and "client approve guarded" in error.remedy


@pytest.mark.parametrize("online", [True, False])
async def test_a_join_that_was_denied(there: Controller, online: bool) -> None:
    await there.network("guarded", "10.45.0.0/24", approval=True)
    a = await there.machine("a")
    assert (await a.join(await there.invite("guarded"))).state == "pending-approval"
    await until(lambda: a.network("guarded").connected)
    if not online:
        await a.stop()
    await there.call("client_deny", "guarded", "a")
    if not online:
        await a.start()
    await until(lambda: not a.daemon.networks)
    shown = await a.network_status("guarded")
    assert shown.state == "refused" and "refused this machine at 20" in (shown.error or "")


async def test_an_ephemeral_member_that_was_away_too_long(there: Controller) -> None:
    a = await there.machine("a")
    await a.join(await there.invite(ephemeral=True, idle=60))
    await until(lambda: a.network().connected)
    await a.stop()
    await until(lambda: not any(there.at.hub.presence.values()))

    there.clock.ahead += dt.timedelta(minutes=2)
    await there.at.keep_house()
    assert await there.call("client_list", "office") == []
    await a.start()
    await until(lambda: not a.daemon.networks)
    await is_told(a, "expired", "had been away for longer than it allows")


async def test_an_invite_brings_a_removed_machine_back(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    await there.call("client_remove", "office", "a")
    await until(lambda: not a.daemon.networks)
    await a.join(await there.invite())
    assert (await a.network_status()).state == "up" and len((await a.status()).networks) == 1
    await until(lambda: len(b.network().map.members) == 2)  # type: ignore[union-attr]
    assert await a.reaches(b)


async def test_a_copied_machine_is_never_up_and_has_a_way_out(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    clone = await (await there.clone(a)).start()
    error = await refused(clone.client.call("up"))
    assert (error.code, error.kind) == ("client_duplicate", Kind.CONFLICT) and "reset-identity" in error.remedy
    await is_told(clone, "duplicate", "a@office is connected from")
    assert await a.reaches(b), "the first goes on"

    assert await clone.client.call("reset_identity") == {"networks": ["office"]}
    assert (await clone.status()).networks == ()
    await clone.join(await there.invite())
    assert (await clone.network_status()).state == "up"
    await until(lambda: len(b.network().map.members) == 3)  # type: ignore[union-attr]
    assert await clone.reaches(b) and await a.reaches(b)


async def test_the_copy_is_up_once_the_original_has_gone(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    clone = await (await there.clone(a)).start()
    await until(lambda: clone.network().run_state == "duplicate")
    await a.stop()
    clone.links[0].kick()
    await until(lambda: clone.network().run_state == "up")
    assert await clone.reaches(b)


async def test_leaving_while_the_controller_is_away_is_told_to_it_later(there: Controller) -> None:
    a = await there.member("a")
    with there.unreachable():
        await until(lambda: not a.network().connected)
        assert not (await a.client.call("leave", network="office"))["controller_told"]
        assert (await a.status()).networks == () and a.host.interfaces == {}
        assert (await a.status()).warnings == ("office: left; its controller will be told when it can be reached",)
        await a.restart()
        assert [c.name for c in await there.call("client_list", "office")] == ["a"]
    a.links[-1].kick()
    await until(lambda: not a.daemon.former)
    assert await there.call("client_list", "office") == []
    assert (await a.status()).warnings == ()


@pytest.mark.parametrize("connected", [True, False])
async def test_who_waits_for_approval_leaves_at_the_controller_too(there: Controller, connected: bool) -> None:
    await there.network("guarded", "10.45.0.0/24", approval=True)
    a = await there.machine("a")
    await a.join(await there.invite("guarded"))
    await until(lambda: a.network("guarded").connected)
    if connected:
        assert (await a.client.call("leave", network="guarded"))["controller_told"]
    else:
        with there.unreachable():
            await until(lambda: not a.network("guarded").connected)
            await a.client.call("leave", network="guarded")
        a.links[-1].kick()
        await until(lambda: not a.daemon.former)
    assert await there.call("client_list", "guarded") == [], "nobody is left there to approve"
    assert (await a.status()).warnings == ()


async def test_who_joins_anew_before_the_controller_heard_of_the_leaving_is_connected(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await there.member("a"), await there.member("b")
    monkeypatch.setattr(methods, "_LEAVE_GRACE", 0.0)
    monkeypatch.setattr(a.links[-1], "post", lambda _message: True)  # on its way, as it seems
    await a.client.call("leave", network="office")
    await a.join(await there.invite())
    await until(lambda: a.network().connected)
    assert await a.reaches(b)


async def test_a_join_that_is_finished_a_second_time_stays_connected(there: Controller) -> None:
    """As after a crash between the membership and the end of its enrolment."""
    a, b = await there.machine("a"), await there.member("b")
    invite = await there.invite()
    await a.join(invite)
    keys = a.network().secrets
    a.daemon.state.enrolment_keys(hashlib.sha256(invite.encode()).digest(), lambda: keys)
    await a.join(invite)
    await until(lambda: a.network().connected)
    assert await a.reaches(b)


async def test_word_of_a_network_that_the_machine_isnt_in_is_passed_over(there: Controller) -> None:
    a = await there.member("a")
    await there.network("shop", "10.43.0.0/24")
    await there.member("b", "shop")
    elsewhere = there.lan.machines["192.168.7.2"].network("shop")
    link = a.links[-1]
    link.networks.add(elsewhere.id)
    there.say(a, Removed(network_id=elsewhere.id, reason="removed"))
    await until(lambda: elsewhere.id not in link.networks)
    await there.call("network_set", "office", NetworkPatch(description="news"))
    serial = (await there.call("network_show", "office")).serial
    await until(lambda: a.network().map.serial == serial)  # type: ignore[union-attr]
    assert a.links == [link], "the same link goes on"


async def test_where_the_other_one_is_isnt_told_to_everybody(there: Controller) -> None:
    a = await there.member("a")
    clone = await (await there.clone(a)).start()
    await until(lambda: clone.network().run_state == "duplicate")
    api = Api(clone.daemon)
    for access, told in ((Access.STATUS, False), (Access.READ, True)):
        status = await api.status(Caller(access), {})
        (network,) = status.networks
        assert network.state == "duplicate" and "client_duplicate" in (network.error or "")
        assert ("127.0.0.1" in (network.error or "")) is ("127.0.0.1" in " ".join(status.warnings)) is told


async def test_who_may_only_look_makes_no_peer_be_pinged(there: Controller) -> None:
    a = await there.member("a")
    await there.member("b")
    api, anyone = Api(a.daemon), Caller(Access.STATUS)
    await api.wait(anyone, {"target": "office", "state": "up"})
    with pytest.raises(ShadowMeshError) as caught:
        await api.wait(anyone, {"target": "b", "state": "up", "timeout_s": 2.0})
    assert caught.value.kind is Kind.NOT_ALLOWED
    await api.wait(Caller(Access.READ), {"target": "b", "state": "up"})
