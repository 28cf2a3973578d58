"""Webhooks: what comes, signed and in order; what happens while the receiver is away; who may have one, and where it may lead."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from people import person
from receiver import Request, WebReceiver
from test_log_exports import verb

from shadowmesh.controller.outward.destinations import Destinations
from shadowmesh.controller.outward.webhookpost import signature
from shadowmesh.controller.service.retention import forget_old
from shadowmesh.controller.service.sinks import standing_sinks
from shadowmesh.controller.settings import Timing
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.receivers import WebhookCreate

if TYPE_CHECKING:
    from tests.controller.conftest import World


@pytest.fixture
def timing() -> Timing:
    return Timing(
        join_gather=0.02, presence_gather=0.02, offline_after=0.1, housekeeping=0.1, shutdown_grace=1.0,
        deliver_every=0.05, retry_first=0.05, delivery_lease=1.0,
    )  # fmt: skip


async def hook(world: World, url: str, network: str | None = None, **more: Any) -> Any:
    """Sent what happens from here on."""
    await world.at.events.flush()
    return await world.call("webhook_create", WebhookCreate(url=url, **more), network)


async def happen(world: World, ref: str, *fields: str) -> None:
    """Events of this network, told apart by their fields."""
    for name in fields:
        world.at.events.publish("network_changed", NetworkRef(ref), change="set", fields=[name])
    await world.at.events.flush()


def fields(requests: list[Request]) -> list[str]:
    return [r.json["data"]["fields"][0] for r in requests if "fields" in r.json["data"]]


async def listed(world: World) -> Any:
    (found,) = await world.call("webhook_list")
    return found


async def test_an_event_comes_signed_once_and_says_what_happened_where(world: World) -> None:
    network = await world.network()
    async with WebReceiver() as receiver:
        made = await hook(world, receiver.url, "office")
        device = await world.member(name="laptop")
        await receiver.until(lambda: "client_online" in receiver.kinds)
        assert device.answer is not None
        (request,) = [r for r in receiver.taken if r.json["type"] == "client_online"]
        data = request.json["data"]
        assert (data["network_id"], data["network"], data["client_id"]) == (
            network.network_id, "office", device.answer.client_id,
        )  # fmt: skip
        assert request.signed_with(made.secret) and not request.signed_with("whsec_" + "A" * 44)
        assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
        ids = [r.headers["webhook-id"] for r in receiver.taken]
        assert len(set(ids)) == len(ids)


def test_signatures_are_those_of_the_specification() -> None:
    """The example of the reference implementation, standard-webhooks."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    made = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_what_happens_while_the_receiver_is_away_comes_in_order_once_it_is_back(world: World) -> None:
    ref = (await world.network()).network_id
    receiver = WebReceiver()
    await hook(world, receiver.url, "office")
    names = [f"f{n}" for n in range(250)]
    for start in range(0, 250, 50):
        await happen(world, ref, *names[start : start + 50])
        world.clock.advance(minutes=2)  # it is away for ten minutes
    await world.at.delivery.turn()
    found = await listed(world)
    assert found.waiting >= 250 and found.delivered == 0
    async with receiver:
        world.clock.advance(minutes=6)  # longer than between two attempts
        await receiver.until(lambda: len(fields(receiver.taken)) == 250)
        assert fields(receiver.taken) == names
        assert len({r.headers["webhook-id"] for r in receiver.taken}) == len(receiver.taken)


async def test_a_message_that_failed_comes_again_with_its_id_and_holds_up_what_came_after(world: World) -> None:
    ref = (await world.network()).network_id
    answers = iter([503, 500, 302, 204])
    async with WebReceiver(answer=lambda _: next(answers, 204)) as receiver:
        await hook(world, receiver.url, "office")
        await happen(world, ref, "one", "two")
        await receiver.until(lambda: len(receiver.taken) == 2)
        assert fields(receiver.asked) == ["one", "one", "one", "one", "two"]
        assert len({r.headers["webhook-id"] for r in receiver.asked}) == 2


async def test_a_failing_receiver_says_so_in_the_list_and_holds_up_no_other(world: World) -> None:
    ref = (await world.network()).network_id
    async with WebReceiver(answer=lambda _: 500) as bad, WebReceiver() as good:
        await hook(world, bad.url, "office")
        await hook(world, good.url, "office")
        await happen(world, ref, "one")
        await good.until(lambda: fields(good.taken) == ["one"])
        await bad.until(lambda: len(bad.asked) >= 2)
        await happen(world, ref, "two")
        await good.until(lambda: fields(good.taken) == ["one", "two"])
        states = {s.url: (s.state, s.waiting > 0) for s in await world.call("webhook_list")}
        assert states[f"http://127.0.0.1:{bad.port}"] == ("failing", True)
        assert states[f"http://127.0.0.1:{good.port}"][0] == "ok"


async def test_a_receiver_that_is_gone_is_sent_nothing_more(world: World) -> None:
    ref = (await world.network()).network_id
    async with WebReceiver(answer=lambda _: 410) as receiver:
        await hook(world, receiver.url, "office")
        await happen(world, ref, "one", "two")
        await receiver.until(lambda: receiver.asked)
        while (await listed(world)).state != "gone":
            pass
        world.clock.advance(hours=1)
        await world.at.delivery.turn()
        assert fields(receiver.asked) == ["one"]
    assert "webhook.gone" in [e.action for e in await world.call("audit_list")]


async def test_what_a_receiver_says_is_kept_as_text_that_shows_what_it_is(nodes: tuple[World, World]) -> None:
    """PostgreSQL takes no NUL: what wasn't noted was sent again at once, for ever."""
    world = nodes[0]
    ref = (await world.network()).network_id
    async with WebReceiver(answer=lambda _: 410, says="a\x00b\x1b[2J\u202e") as receiver:
        made = await hook(world, receiver.url, "office")
        await happen(world, ref, "one")
        await receiver.until(lambda: receiver.asked)
        while (found := await listed(world)).state != "gone":
            pass
        assert found.last_error == r"410 a\x00b\x1b[2J\u202e"
        assert (await world.call("webhook_test", made.id)).answer == found.last_error


async def test_a_look_that_began_before_a_receiver_was_gone_sends_it_nothing(world: World) -> None:
    """The rows were read while it was being sent to; by the time that they are looked at it has answered."""
    ref, delivery = (await world.network()).network_id, world.at.delivery

    def busy() -> list[Any]:
        return [o.task for o in list(delivery._outlets.values()) if o.task is not None and not o.task.done()]

    def late(conn: Any) -> Any:
        rows, tasks = standing_sinks(conn), busy()
        while not all(task.done() for task in tasks):
            time.sleep(0.01)
        return rows

    async with WebReceiver(answer=lambda _: 410) as receiver:
        await hook(world, receiver.url, "office")
        with patch("shadowmesh.controller.service.delivery.standing_sinks", late):
            await happen(world, ref, "one", "two")
            while (await listed(world)).state != "gone":
                delivery._wake.set()  # it looks while it sends
            for _ in range(3):
                await listed(world)
        assert fields(receiver.asked) == ["one"]


async def test_what_was_kept_no_longer_than_the_receiver_was_away_is_counted(world: World) -> None:
    ref = (await world.network()).network_id
    receiver = WebReceiver()
    await hook(world, receiver.url, "office")
    await happen(world, ref, *"abcde")
    world.clock.advance(days=8)
    await happen(world, ref, "late")
    await forget_old(world.at.context)
    for _ in range(3):  # attempts that fail
        world.clock.advance(minutes=6)
        before = (await listed(world)).next_attempt
        while (await listed(world)).next_attempt == before:
            pass
    async with receiver:
        world.clock.advance(minutes=6)
        await receiver.until(lambda: fields(receiver.taken) == ["late"])
        while (found := await listed(world)).delivered == 0:
            pass
        assert found.dropped == 5


async def test_a_message_that_is_refused_for_itself_is_left_out_after_a_day(world: World) -> None:
    ref = (await world.network()).network_id

    def answer(request: Request) -> int:
        return 422 if request.json["data"]["fields"] == ["bad"] else 204

    async with WebReceiver(answer=answer) as receiver:
        await hook(world, receiver.url, "office")
        await happen(world, ref, "good", "bad", "after")
        await receiver.until(lambda: fields(receiver.asked).count("bad") >= 2)
        assert fields(receiver.taken) == ["good"]
        world.clock.advance(hours=25)
        await receiver.until(lambda: fields(receiver.taken) == ["good", "after"])
        while (found := await listed(world)).delivered < 2:
            pass
        assert found.dropped == 1 and found.state == "ok"


async def test_types_and_networks_are_chosen(world: World) -> None:
    office, home = await world.network(), await world.network("home", "10.43.0.0/24")
    async with WebReceiver() as one, WebReceiver() as all_, WebReceiver() as few:
        await hook(world, one.url, "office")
        await hook(world, all_.url)
        await hook(world, few.url, events=["relay_changed"])
        world.at.events.publish("relay_changed", None, relay_id="rly_x", change="online")
        await happen(world, home.network_id, "at home")
        await happen(world, office.network_id, "at work")
        for receiver in (one, all_):
            await receiver.until(lambda receiver=receiver: "at work" in fields(receiver.taken))  # type: ignore[misc]
        assert fields(one.taken) == ["at work"] and fields(all_.taken) == ["at home", "at work"]
        await few.until(lambda: few.taken)
        assert few.kinds == ["relay_changed"]


async def test_logs_and_audit_come_as_lines_with_what_was_before_if_it_is_asked_for(world: World) -> None:
    await world.network()
    async with WebReceiver() as audit, WebReceiver() as logs:
        await hook(world, audit.url, stream="audit", backlog=True)
        await hook(world, logs.url, "office", stream="logs", backlog=True)
        await world.call("user_create", _user("new@example.org"))
        entries = await world.call("audit_list")

        def got() -> list[int]:
            return [line["seq"] for r in audit.taken for line in r.json["data"]["lines"]]

        await audit.until(lambda: len(got()) >= len(entries))
        assert got() == [e.seq for e in entries]
        await logs.until(lambda: logs.taken)
        lines = [line for r in logs.taken for line in r.json["data"]["lines"]]
        assert lines[0]["event_type"] == "network_changed" and lines[0]["network"] == "office"


def _user(email: str) -> Any:
    return accounts.UserCreate(email=email)


async def test_it_lives_by_the_rights_of_who_made_it(world: World) -> None:
    """As an owner that was an administrator when it was made: on loopback no owner's may lead."""
    ref = (await world.network()).network_id
    ada = await person(world, "ada", admin=True)
    async with WebReceiver() as receiver:
        answer = await ada.ask("POST", "/networks/office/webhooks", {"url": receiver.url})
        assert answer.status_code == 201
        await happen(world, ref, "one")
        await receiver.until(lambda: fields(receiver.taken) == ["one"])
        await world.call("user_set", "ada@example.org", accounts.UserPatch(disabled=True))
        await happen(world, ref, "two")
        await world.at.delivery.turn()
        found = await listed(world)
        assert found.state == "no_rights" and fields(receiver.taken) == ["one"]
        await world.call("user_set", "ada@example.org", accounts.UserPatch(disabled=False))
        await receiver.until(lambda: fields(receiver.taken) == ["one", "two"])


async def test_an_owners_leads_to_public_addresses_alone(world: World) -> None:
    await world.network()
    olga = await person(world, "olga", {"office": "owner"})
    for url, code in {
        "https://127.0.0.1/x": "address_refused", "https://localhost:8443/": "address_refused",
        "https://169.254.169.254/latest/meta-data": "address_refused", "https://[::1]/": "address_refused",
        "https://[::ffff:127.0.0.1]/": "address_refused", "https://10.1.2.3/": "address_refused",
        "https://0.0.0.0/": "address_refused", "https://[fe80::1]/": "address_refused",
        "https://2130706433/": "address_refused", "https://no.such.host.invalid/": "host_unknown",
        "http://192.0.2.1/": "bad_webhook",
    }.items():  # fmt: skip
        answer = await olga.ask("POST", "/networks/office/webhooks", {"url": url})
        assert answer.json()["code"] == code, (url, answer.text)
    answer = await olga.ask("POST", "/networks/office/webhooks", {"url": "https://1.1.1.1/x"})
    assert answer.status_code == 201 and answer.json()["secret"].startswith("whsec_")
    assert answer.json()["url"] == "https://1.1.1.1"
    for body in (
        {"url": "ftp://1.1.1.1/"},
        {"url": "https://u:p@1.1.1.1/"},
        {"url": "https://1.1.1.1/", "stream": "audit"},
    ):
        assert (await olga.ask("POST", "/networks/office/webhooks", body)).status_code == 422, body
    assert (await olga.ask("POST", "/webhooks", {"url": "https://1.1.1.1/x"})).status_code == 403


@pytest.mark.parametrize(
    ("ip", "may"),
    [
        ("1.1.1.1", True), ("2606:4700:4700::1111", True), ("127.8.8.8", False), ("10.0.0.1", False),
        ("172.16.5.5", False), ("100.64.0.1", False), ("192.0.2.7", False), ("224.0.0.1", False), ("::", False),
        ("fd00::1", False), ("64:ff9b::7f00:1", False), ("64:ff9b::101:101", True), ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False), ("::ffff:10.0.0.1", False), ("192.168.7.7", True), ("192.168.8.7", False),
        ("9.9.9.9", False), ("255.255.255.255", False), ("fec0::1", False), ("::7f00:1", False), ("64:ff9b:1::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_refused(ip: str, may: bool) -> None:
    named = Destinations(networks=(ipaddress.ip_network("192.168.7.0/24"),), own=frozenset({"9.9.9.9"}))
    assert (named.refuses(ipaddress.ip_address(ip)) is None) == may
    assert Destinations(anywhere=True).refuses(ipaddress.ip_address(ip)) is None


async def test_an_address_is_looked_at_for_each_connection(world: World) -> None:
    """A name that meant something else when the webhook was made."""
    from shadowmesh.controller.outward.webhookpost import Poster, tls_for

    async with WebReceiver() as receiver:
        url = receiver.url.replace("127.0.0.1", "localhost")
        poster = Poster(url, "whsec_AAAA", tls_for(url, None), Destinations())
        outcome = await poster.post("msg_1", 1, b"{}")
        await poster.close()
        assert not outcome.ok and "this controller's own" in outcome.said and receiver.asked == []


async def test_a_name_server_that_doesnt_answer_holds_up_nobody_else(world: World) -> None:
    """An owner's name: what the loop's few threads do besides, as to look whether the controller is ready, goes on."""
    await world.network()
    olga = await person(world, "olga", {"office": "owner"})
    real, answered, asked = socket.getaddrinfo, threading.Event(), threading.Semaphore(0)

    def silent(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "slow.example.org":
            asked.release()
            answered.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *arguments, **options)

    with patch("socket.getaddrinfo", silent):
        url = {"url": "https://slow.example.org/x"}
        waiting = [asyncio.create_task(olga.ask("POST", "/networks/office/webhooks", url)) for _ in range(8)]
        try:
            async with asyncio.timeout(8):
                for _ in waiting:
                    while not asked.acquire(blocking=False):  # noqa: ASYNC110 - a thread counts them
                        await asyncio.sleep(0.01)
                assert await asyncio.to_thread(lambda: True)
        finally:
            answered.set()
        assert {(await task).json()["code"] for task in waiting} == {"host_unknown"}


async def test_what_a_name_stands_for_inside_isnt_told(world: World) -> None:
    await world.network()
    olga = await person(world, "olga", {"office": "owner"})
    answer = await olga.ask("POST", "/networks/office/webhooks", {"url": "https://localhost/x"})
    assert answer.json()["code"] == "address_refused" and "127.0.0.1" not in answer.text and "::1" not in answer.text


async def test_foreign_webhooks_are_as_if_there_were_none(world: World) -> None:
    await world.network()
    olga, oscar = await person(world, "olga", {"office": "owner"}), await person(world, "oscar")
    mine = (await olga.ask("POST", "/networks/office/webhooks", {"url": "https://1.1.1.1/x"})).json()["id"]
    everywhere = (await hook(world, "https://1.1.1.1/y")).id
    for who, sink in ((oscar, mine), (olga, everywhere), (olga, "whk_none")):
        for method, path in (("DELETE", f"/webhooks/{sink}"), ("POST", f"/webhooks/{sink}/test")):
            answer = await who.ask(method, path)
            assert (answer.status_code, answer.json()["code"]) == (404, "webhook_unknown")
    assert [w["id"] for w in (await olga.ask("GET", "/webhooks")).json()["items"]] == [mine]
    assert (await oscar.ask("GET", "/webhooks")).json()["items"] == []
    assert (await oscar.ask("GET", "/webhooks?network=office")).status_code == 404
    assert (await olga.ask("DELETE", f"/webhooks/{mine}")).status_code == 204


async def test_url_and_secret_lie_sealed_and_stand_in_no_audit_entry(world: World) -> None:
    await world.network()
    made = await hook(world, "https://hooks.example.org/services/T000/verysecret", "office")
    rows = await world.at.context.read(lambda conn: conn.execute(sa.select(schema.sinks)).all())
    audit = [e.model_dump_json() for e in await world.call("audit_list")]
    for text in ("verysecret", made.secret, made.secret.removeprefix("whsec_")):
        assert text not in repr(rows) and not any(text in entry for entry in audit)
    assert any('"webhook.create"' in entry and "https://hooks.example.org" in entry for entry in audit)


async def test_the_verbs_say_what_a_person_needs(world: World) -> None:
    await world.network()
    async with WebReceiver() as receiver:
        code, out, _ = await verb(world, "webhook", "create", receiver.url, "--network", "office")
        sink, secret = out.split(":")[0], out.splitlines()[1]
        assert code == 0 and sink.startswith("whk_") and secret.startswith("whsec_") and "hidden" not in out
        code, out, _ = await verb(world, "webhook", "test", sink)
        assert code == 0 and "204 in" in out and receiver.kinds == ["webhook.test"]
        assert receiver.taken[0].signed_with(secret)
        code, out, _ = await verb(world, "webhook", "list", "--json")
        assert json.loads(out)["webhooks"][0]["state"] == "ok"
    code, _, err = await verb(world, "webhook", "test", sink)
    assert code == 1 and "connection refused" in err and "Error" not in err
    assert (await verb(world, "webhook", "delete", sink))[0] == 0
    assert (await verb(world, "webhook", "delete", sink))[0] == 5
    assert (await verb(world, "webhook", "create", "https://1.1.1.1/", "--events", "no_such"))[0] == 2


async def test_a_networks_end_is_told_and_then_its_webhooks_go(world: World) -> None:
    await world.network()
    async with WebReceiver() as receiver:
        await hook(world, receiver.url, "office")
        await world.call("network_delete", "office")
        await receiver.until(lambda: [r.json["data"].get("change") for r in receiver.taken][-1:] == ["deleted"])
    await world.at.tidy()
    assert len(await world.call("webhook_list")) == 1
    world.clock.advance(hours=2)
    await world.at.tidy()
    assert await world.call("webhook_list") == []


async def test_no_more_than_so_many_of_a_network(world: World) -> None:
    await world.network()
    for n in range(20):
        await hook(world, f"https://1.1.1.1/{n}", "office")
    with pytest.raises(ShadowMeshError, match="at most 20"):
        await hook(world, "https://1.1.1.1/x", "office")


# several nodes


async def test_one_of_two_nodes_delivers_and_the_other_goes_on_when_it_is_gone(nodes: tuple[World, World]) -> None:
    one, two = nodes
    ref = (await one.network()).network_id
    async with WebReceiver() as receiver:
        await hook(one, receiver.url, "office")
        names: list[str] = []
        for n in range(40):
            names.append(f"f{n}")
            await happen(nodes[n % 2], ref, names[-1])
        await receiver.until(lambda: len(fields(receiver.taken)) >= 40)
        assert fields(receiver.taken) == names, "in the order of commits, each once"
        leader = one if any(True for _ in one.at.delivery.standing()) else two
        other = two if leader is one else one
        assert not any(True for _ in other.at.delivery.standing())
        assert leader.at.delivery._task is not None
        leader.at.delivery._task.cancel()  # as if it had died: it says nothing more, and releases nothing
        await leader.at.delivery._end()
        await happen(other, ref, "after")
        await receiver.until(lambda: "after" in fields(receiver.taken))
        once = {r.headers["webhook-id"]: r for r in receiver.taken}  # it may not have noted the last second
        assert fields(list(once.values())) == [*names, "after"]
