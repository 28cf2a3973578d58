"""Joining: an invite becomes a member once, whatever is lost, tried twice, or tried by fifty at a time."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from shadowmesh.client_api import enroll as enrolment
from shadowmesh.controller.service.newcomers import _free_number
from shadowmesh.model.addresses import IPNetwork
from shadowmesh.model.enrol import EnrolChallenge
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.invite import Invite
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.protocol.sealing import network_key_info, open_sealed
from shadowmesh.protocol.token import verify_token

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def refused(attempt: Any) -> ShadowMeshError:
    with pytest.raises(ShadowMeshError) as caught:
        await attempt
    return caught.value


async def test_a_member_has_all_it_needs_in_the_first_answer(world: World) -> None:
    network = await world.network()
    device = world.device()
    answer = await device.join((await world.invite(tags=["web"])).invite)
    assert (answer.state, answer.network_name, str(answer.ip), answer.name) == (
        "approved",
        "office",
        "10.42.0.1",
        "laptop",
    )
    assert answer.map is not None and answer.grant is not None
    (me,) = answer.map.apply(None).members
    assert (me.client_id, me.wg_key, me.tags) == (answer.client_id, device.wg_key, ("web",))
    (sealed,) = answer.grant.keys
    key = open_sealed(device.sealing_secret, base64.b64decode(sealed.sealed), network_key_info(answer.network_id, 0))
    assert str(NetworkID.of(Secret(key))) == network.wire_id == str(answer.network_id)
    body = verify_token(answer.grant.relay_token, [world.at.context.keys.tokens.public], world.clock().timestamp())
    assert (body.device_key, body.network_id, body.ip) == (device.signer.device_key, answer.network_id, answer.ip)
    assert body.renew_after - body.issued == 900 and body.valid_until - body.issued == 30 * 86400


async def test_an_answer_lost_on_the_wire_doesnt_burn_the_invite(world: World) -> None:
    await world.network()
    invite = await world.invite()
    device = world.device()
    first = await device.join(invite.invite)
    again = await device.join(invite.invite)
    assert (again.client_id, again.ip) == (first.client_id, first.ip)
    assert [i.state for i in await world.invites("office")] == ["used"]
    error = await refused(world.device().join(invite.invite))
    assert (error.code, error.kind) == ("invite_used_up", Kind.CONFLICT)


async def test_fifty_joins_on_one_use_give_exactly_one_member(world: World) -> None:
    await world.network()
    invite = (await world.invite()).invite
    results = await asyncio.gather(
        *(world.device().join(invite, hostname=f"h{i}") for i in range(50)), return_exceptions=True
    )
    codes = sorted(r.code for r in results if isinstance(r, ShadowMeshError))
    assert codes == ["invite_used_up"] * 49
    assert len(await world.call("client_list", "office")) == 1
    assert (await world.call("audit_verify")).ok


async def test_joins_at_once_get_different_addresses_and_names(world: World) -> None:
    await world.network()
    invite = (await world.invite(uses=20)).invite
    answers = await asyncio.gather(*(world.device().join(invite) for _ in range(20)))
    assert {str(a.ip) for a in answers} == {f"10.42.0.{i}" for i in range(1, 21)}
    assert len({a.name for a in answers}) == 20
    serials = [a.map.snapshot.serial for a in answers if a.map is not None and a.map.snapshot is not None]
    assert max(serials) == (await world.call("network_show", "office")).serial


async def test_why_an_invite_is_refused_is_said(world: World) -> None:
    await world.network()
    good = Invite.decode((await world.invite()).invite)
    forged = Invite(urls=good.urls, fingerprint=good.fingerprint, invite_id=good.invite_id, secret="A" * 22)
    error = await refused(world.device().join(forged.encode()))
    assert (error.code, error.kind) == ("invite_invalid", Kind.NOT_ALLOWED)

    expiring = await world.invite(expires_in=60)
    revoked = await world.invite()
    await world.call("invite_revoke", "office", revoked.id)
    world.clock.advance(seconds=61)
    assert (await refused(world.device().join(expiring.invite))).code == "invite_expired"
    assert (await refused(world.device().join(revoked.invite))).code == "invite_revoked"
    assert await world.call("client_list", "office") == []


async def test_an_invite_of_another_controller_is_refused_by_its_fingerprint(world: World) -> None:
    await world.network()
    good = Invite.decode((await world.invite()).invite)
    other = Invite(urls=good.urls, fingerprint="sha256:" + "0" * 64, invite_id=good.invite_id, secret=good.secret)
    error = await refused(world.device().join(other.encode()))
    assert (error.code, error.kind) == ("fingerprint_mismatch", Kind.NOT_ALLOWED)


async def test_a_short_code_waits_for_approval(world: World) -> None:
    await world.network()
    invite = await world.invite()
    device = world.device()
    answer = await device.join(invite.code.upper())
    assert (answer.state, answer.map, answer.grant) == ("pending", None, None)
    (waiting,) = await world.call("client_list", "office", "pending")
    assert waiting.client_id == answer.client_id
    approved = await world.call("client_approve", "office", "laptop")
    assert approved.state == "approved"
    assert (await device.join(invite.code)).grant is not None


async def test_a_network_may_let_codes_in_and_may_hold_back_invites(world: World) -> None:
    await world.network(code_approval=False)
    assert (await world.device().join((await world.invite()).code)).state == "approved"
    await world.network("strict", "10.43.0.0/24", approval=True)
    assert (await world.device().join((await world.invite("strict")).invite)).state == "pending"


async def test_guessing_codes_is_slowed_down(world: World) -> None:
    await world.network()
    codes = []
    for i in range(7):
        error = await refused(world.device().join(f"office-aaaa-bbbb{i}222"))
        codes.append(error.code)
    assert codes[:5] == ["invite_invalid"] * 5
    assert codes[5:] == ["rate_limited"] * 2


async def test_an_empty_pool_says_its_size_and_who_is_idle_longest(world: World) -> None:
    await world.network(subnet="10.9.0.0/30")
    for name in ("first", "second"):
        await world.device().join((await world.invite()).invite, name=name)
        world.clock.advance(seconds=5)
    invite = await world.invite()
    error = await refused(world.device().join(invite.invite))
    assert (error.code, error.kind) == ("pool_empty", Kind.CONFLICT)
    assert "2 addresses" in error.what and "first" in error.what
    assert {i.state for i in await world.invites("office")} == {"used", "open"}, "nothing half-made"
    assert len(await world.call("client_list", "office")) == 2


async def test_a_freed_address_rests_unless_the_pool_is_empty(world: World) -> None:
    await world.network(subnet="10.9.0.0/29")
    for i in range(3):
        await world.device().join((await world.invite()).invite, name=f"m{i}")
    await world.call("client_remove", "office", "m1")
    assert str((await world.device().join((await world.invite()).invite)).ip) == "10.9.0.4"
    world.clock.advance(days=8)
    assert str((await world.device().join((await world.invite()).invite)).ip) == "10.9.0.2"
    await world.call("client_remove", "office", "m0")
    assert str((await world.device().join((await world.invite()).invite)).ip) == "10.9.0.5"
    assert str((await world.device().join((await world.invite()).invite)).ip) == "10.9.0.6"
    assert str((await world.device().join((await world.invite()).invite)).ip) == "10.9.0.1", "better than none"


async def test_an_invite_may_say_name_address_and_tags(world: World) -> None:
    await world.network()
    answer = await world.device().join((await world.invite(client_name="db", ip="10.42.0.77")).invite, name="other")
    assert (answer.name, str(answer.ip)) == ("db", "10.42.0.77")
    assert (await refused(world.invite(client_name="db"))).code == "name_taken"
    assert (await refused(world.invite(ip="10.42.0.77"))).code == "address_taken"
    assert (await refused(world.invite(ip="10.99.0.1"))).code == "address_outside"


async def test_a_name_asked_for_and_taken_is_refused_and_a_host_name_gets_a_number(world: World) -> None:
    await world.network()
    await world.device().join((await world.invite()).invite, name="db")
    error = await refused(world.device().join((await world.invite()).invite, name="db"))
    assert (error.code, error.kind) == ("name_taken", Kind.CONFLICT)
    answer = await world.device().join((await world.invite()).invite, hostname="DB.example.org")
    assert answer.name == "db-2"
    assert (await world.device().join((await world.invite()).invite, hostname="Ünï_çode!")).name == "n-ode"
    assert (await refused(world.device().join((await world.invite()).invite, name="no spaces"))).kind is Kind.USAGE


async def test_a_full_network_refuses(world: World) -> None:
    await world.network(max_clients=1)
    await world.device().join((await world.invite()).invite)
    error = await refused(world.device().join((await world.invite()).invite))
    assert (error.code, error.kind) == ("network_full", Kind.CONFLICT)


async def test_the_same_device_with_new_keys_stays_the_same_client(world: World) -> None:
    await world.network()
    device = world.device()
    first = await device.join((await world.invite()).invite)
    fresh = world.device()
    fresh.signer = device.signer
    second = await fresh.join((await world.invite()).invite)
    assert (second.client_id, second.ip) == (first.client_id, first.ip)
    assert second.map is not None
    assert second.map.apply(None).members[0].wg_key == fresh.wg_key


async def test_a_removed_device_may_come_again_by_a_new_invite(world: World) -> None:
    await world.network()
    device = world.device()
    first = await device.join((await world.invite()).invite)
    await world.call("client_remove", "office", "laptop")
    second = await device.join((await world.invite()).invite)
    assert second.client_id != first.client_id and second.ip != first.ip


def test_what_is_no_invite_is_said() -> None:
    for text in ("", "smi1_", "smi1_!!!", "hello", "smi1_" + "A" * 40):
        with pytest.raises(ShadowMeshError) as caught:
            enrolment.parse_invite(text)
        assert caught.value.kind is Kind.USAGE


async def test_no_controller_is_unreachable(world: World) -> None:
    await world.network()
    good = Invite.decode((await world.invite()).invite)
    away = Invite(
        urls=("https://127.0.0.1:9",), fingerprint=good.fingerprint, invite_id=good.invite_id, secret=good.secret
    )
    error = await refused(world.device().join(away.encode()))
    assert error.kind is Kind.UNREACHABLE and "127.0.0.1:9" in error.what
    both = Invite(
        urls=("https://127.0.0.1:9", world.url),
        fingerprint=good.fingerprint,
        invite_id=good.invite_id,
        secret=good.secret,
    )
    assert (await world.device().join(both.encode())).state == "approved"


async def test_where_an_invite_leads_is_told_before_it_is_used_up(world: World) -> None:
    network = await world.network(subnet6="fd00:42::/64")
    invite = await world.invite()
    told: list[Any] = []

    def check(network_id: NetworkID, name: str, subnets: tuple[IPNetwork, ...]) -> None:
        told.append((str(network_id), name, *map(str, subnets)))
        raise ShadowMeshError("unwanted", "this host can't carry it", kind=Kind.CONFLICT)

    for text in (invite.invite, *[invite.code] * 10):  # a right code is no guess: looking doesn't use up attempts
        assert (await refused(world.device().join(text, check=check))).code == "unwanted"
    assert set(told) == {(network.wire_id, "office", "10.42.0.0/24", "fd00:42::/64")}
    assert [i.state for i in await world.invites("office")] == ["open"]
    assert (await world.device().join(invite.invite)).state == "approved"


async def test_a_membership_in_another_network_than_the_one_that_was_checked_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that names one network to be looked at, or none, and answers with another."""
    await world.network()
    honest = world.at.enrolment.challenge
    other = NetworkID(bytes(32))
    for told in ({"network_id": other}, {"subnet": ipaddress.IPv4Network("10.99.0.0/24")}, {"network_id": None}):

        async def challenge(*of: Any, told: dict[str, Any] = told) -> EnrolChallenge:
            return msgspec.structs.replace(await honest(*of), **told)

        monkeypatch.setattr(world.at.enrolment, "challenge", challenge)
        error = await refused(world.device().join((await world.invite()).invite, check=lambda *_: None))
        assert error.code == "bad_answer"


async def test_who_asks_again_after_the_members_could_not_be_told_gets_a_map_with_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.network()
    one, invite, refresh = await world.member(name="one"), (await world.invite()).invite, world.at.maps.refresh

    async def fail(*_: object, **__: object) -> None:
        raise ShadowMeshError("storage_failed", "the disk is full")

    monkeypatch.setattr(world.at.maps, "refresh", fail)
    device = world.device()
    with pytest.raises(ShadowMeshError):
        await device.join(invite)
    monkeypatch.setattr(world.at.maps, "refresh", refresh)
    answer = await device.join(invite)
    assert answer.map is not None
    assert answer.client_id in answer.map.apply(None).entries
    await one.until_map(lambda m: len(m.members) == 2)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 5000])
def test_a_free_number_is_found_in_few_looks(count: int) -> None:
    looks: list[int] = []

    def taken(n: int) -> bool:
        looks.append(n)
        return 2 <= n < 2 + count

    assert _free_number(taken) == 2 + count
    assert len(looks) <= 30
