"""What people see at the controller of a pair that goes from the relay to a direct path: log, event, topology, clients."""

from __future__ import annotations

from typing import Any

import pytest
from meshkit import until_direct

from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World

pytestmark = pytest.mark.lab


def test_a_pair_that_went_direct_is_told_so_everywhere(lab_factory, told) -> None:
    homes = tuple(SiteSpec(nat=NatType.PORT_RESTRICTED) for _ in range(2))
    world = World(lab_factory(LabSpec(sites=homes, relays=1, controllers=1)))
    world.mesh(network="office")
    until_direct(world, "h1", "h2")

    def both_told() -> list[Any]:
        lines = world.manage("logs", "office", "--client", "h1", "--peer", "h2")["lines"]
        upgraded = {line["client_name"] for line in lines if line["event_type"] == "upgrade_p2p"}
        return lines if upgraded == {"h1", "h2"} else []

    lines = world.until(both_told, "the log of the pair", timeout=45)
    for line in lines:
        told(f"{line['client_name']} of {line['remote_peer_name']}", f"{line['event_type']} {line['reason']}")
    first = next(line for line in lines if line["client_name"] == "h1")
    assert (first["event_type"], first["path"]) == ("connect", "relay")
    found = world.manage("topology", "office")
    (pair,) = found["pairs"]
    assert pair["connection_type"] == "p2p" and {view["reason"] for view in pair["views"]} == {"direct.punched"}
    assert {c["name"]: (c["connection_type"], c["nat_type"]) for c in found["clients"]} == dict.fromkeys(
        ("h1", "h2"), ("p2p", "port_restricted")
    )
    assert [relay["name"] for relay in found["relays"]] == ["relay1"]
    clients = world.manage("client", "list", "office")["clients"]
    assert [(c["connection_type"], c["latency_ms"] > 0) for c in clients] == [("p2p", True)] * 2
