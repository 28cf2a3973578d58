"""`/metrics`: what stands there is true, and the dashboard and alerts ask for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from people import person
from prometheus_client.parser import text_string_to_metric_families
from receiver import WebReceiver
from test_webhooks import hook, timing

from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import StorageFailed
from shadowmesh.model.ids import RelayID
from shadowmesh.model.relaylink import Load

if TYPE_CHECKING:
    from tests.controller.conftest import World

__all__ = ["timing"]  # a fixture

PACKAGING = Path(__file__).parents[2] / "packaging"
_NAME = re.compile(r"\b(?:shadowmesh|process)_[a-z_]+\b")
_PREFIX = "shadowmesh_controller_"


async def page(world: World) -> str:
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=str(world.data_dir / "controller.sock")), base_url="http://controller"
    ) as client:
        return (await client.get("/metrics")).text


async def values(world: World) -> dict[str, dict[tuple[str, ...], float]]:
    """By name, and by the values of the labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(await page(world)):
        for sample in family.samples:
            found.setdefault(sample.name.removeprefix(_PREFIX), {})[tuple(sample.labels.values())] = sample.value
    return found


def with_a_relay(world: World) -> None:
    from shadowmesh.controller.service.hub import RelayLink

    load = Load(
        sessions=3, networks=1, forwarded_frames=5, forwarded_bytes=500, dropped_frames=0, cpu=0.25, overloaded=True
    )
    link = RelayLink(
        RelayID("rly_x"), "boot", lambda _: None, lambda *_: None, load=load, load_at=world.at.context.now()
    )
    world.at.hub.relays[link.relay_id] = link


async def test_what_stands_there_is_true(world: World) -> None:
    network = await world.network()
    await world.member(name="laptop")
    with_a_relay(world)
    async with httpx.AsyncClient(verify=False) as client:
        await client.post(f"{world.url}/api/v1/auth/login", json={"email": "x@example.org", "password": "wrong"})
    async with WebReceiver(answer=lambda _: 500) as receiver:
        made = await hook(world, receiver.url, "office")
        world.at.events.publish("relay_changed", None, relay_id="rly_x", change="online")
        await receiver.until(lambda: len(receiver.asked) > 1)
    found = await values(world)
    assert found["clients_online"] == {(network.network_id,): 1.0} and found["devices"] == {(): 1.0}
    assert found["relays"] == {(): 1.0} and found["relay_sessions"] == {("rly_x",): 3.0}
    assert found["relay_overloaded"] == {("rly_x",): 1.0} and found["relay_forwarded_bytes_total"] == {
        ("rly_x",): 500.0
    }
    assert found["failed_sign_ins_total"] == {("bad_credentials",): 1.0}
    assert found["database_up"] == {(): 1.0} and found["audit_entries"][()] > 3
    ends = found["certificate_ends"][()] - found["clock"][()]
    assert 30 * 86400 < ends <= 90 * 86400
    assert (
        found["sink_waiting"]["webhook", made.id, "events"] >= 1
        and found["sink_failing_seconds"]["webhook", made.id] > 0
    )
    assert found["deliveries_total"]["webhook", "false"] >= 1
    assert found["told_seconds_count"][()] >= 1 and found["request_seconds_count"]["POST", "4xx"] >= 1


async def test_a_broken_chain_and_a_database_that_is_away_are_seen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.network()
    await world.at.audit.watch()
    found = await values(world)
    assert found["audit_chain_ok"] == {(): 1.0}
    assert found["audit_chain_checked_entries"] == found["audit_entries"]
    a = schema.audit
    await world.network("home", "10.43.0.0/24")
    forged = a.update().where(a.c.action == "network.create").values(actor="nobody")
    await world.at.context.write(lambda conn: conn.execute(forged))
    await world.at.audit.watch()
    assert (await values(world))["audit_chain_ok"] == {(): 0.0}

    async def fails(tx: Any) -> Any:
        raise StorageFailed(OSError("away"))

    monkeypatch.setattr(world.at.context.store, "read", fails)
    found = await values(world)
    assert found["database_up"] == {(): 0.0} and found["database_errors_total"][()] >= 1
    assert "audit_entries" not in found and found["devices"] == {(): 0.0}


async def test_no_name_of_a_person_or_network_is_among_them(world: World) -> None:
    await world.network("secretplans")
    await person(world, "olga", {"secretplans": "owner"})
    await world.at.maps.refresh_all([])
    text = await page(world)
    assert "secretplans" not in text and "olga" not in text


async def test_dashboard_and_alerts_ask_for_what_is_there(world: World) -> None:
    await world.network()
    await world.member(name="laptop")
    with_a_relay(world)
    await world.at.audit.watch()
    async with WebReceiver() as receiver:
        await hook(world, receiver.url, "office")
        async with httpx.AsyncClient(verify=False) as client:
            await client.post(f"{world.url}/api/v1/auth/login", json={"email": "x@example.org", "password": "wrong"})
        world.at.events.publish("relay_changed", None, relay_id="rly_x", change="online")
        await receiver.until(lambda: receiver.taken)
        world.at.reports._here["cli_x"] = (world.at.context.now(), "p2p", "none")  # type: ignore[index]
        there = {f"{_PREFIX}{name}" for name in await values(world)} | {"process_resident_memory_bytes"}
    dashboard = json.loads((PACKAGING / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += [v["query"]["query"] for v in dashboard["templating"]["list"] if isinstance(v["query"], dict)]
    rules = yaml.safe_load((PACKAGING / "prometheus-alerts.yml").read_text())
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(asked) > 30
    missing = {name for expression in asked for name in _NAME.findall(expression)} - there
    assert missing == set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
