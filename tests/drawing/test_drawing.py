"""The picture of a network: everything the API says is in it, counted from the file, and nothing in a name does harm."""

from __future__ import annotations

import io
import itertools
import math
import random
import re
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from PIL import Image

from shadowmesh.drawing.dot import dot
from shadowmesh.drawing.layout import CROWD, Layout, colour, lay_out
from shadowmesh.drawing.png import png
from shadowmesh.drawing.svg import svg
from shadowmesh.model.connectivity import Topology, TopologyClient, TopologyPair, TopologyRelay, TopologyView

SVG = "{http://www.w3.org/2000/svg}"


def network(clients: int, relays: int = 2, *, name: str = "acme", seed: int = 1) -> Topology:
    """Random pairs; the last client has no home relay."""
    chance = random.Random(seed)
    pairs = []
    for a in range(clients):
        for b in chance.sample(range(a + 1, clients), min(2, clients - a - 1)):
            kind = chance.choice(["p2p", "relay", "hybrid"])
            view = TopologyView(
                client_id=f"cli_{a}",
                connection_type="p2p",
                reason="direct.lan",
                relay=f"relay{chance.randrange(relays)}" if relays and kind == "relay" else None,
                since=datetime.now(UTC),
                tx_bytes=int(10 ** chance.uniform(0, 14)),
            )
            latency = chance.choice([None, 0.3, 40.0, 900.0])
            pairs.append(
                TopologyPair(
                    client_ids=[f"cli_{a}", f"cli_{b}"], connection_type=kind, latency_ms=latency, views=[view]
                )
            )
    return Topology(
        network_id="net_1",
        name=name,
        reports="full",
        controllers=["https://c.example.org:8443"],
        relays=[TopologyRelay(relay_id=f"rly_{n}", name=f"relay{n}", online=n != 1) for n in range(relays)],
        clients=[
            TopologyClient(
                client_id=f"cli_{n}",
                name=f"{name}-{n}",
                ip=f"10.0.{n // 250}.{n % 250}",
                online=n % 3 != 0,
                relay=f"relay{n % relays}" if relays and n != clients - 1 else None,
                capabilities=[],
            )
            for n in range(clients)
        ],
        pairs=pairs,
    )


def counted(topology: Topology) -> tuple[int, int]:
    """Nodes and links as the API says."""
    nodes = len(topology.controllers) + len(topology.relays) + len(topology.clients)
    return nodes, len(topology.pairs) + sum(c.relay is not None for c in topology.clients)


@pytest.mark.parametrize(("clients", "relays"), [(0, 0), (1, 0), (1, 1), (5, 1), (CROWD - 1, 3), (CROWD, 3), (500, 4)])
def test_nodes_and_links_counted_from_each_file_are_the_apis(clients: int, relays: int) -> None:
    topology = network(clients, relays)
    layout = lay_out(topology)
    root = ElementTree.fromstring(svg(layout))
    nodes = [e for e in root.iter(f"{SVG}g") if "node" in e.get("class", "").split()]
    links = [e for e in root.iter(f"{SVG}path") if "link" in e.get("class", "").split()]
    assert (len(nodes), len(links)) == counted(topology)
    assert len({n.get("data-id") for n in nodes}) == len(nodes)
    graph = dot(topology)
    assert (len(re.findall(r"^  \"[^\"]+\" \[", graph, re.M)), len(re.findall(r'" -- "', graph))) == counted(topology)
    image = Image.open(io.BytesIO(png(layout)))
    image.load()
    assert (int(image.info["nodes"]), int(image.info["links"])) == counted(topology)
    assert max(image.size) <= 4000 and image.info["title"] == "acme"


def test_a_relayed_pair_goes_through_its_relay_and_a_direct_one_doesnt() -> None:
    topology = network(8)
    layout = lay_out(topology)
    at = {node.id: node.at for node in layout.nodes}
    by_ends = {link.ends: link for link in layout.links}
    for pair in topology.pairs:
        link = by_ends[pair.client_ids[0], pair.client_ids[1]]
        ends = [at[pair.client_ids[0]], at[pair.client_ids[1]]]
        relay = pair.views[0].relay
        through = [at[f"rly_{relay[-1]}"]] if relay else []
        assert list(link.points) == [ends[0], *through, ends[1]]
    assert {link.kind for link in layout.links} == {"p2p", "relay", "hybrid", "home"}


@pytest.mark.parametrize("clients", [2, 5, CROWD - 1, CROWD, 100, 500])
def test_nothing_stands_outside_and_no_client_on_another(clients: int) -> None:
    layout: Layout = lay_out(network(clients, 3))
    for node in layout.nodes:
        assert 0 < node.at[0] < layout.width and 0 < node.at[1] < layout.height
    around = [node.at for node in layout.nodes if node.kind == "client"]
    least = 16.0 if layout.crowded else 100.0
    assert all(math.dist(a, b) >= least for a, b in zip(around, around[1:] + around[:1], strict=True))


def test_clients_of_one_relay_stand_side_by_side() -> None:
    topology = network(30, 3)
    relay = {c.client_id: c.relay for c in topology.clients}
    order = [relay[node.id] for node in lay_out(topology).nodes if node.kind == "client"]
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes == 3, "three relays, and one client without"


def test_traffic_is_width_and_latency_is_colour() -> None:
    topology = network(20)
    widths = {link.ends: link.width for link in lay_out(topology).links if link.kind != "home"}
    moved = {(p.client_ids[0], p.client_ids[1]): p.views[0].tx_bytes or 0 for p in topology.pairs}
    order = sorted(moved, key=lambda ends: moved[ends])
    assert all(widths[a] <= widths[b] for a, b in itertools.pairwise(order))
    assert widths[order[0]] < widths[order[-1]] <= 6
    assert len({colour(ms) for ms in (None, 1, 30, 100, 500)}) == 5


EVIL = ['"/><script>alert(1)</script>', "a&b<c>", "測" * 64, "\u202ex", "'\" onload='x", "]]>", "\\", '"; evil [']


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("clients", [3, CROWD])
def test_names_are_text_whatever_they_hold(name: str, clients: int) -> None:
    topology = network(clients, name=name)
    root = ElementTree.fromstring(svg(lay_out(topology)))
    allowed = {f"{SVG}{tag}" for tag in ("svg", "style", "rect", "text", "path", "title", "g", "circle", "polygon")}
    assert {e.tag for e in root.iter()} <= allowed
    assert not [key for e in root.iter() for key in e.attrib if key.startswith("on")]
    titles = [t.text for t in root.iter(f"{SVG}title")]
    assert f"{name}-1 10.0.0.1" in titles
    assert png(lay_out(topology)).startswith(b"\x89PNG")
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    assert f'label="{quoted}-1 10.0.0.1"' in dot(topology)


def test_the_same_answer_gives_the_same_bytes() -> None:
    one, two = lay_out(network(30)), lay_out(network(30))
    assert (svg(one), png(one)) == (svg(two), png(two))
