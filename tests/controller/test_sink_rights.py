"""A sink tells nobody more than they may see, leads nowhere that they may not reach, and ends with what it was made by."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from people import Person, person, signed_in
from receiver import WebReceiver
from test_log_exports import relay_row
from test_webhooks import happen, hook, listed, timing

from shadowmesh.controller.service.sinks import standing_sinks
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.receivers import SyslogCreate, SyslogPatch, WebhookCreate, WebhookPatch, blinded

if TYPE_CHECKING:
    from tests.controller.conftest import World

__all__ = ["timing"]  # a fixture

PUBLIC = "https://1.1.1.1/x"


async def narrowed(world: World, name: str, role: str, *permissions: str) -> Person:
    """Somebody with a list of permissions in office."""
    made = await world.call("user_create", accounts.UserCreate(email=f"{name}@example.org"))
    wish = {"email": made.email, "role": role, "permissions": permissions}
    await world.call("member_set", "office", api.MemberPut.model_validate(wish))
    return await signed_in(world, made, f"the password of {name}")


async def key_of(who: Person, **wish: Any) -> dict[str, Any]:
    answer = await who.ask("POST", "/api-keys", wish)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("stream", ["events", "logs"])
@pytest.mark.parametrize(
    ("role", "permissions"),
    [
        ("member", ["network.configure"]),
        ("owner", ["network.configure"]),
        ("member", ["network.configure", "logs.view", "network.view"]),
    ],
)
async def test_who_does_not_read_all_logs_of_a_network_has_no_webhook_of_it(
    world: World, stream: str, role: str, permissions: list[str]
) -> None:
    await world.network()
    mary = await narrowed(world, "mary", role, *permissions)
    answer = await mary.ask("POST", "/networks/office/webhooks", {"url": PUBLIC, "stream": stream, "backlog": True})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert await world.call("webhook_list") == []


async def test_a_key_that_is_not_for_logs_makes_no_webhook(world: World) -> None:
    await world.network()
    olga = await person(world, "olga", {"office": "owner"})
    for scopes, status in (
        (["network.configure", "network.view"], 403),
        (["network.configure", "network.view", "logs.view"], 201),
    ):
        key = (await key_of(olga, scopes=scopes))["key"]
        answer = await olga.ask("POST", "/networks/office/webhooks", {"url": PUBLIC, "stream": "logs"}, token=key)
        assert answer.status_code == status, answer.text


async def test_who_may_no_longer_read_all_logs_is_sent_none(world: World) -> None:
    await world.network()
    await person(world, "oscar", {"office": "owner"})
    olga = await person(world, "olga", {"office": "owner"})
    assert (await olga.ask("POST", "/networks/office/webhooks", {"url": PUBLIC})).status_code == 201
    assert (await listed(world)).state != "no_rights"
    for role, permissions in (
        ("owner", ["network.configure", "network.view"]),
        ("member", ["network.configure", "network.view", "logs.view"]),
    ):
        wish = {"email": olga.email, "role": role, "permissions": permissions}
        await world.call("member_set", "office", api.MemberPut.model_validate(wish))
        assert (await listed(world)).state == "no_rights", permissions


async def test_a_networks_webhook_is_sent_lines_of_its_own_relays_since_there_is_such_a_network(world: World) -> None:
    for name in ("hub", "far"):
        await relay_row(world, name)
    await world.call("relay_drain", "hub")
    await world.at.events.flush()
    world.clock.advance(minutes=1)
    ref = (await world.network()).network_id
    n = schema.networks
    await world.at.context.write(lambda conn: conn.execute(n.update().values(relay_id="rly_hub")))
    await world.call("relay_drain", "far")
    await world.call("relay_drain", "hub", draining=False)
    async with WebReceiver() as receiver:

        def lines() -> list[dict[str, Any]]:
            return [line for request in receiver.taken for line in request.json["data"]["lines"]]

        await hook(world, receiver.url, "office", stream="logs", backlog=True)
        await happen(world, ref, "last")
        await receiver.until(lambda: any(line["detail"].get("fields") == ["last"] for line in lines()))
        told = [(line["relay_name"], line["detail"]["change"]) for line in lines() if line["source"] == "relay"]
        assert [name for name, _ in told] == ["hub"] and told[0][1] != "draining"


LIMITS = {
    "scopes": {"scopes": ["network.configure", "network.view", "logs.view"]},
    "networks": {"networks": ["office"]},
}


@pytest.mark.parametrize("limits", LIMITS)
async def test_an_administrators_key_with_limits_leads_to_public_addresses_and_ends_none_of_all_networks(
    world: World, limits: str
) -> None:
    await world.network()
    root = await person(world, "root", admin=True)
    everywhere = (await hook(world, "http://127.0.0.1:1/x")).id
    key = (await key_of(root, **LIMITS[limits]))["key"]
    for url, code in (("http://127.0.0.1:1/", "bad_webhook"), ("https://127.0.0.1/", "address_refused")):
        answer = await root.ask("POST", "/networks/office/webhooks", {"url": url}, token=key)
        assert answer.json()["code"] == code
    answer = await root.ask("POST", "/networks/office/webhooks", {"url": PUBLIC}, token=key)
    assert answer.status_code == 201
    mine = answer.json()["id"]
    found = await world.at.context.read(standing_sinks)
    assert {s.row.id: (s.may, s.anywhere) for s in found} == {everywhere: (True, True), mine: (True, False)}
    for method, path in (("DELETE", f"/webhooks/{everywhere}"), ("POST", f"/webhooks/{everywhere}/test")):
        answer = await root.ask(method, path, token=key)
        assert (answer.status_code, answer.json()["code"]) == (404, "webhook_unknown")
    assert [w["id"] for w in (await root.ask("GET", "/webhooks", token=key)).json()["items"]] == [mine]
    assert (await root.ask("DELETE", f"/webhooks/{everywhere}")).status_code == 204, "without limits it goes"


async def test_what_was_made_with_a_key_ends_with_it(world: World) -> None:
    await world.network()
    root = await person(world, "root", admin=True)
    key = await key_of(root)
    ended = []
    for path, url in (("/networks/office/webhooks", PUBLIC), ("/webhooks", PUBLIC), ("/syslog", "tcp://127.0.0.1:1")):
        ended.append((await root.ask("POST", path, {"url": url}, token=key["key"])).json()["id"])
    kept = (await root.ask("POST", "/webhooks", {"url": PUBLIC})).json()["id"]
    assert (await root.ask("DELETE", f"/api-keys/{key['id']}")).status_code == 204
    assert [w.id for w in await world.call("webhook_list")] == [kept] and await world.call("syslog_list") == []
    entry = next(e for e in await world.call("audit_list") if e.action == "api-key.revoke")
    assert entry.detail["sinks_ended"] == sorted(ended)


async def test_who_lost_their_rights_is_sent_nothing_more_by_a_receiver_that_is_slow(world: World) -> None:
    ref = (await world.network()).network_id
    ada = await person(world, "ada", admin=True)
    began, broken = asyncio.Event(), asyncio.Event()

    async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        began.set()
        await reader.read()
        broken.set()
        writer.close()

    server = await asyncio.start_server(never_answers, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answer = await ada.ask("POST", "/networks/office/webhooks", {"url": f"http://127.0.0.1:{port}/"})
        assert answer.status_code == 201
        await happen(world, ref, "one")
        async with asyncio.timeout(8):
            await began.wait()
            await world.call("user_set", ada.email, accounts.UserPatch(disabled=True))
            await world.at.delivery.turn()
            await broken.wait()
        (outlet,) = world.at.delivery._outlets.values()
        assert outlet.task is None and outlet.sender is None
        assert (await listed(world)).waiting > 0, "it comes once they have their rights again"


async def test_what_an_administrators_receiver_says_is_read_by_administrators_alone(world: World) -> None:
    await world.network()
    olga, root = await person(world, "olga", {"office": "owner"}), await person(world, "root", admin=True)
    async with WebReceiver() as receiver:
        sink = (await hook(world, receiver.url, "office")).id
        s = schema.sinks
        for said, owner in (("500 what an internal host says", "500"), ("ConnectError: refused", "not delivered")):
            await world.at.context.write(lambda conn, said=said: conn.execute(s.update().values(last_error=said)))  # type: ignore[misc]
            for who, told in ((olga, owner), (root, said)):
                (seen,) = (await who.ask("GET", "/webhooks?network=office")).json()["items"]
                assert seen["last_error"] == told
        answer = await olga.ask("POST", f"/webhooks/{sink}/test")
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed") and receiver.asked == []
        assert (await root.ask("POST", f"/webhooks/{sink}/test")).json()["ok"] is True


SECRET = "whsec_" + "QUJD" * 11
OTHER = "whsec_" + "REVG" * 11


async def test_what_waits_for_a_webhook_is_sent_to_where_it_was_set_to_lead_and_signed_anew(world: World) -> None:
    ref = (await world.network()).network_id
    async with WebReceiver(answer=lambda _: 503) as old, WebReceiver() as new:
        made = await hook(world, old.url, "office", secret=SECRET)
        assert made.secret == SECRET
        await happen(world, ref, "one", "two")
        await old.until(lambda: len(old.asked) > 0)
        found = await world.call("webhook_set", made.id, WebhookPatch(url=new.url, secret=OTHER))
        assert (found.id, found.state, found.last_error) == (made.id, "ok", None)
        await new.until(lambda: len(new.taken) == 2)
        assert [r.json["data"]["fields"][0] for r in new.taken] == ["one", "two"]
        assert all(r.signed_with(OTHER) and not r.signed_with(SECRET) for r in new.taken)


async def test_who_sets_a_webhook_gives_it_their_own_rights_and_no_others(world: World) -> None:
    """An administrator's may lead anywhere; an owner who changes where gets no further by it than their own would."""
    await world.network()
    await person(world, "oscar", {"office": "owner"})
    olga = await person(world, "olga", {"office": "owner"})
    async with WebReceiver() as receiver:
        made = await hook(world, receiver.url, "office")
        answer = await olga.ask("PATCH", f"/webhooks/{made.id}", {"url": "https://127.0.0.1:1/"})
        assert (answer.status_code, answer.json()["code"]) == (403, "address_refused"), answer.text
        answer = await olga.ask("PATCH", f"/webhooks/{made.id}", {"url": receiver.url})
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_webhook"), answer.text
        (found,) = await world.at.context.read(standing_sinks)
        assert found.anywhere
        assert (await olga.ask("PATCH", f"/webhooks/{made.id}", {"events": ["client_online"]})).status_code == 200
        (found,) = await world.at.context.read(standing_sinks)
        assert found.may and not found.anywhere and found.row.owner_id == olga.user
    await world.call("member_set", "office", api.MemberPut(email=olga.email, role="guest"))
    assert (await listed(world)).state == "no_rights"


async def test_a_url_and_a_secret_are_compared_without_being_sent_or_shown(world: World) -> None:
    made = await world.call("webhook_create", WebhookCreate(url=PUBLIC, secret=SECRET, name="Siem"))
    assert made.name == "Siem"
    compared = await world.call("webhook_compare", made.id, PUBLIC, SECRET)
    assert (compared.url, compared.secret) == (True, True)
    compared = await world.call("webhook_compare", made.id, PUBLIC + "y", None)
    assert (compared.url, compared.secret) == (False, None)
    root = await person(world, "root", admin=True)
    nonce = "0f" * 16
    answer = await root.ask("GET", f"/webhooks/{made.id}/compare?nonce={nonce}&url={blinded(nonce, PUBLIC)}")
    assert answer.json()["url"] is True
    shown = (await root.ask("GET", "/webhooks")).text + (await root.ask("GET", "/audit")).text
    assert "Siem" in shown and SECRET not in shown and PUBLIC not in shown


async def test_names_of_receivers_are_one_of_their_kind_in_one_place(world: World) -> None:
    await world.network()
    for network in (None, "office"):
        await world.call("webhook_create", WebhookCreate(url=PUBLIC, name="siem"), network)
        with pytest.raises(ShadowMeshError) as e:
            await world.call("webhook_create", WebhookCreate(url=PUBLIC, name="SIEM"), network)
        assert e.value.code == "webhook_exists"
    syslog = await world.call("syslog_create", SyslogCreate(url="tcp://192.0.2.1:601", name="siem"))
    other = await world.call("syslog_create", SyslogCreate(url="tcp://192.0.2.1:601"))
    assert other.name == other.id
    moved = await world.call("syslog_set", syslog.id, SyslogPatch(url="tls://192.0.2.2:6514"))
    assert (moved.url, moved.name, moved.stream) == ("tls://192.0.2.2:6514", "siem", "audit")


@pytest.mark.parametrize("secret", ["abc", "whsec_short", "whsec_" + "A" * 200, "whsec_" + "?" * 44])
async def test_a_secret_that_is_none_is_refused_and_not_repeated(world: World, secret: str) -> None:
    root = await person(world, "root", admin=True)
    answer = await root.ask("POST", "/webhooks", {"url": PUBLIC, "secret": secret})
    assert answer.status_code == 422 and secret not in answer.text


@pytest.mark.parametrize(
    "ca", ["\u9636", "\u00fd", "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n", "a\0b", "x"]
)
async def test_authorities_that_are_none_are_refused_wherever_they_are_given(world: World, ca: str) -> None:
    root = await person(world, "root", admin=True)
    webhook = await world.call("webhook_create", WebhookCreate(url=PUBLIC))
    syslog = await world.call("syslog_create", SyslogCreate(url="tcp://192.0.2.1:601"))
    for method, path, wish in (
        ("POST", "/webhooks", {"url": PUBLIC}),
        ("POST", "/syslog", {"url": "tls://192.0.2.1:6514"}),
        ("PATCH", f"/webhooks/{webhook.id}", {}),
        ("PATCH", f"/syslog/{syslog.id}", {}),
    ):
        answer = await root.ask(method, path, wish | {"ca": ca})
        assert answer.status_code == 422 and answer.json()["code"] in ("bad_ca", "invalid_request"), answer.text
