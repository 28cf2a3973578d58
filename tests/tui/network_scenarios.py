"""What a controller might say of relays, topologies and usage: the same at each run."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import console_scenarios as scenarios

from shadowmesh.model.api import Permission, Relay, RelayLoad
from shadowmesh.model.connectivity import Topology, TopologyClient, TopologyPair, TopologyRelay, TopologyView
from shadowmesh.model.usage import Quota, UsageRow
from shadowmesh_tui.console.state import Console
from shadowmesh_tui.console.used import Used, UsedOf

NOW, WIDE, ALL = scenarios.NOW, scenarios.WIDE, scenarios.ALL
MONTH = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


# relays


def relay(n: int, name: str, *, forwarded: int = 0, **more: Any) -> Relay:
    load = RelayLoad(
        at=NOW - dt.timedelta(seconds=2), sessions=40 * n, networks=n, forwarded_frames=forwarded // 900,
        forwarded_bytes=forwarded, dropped_frames=17 * n, cpu=0.21 * n, overloaded=n == 4,
    )  # fmt: skip
    values = {
        "id": f"rly_{n:04}", "name": name, "key": "AAAA", "url": f"wss://{name}.example.org:9545", "udp": f"192.0.2.{n}:9545",
        "region": "eu-west", "capacity_mbit": 1000, "version": "0.3.0", "draining": False, "online": True,
        "created_at": NOW - dt.timedelta(days=40), "last_seen": NOW, "load": load,
    }  # fmt: skip
    return Relay.model_validate(values | more)


def relays(console: Console) -> Console:
    """Of every state, as they were told of forty times."""
    for step in range(41):
        at = NOW - dt.timedelta(seconds=5 * (40 - step))
        known = [
            relay(1, "eu-1", forwarded=10**9 + sum(10_000_000 * (5 + n % 5) for n in range(step))),
            relay(2, "us-east", region="us-east", forwarded=10**8 + step * 2_000_000, draining=True),
            relay(3, WIDE, region=WIDE, forwarded=5 * 10**7),
            relay(4, "ap-1", region="ap-south", version="0.3.1", forwarded=step * 400_000_000),
            relay(5, "old", region="", online=False, load=None, last_seen=NOW - dt.timedelta(hours=3)),
        ]
        console.take_relays(
            r if r.load is None else r.model_copy(update={"load": r.load.model_copy(update={"at": at})}) for r in known
        )
    return console


# topologies


def _pair(a: str, b: str, kind: str, ms: float | None, moved: int, by: str | None = None) -> TopologyPair:
    since = NOW - dt.timedelta(hours=2)
    views = [
        TopologyView(client_id=end, connection_type=kind, reason="direct.punched", relay=by, latency_ms=ms, since=since,
                     rx_bytes=moved // 2, tx_bytes=moved // 2)
        for end in (a, b)
    ]  # fmt: skip
    return TopologyPair(client_ids=sorted((a, b)), connection_type=kind, latency_ms=ms, views=views)


def _client(n: int, name: str, relay: str | None, **more: Any) -> TopologyClient:
    values = {
        "client_id": f"cli_{n:04}", "name": name, "ip": f"10.100.{n // 250 + 1}.{n % 250 + 1}", "online": True,
        "relay": relay, "nat_type": "port_restricted", "capabilities": [], "connection_type": "p2p", "latency_ms": 2.0,
    }  # fmt: skip
    return TopologyClient.model_validate(values | more)


def few(**more: Any) -> Topology:
    """Six clients of all kinds, two relays, pairs of all kinds."""
    clients = [
        _client(1, "server-1", "eu-1"),
        _client(2, "server-2", "eu-1"),
        _client(3, "laptop-3", "us-east", connection_type="relay"),
        _client(4, "vpn-gw", "eu-1", connection_type="hybrid"),
        _client(5, WIDE, "us-east"),
        _client(6, "printer", None, online=False, connection_type=None),
    ]
    pairs = [
        _pair("cli_0001", "cli_0002", "p2p", 2.1, 10**12),
        _pair("cli_0001", "cli_0004", "p2p", 34.0, 10**6),
        _pair("cli_0002", "cli_0004", "hybrid", 61.0, 10**8, "eu-1"),
        _pair("cli_0003", "cli_0004", "relay", 120.0, 10**10, "eu-1"),
        _pair("cli_0003", "cli_0005", "relay", 240.0, 0, "us-east"),
        _pair("cli_0002", "cli_0005", "p2p", None, 10**7),
    ]
    values = {
        "network_id": "net_0001", "name": "acme-prod", "reports": "full", "clients": clients, "pairs": pairs,
        "controllers": ["https://vpn.example.org:8443"],
        "relays": [TopologyRelay(relay_id="rly_0001", name="eu-1", region="eu-west", online=True),
                   TopologyRelay(relay_id="rly_0002", name="us-east", region="us-east", online=False)],
    }  # fmt: skip
    return Topology.model_validate(values | more)


def many(count: int, relay_count: int = 4, seed: int = 1) -> Topology:
    """Each client talks to three others, every fourth pair through the first one's relay."""
    chance = random.Random(seed)
    names = [f"relay-{n}" for n in range(relay_count)]
    clients = [
        _client(n, f"host-{n:04}", names[n % relay_count] if names else None, online=n % 7 != 0) for n in range(count)
    ]
    pairs = []
    for n in range(count):
        for other in chance.sample(range(n + 1, count), min(3, count - n - 1)):
            relayed = chance.random() < 0.25
            kind, by = ("relay", clients[n].relay) if relayed else ("p2p", None)
            latency = round(chance.uniform(1, 200), 1)
            pairs.append(_pair(f"cli_{n:04}", f"cli_{other:04}", kind, latency, int(10 ** chance.uniform(4, 11)), by))
    return few(
        clients=clients,
        pairs=pairs,
        relays=[TopologyRelay(relay_id=f"rly_{n:04}", name=name, online=True) for n, name in enumerate(names)],
    )


def pictured(topology: Topology, may: list[Permission] = ALL) -> Console:
    console = scenarios.office(may)
    console.take_topology(topology)
    return console


# usage


def _row(client: int, name: str, user: str | None, since: dt.datetime, direct: int, relayed: int) -> UsageRow:
    return UsageRow(
        network_id="net_0001", network="acme-prod", client_id=f"cli_{client:04}", client=name, user=user, since=since,
        relayed_sent=relayed // 3, relayed_received=relayed, direct_sent=direct // 2, direct_received=direct,
    )  # fmt: skip


def quota(percent: int | None, network: str = "acme-prod", network_id: str = "net_0001") -> Quota:
    limits: dict[str, Any] = {} if percent is None else {"plan": "pro", "monthly_bytes": 10**11, "percent": percent}
    return Quota(
        network_id=network_id, network=network, month="2026-03", used=10**9 * (percent or 7), clients=6, max_clients=10,
        over=percent is not None and percent >= 100, **limits,
    )  # fmt: skip


def used(percent: int | None = 83) -> Console:
    """The chosen network's month, its days, and all networks."""
    console = scenarios.office()
    people = [
        ("server-1", "anna@example.org"),
        ("server-2", "anna@example.org"),
        ("laptop-3", "ben@example.org"),
        (WIDE, None),
    ]
    month = [
        _row(n, name, user, MONTH, 65 * 10**8 * n, 3 * 10**9 * (4 - n))
        for n, (name, user) in enumerate(people, 1)
    ]  # fmt: skip
    days = [
        _row(n, name, user, MONTH + dt.timedelta(days=day), 10**8 * n * (day + 1), 10**7 * (5 - n))
        for day in range(14)
        for n, (name, user) in enumerate(people[:3], 1)
    ]
    console.take_used(UsedOf("net_0001"), Used(month, {"net_0001": quota(percent)}))
    console.take_used(UsedOf("net_0001", None, "day"), Used(days, {"net_0001": quota(percent)}))
    other = [
        row.model_copy(update={"network_id": "net_0002", "network": "acme-dev", "direct_received": 5 * 10**9})
        for row in month[:2]
    ]
    quotas = {"net_0001": quota(percent), "net_0002": quota(104, "acme-dev", "net_0002")}
    console.take_used(UsedOf(None), Used([*month, *other], quotas))
    return console
