"""What clients use: taken from relays and devices, each byte once; shown; and what plans make of it."""

from __future__ import annotations

import csv
import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from people import person
from receiver import WebReceiver
from test_connections import own
from test_log_exports import relay_row, verb
from test_reports import client_id, health, mesh, peer, say
from test_webhooks import hook, timing

from shadowmesh.controller.service.hub import RelayLink
from shadowmesh.controller.service.usagesums import month_begin, next_month
from shadowmesh.controller.store import schema
from shadowmesh.model.codec import from_json
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID, RelayID
from shadowmesh.model.relaylink import ClientUsage, FromController, Usage, UsageTaken
from shadowmesh.model.usage import PlanPut
from shadowmesh.protocol.token import RelayLimits, read_token

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World

__all__ = ["timing"]  # a fixture

LEDGER = "ab" * 16


class Relay:
    """A relay's link, as the controller sees it."""

    def __init__(self, world: World, name: str = "rly_one") -> None:
        self.world, self.number, self.answers = world, 0, []
        self.link = RelayLink(RelayID(name), "boot", self.answers.append, lambda *_: None)  # type: ignore[attr-defined]

    async def tell(self, used: dict[str, tuple[int, int]], *, number: int | None = None, ago: float = 0.0) -> None:
        """Bytes sent and received, by client; as the next number, if none is given."""
        self.number += number is None
        entries = tuple(ClientUsage(client_id=ClientID(c), sent=s, received=r) for c, (s, r) in used.items())
        at = self.world.at.context.now().timestamp() - ago
        message = Usage(ledger=LEDGER, number=number or self.number, at=at, entries=entries)
        await self.world.at.usage.take(self.link, message)

    @property
    def taken(self) -> list[int]:
        found = [from_json(text, FromController) for text in self.answers]  # type: ignore[arg-type]
        return [message.number for message in found if isinstance(message, UsageTaken)]


async def rows(world: World, *arguments: Any, **filters: Any) -> dict[str, tuple[int, int, int, int]]:
    return {
        row.client: (row.relayed_sent, row.relayed_received, row.direct_sent, row.direct_received)
        for row in await world.call("usage", *arguments, **filters)
    }


async def test_what_a_relay_counted_is_added_once_whatever_is_told_again(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    relay = Relay(world)
    await relay.tell({client_id(a): (1000, 10), client_id(b): (10, 1000)})
    await relay.tell({client_id(a): (500, 0), client_id(b): (0, 500)})
    await relay.tell({client_id(a): (500, 0), client_id(b): (0, 500)}, number=2)
    await relay.tell({client_id(a): (9999, 0)}, number=1)
    assert relay.taken == [1, 2, 2, 1], "each is answered, or it would come for ever"
    assert await rows(world, "office") == {"a": (1500, 10, 0, 0), "b": (10, 1500, 0, 0)}
    other = Relay(world, "rly_two")
    await other.tell({client_id(a): (7, 0)})
    assert (await rows(world))["a"] == (1507, 10, 0, 0)


async def test_a_relay_counts_for_clients_of_networks_that_it_serves(world: World) -> None:
    (a,) = await mesh(world, "a")
    await relay_row(world, "mine")
    n = schema.networks
    await world.at.context.write(lambda conn: conn.execute(sa.update(n).values(relay_id="rly_mine")))
    await Relay(world, "rly_foreign").tell({client_id(a): (1000, 0), "cli_nobody": (5, 5)})
    assert await rows(world) == {}
    await Relay(world, "rly_mine").tell({client_id(a): (1000, 0)})
    assert await rows(world) == {"a": (1000, 0, 0, 0)}


async def test_direct_bytes_are_what_their_receiver_reports(world: World) -> None:
    a, b = await mesh(world, "a", "b", reports="full")
    await say(world, a, health(a, peer(client_id(b), "direct.lan", rx_bytes=700, tx_bytes=999_999)))
    assert await rows(world) == {"a": (0, 0, 0, 700), "b": (0, 0, 700, 0)}
    await say(world, b, health(b, peer(client_id(a), "relay.upgrading", rx_bytes=5000)))
    await say(world, b, health(b, peer(client_id(a), "relay.upgrading", "direct.lan", rx_bytes=5000)))
    assert await rows(world) == {"a": (0, 0, 0, 700), "b": (0, 0, 700, 0)}, "those are the relay's to count"


async def test_by_month_day_and_hour(world: World, tmp_path: Path) -> None:
    (a,) = await mesh(world, "a")
    relay = Relay(world)
    now = world.at.context.now()
    await relay.tell({client_id(a): (1, 0)})
    await relay.tell({client_id(a): (2, 0)}, ago=86400.0)
    await relay.tell({client_id(a): (4, 0)}, ago=365 * 86400.0)  # it says so; a month ago is the most that counts
    month = now.strftime("%Y-%m")
    of_days = [
        row
        for m in {month, (now - dt.timedelta(days=31)).strftime("%Y-%m")}
        for row in await world.call("usage", month=m, by="day")
    ]
    assert sorted(row.relayed_sent for row in of_days) == [1, 2, 4]
    hours = await world.call("usage", month=month, by="hour")
    assert all(row.since.minute == 0 for row in hours) and sum(row.relayed_sent for row in hours) in (1, 3)
    file = tmp_path / "u.csv"
    code, out, _ = await verb(world, "usage", "office", "--csv", str(file), "--month", month)
    assert code == 0 and out.strip() == f"{file}: 1 lines"
    (line,) = csv.DictReader(file.read_text().splitlines())
    assert (line["client"], line["network"]) == ("a", "office") and int(line["relayed_sent"]) in (1, 3)
    assert (await verb(world, "usage", "--month", "January"))[0] == 2
    ann = await person(world, "ann", admin=True)
    months = ("0000-01", "9999-12", "2026-13", "1000-01", "2999-12")
    assert [(await ann.ask("GET", f"/usage?month={m}")).status_code for m in months] == [422, 422, 422, 200, 200]
    assert (
        next_month(month_begin("2026-12")) == month_begin("2027-01") and next_month(month_begin("2028-02")).month == 3
    )


async def test_a_member_sees_their_own_machines_alone(world: World) -> None:
    await world.network()
    await world.network("home", "10.43.0.0/24")
    ann, olga = await person(world, "ann", {"office": "member"}), await person(world, "olga", {"office": "owner"})
    outsider, gus = await person(world, "oscar"), await person(world, "gus", {"office": "guest"})
    hers, theirs = await own(world, olga, "hers"), await world.member(name="printer")
    elsewhere = await world.member("home", name="other")
    mine = world.device()
    invite = (await olga.ask("POST", "/networks/office/invites", {})).json()["invite"]
    await mine.join(invite, name="anns")
    c = schema.clients
    taken_over = sa.update(c).where(c.c.name == "anns").values(owner_id=ann.user)
    await world.at.context.write(lambda conn: conn.execute(taken_over))
    used = {client_id(d): (100, 0) for d in (hers, theirs, elsewhere, mine)}
    await Relay(world).tell(used)

    async def seen(who: Any, query: str = "") -> list[str]:
        answer = await who.ask("GET", f"/usage{query}")
        assert answer.status_code == 200, answer.text
        return [row["client"] for row in answer.json()["items"]]

    assert await seen(ann) == await seen(ann, "?network=office") == ["anns"]
    assert await seen(olga) == ["anns", "hers", "printer"]
    assert await seen(olga, "?user=ann@example.org") == ["anns"] and await seen(outsider) == await seen(gus) == []
    assert (await outsider.ask("GET", "/usage?network=office")).status_code == 404
    assert (await ann.ask("GET", "/usage?network=home")).status_code == 404


async def joined(world: World, name: str) -> Device:
    device = world.device()
    await device.join((await world.invite()).invite, name=name)
    return device


async def test_a_plan_bounds_clients_and_bytes_and_says_so_in_time(world: World) -> None:
    (a,) = await mesh(world, "a")
    await world.call(
        "plan_set", "free", PlanPut(max_clients=2, monthly_bytes=1000, relay_kbit=5000, over_quota_kbit=100)
    )
    quota = await world.call("plan_assign", "office", "free")
    assert (quota.plan, quota.max_clients, quota.clients, quota.percent, quota.over) == ("free", 2, 1, 0, False)
    b = await joined(world, "b")
    with pytest.raises(ShadowMeshError, match="plan free is for 2") as refused:
        await joined(world, "c")
    assert refused.value.code == "plan_full" and refused.value.kind.value == 6
    relay = Relay(world)
    async with WebReceiver() as receiver:
        await hook(world, receiver.url, "office", events=["quota_warning", "quota_reached"])
        await relay.tell({client_id(a): (0, 799)})
        await relay.tell({client_id(a): (5000, 1)})  # what was sent is what another received
        await receiver.until(lambda: len(receiver.taken) == 1)
        await relay.tell({client_id(a): (0, 100)})
        await relay.tell({client_id(a): (0, 100)})
        await relay.tell({client_id(a): (0, 100)})
        await receiver.until(lambda: len(receiver.taken) == 2)
        told = [(r.json["type"], r.json["data"]["percent"], r.json["data"]["used"]) for r in receiver.taken]
        assert told == [("quota_warning", 80, 800), ("quota_reached", 100, 1000)]
    code, out, _ = await verb(world, "usage", "office")
    assert code == 0 and "1.1 kB of 1 kB (110 %)" in out and "used up" in out
    code, out, _ = await verb(world, "logs", "office", "--type", "quota_reached")
    assert code == 0 and "100 % of plan free in 20" in out and ": 1 kB of 1 kB" in out
    assert (await verb(world, "plan", "delete", "free"))[2].startswith("error: networks have the plan free: office;")
    await world.call("plan_set", "free", PlanPut(monthly_bytes=1000, over_quota_kbit=100))
    with pytest.raises(ShadowMeshError, match="used up") as refused:
        await joined(world, "c")
    assert refused.value.code == "quota_reached"
    await world.call("plan_set", "free", PlanPut(monthly_bytes=2000))
    await joined(world, "c")
    assert (await world.call("quota", "office")).over is False and b is not None


def kbit(world: World, device: Device) -> int:
    return limits(world, device).kbit


def limits(world: World, device: Device) -> RelayLimits:
    assert device.answer is not None
    live = world.at.maps.of(device.answer.network_id)
    assert live is not None
    grant = world.at.maps.grant(live.ref, device.answer.client_id, device.sealing_key)
    assert grant is not None
    return read_token(grant.relay_token).limits


async def test_relay_tokens_have_the_rate_of_the_plan_and_the_lower_one_once_it_is_used_up(world: World) -> None:
    (a,) = await mesh(world, "a")
    assert kbit(world, a) == 0
    await world.call(
        "plan_set", "slow", PlanPut(monthly_bytes=1000, relay_kbit=5000, network_relay_kbit=9000, over_quota_kbit=100)
    )
    await world.call("plan_assign", "office", "slow")
    assert kbit(world, a) == 5000 and limits(world, a).network_kbit == 9000
    await Relay(world).tell({client_id(a): (0, 1000)})
    assert kbit(world, a) == 100
    world.clock.advance(days=32)
    await world.at.usage.keep_house()
    assert kbit(world, a) == 5000 and not (await world.call("quota", "office")).over
    await world.call("plan_assign", "office", None)
    assert kbit(world, a) == 0


async def test_what_is_told_late_of_last_month_leaves_this_months_quota_as_it_is(world: World) -> None:
    (a,) = await mesh(world, "a")
    await world.call("plan_set", "free", PlanPut(monthly_bytes=1000))
    await world.call("plan_assign", "office", "free")
    relay = Relay(world)
    await relay.tell({client_id(a): (0, 1000)})
    now = world.at.context.now()
    world.clock.advance(seconds=(next_month(month_begin(now.strftime("%Y-%m"))) - now).total_seconds() + 3600)
    await world.at.usage.keep_house()
    await relay.tell({client_id(a): (0, 500)}, ago=7200.0)
    await world.at.events.flush()
    assert (await world.call("quota", "office")).over is False
    await joined(world, "b")
    told = await world.at.context.read(lambda conn: list(conn.execute(sa.select(schema.events.c.type)).scalars()))
    assert told.count("quota_reached") == 1
    await relay.tell({client_id(a): (0, 1000)})
    assert (await world.call("quota", "office")).over is True


async def test_plans_by_their_verbs(world: World) -> None:
    await world.network()
    assert (await verb(world, "plan", "set", "free", "--clients", "3", "--traffic", "10GB", "--relay-rate", "10mbit"))[
        0
    ] == 0
    assert (await verb(world, "plan", "set", "team", "--clients", "50"))[0] == 0
    _, out, _ = await verb(world, "plan", "list")
    assert "10 GB" in out and "10000 kbit/s" in out
    code, out, _ = await verb(world, "plan", "assign", "office", "free", "--json")
    assert code == 0 and json.loads(out)["monthly_bytes"] == 10**10
    code, _, err = await verb(world, "plan", "delete", "free")
    assert code == 6 and "plan assign" in err
    assert (await verb(world, "plan", "assign", "office", "gold"))[0] == 5
    assert (await verb(world, "plan", "assign", "office"))[0] == 2
    assert (await verb(world, "plan", "assign", "office", "--none"))[0] == 0
    assert (await verb(world, "plan", "delete", "free"))[0] == 0 and (await verb(world, "plan", "delete", "free"))[
        0
    ] == 5
    for wrong in (("--traffic", "lots"), ("--relay-rate", "10"), ("--clients", "0")):
        assert (await verb(world, "plan", "set", "x", *wrong))[0] == 2
    actions = [e.action for e in await world.call("audit_list")]
    assert [a for a in actions if a.startswith("plan.")] == [
        "plan.set",
        "plan.set",
        "plan.assign",
        "plan.assign",
        "plan.delete",
    ]


async def test_two_nodes_take_what_a_relay_tells_both_once(nodes: tuple[World, World]) -> None:
    one, two = nodes
    (a,) = await mesh(one, "a")
    for world in nodes:
        await Relay(world).tell({client_id(a): (1000, 0)}, number=1)
    assert (await rows(two))["a"] == (1000, 0, 0, 0)
