"""Where controllers, relays and clients stand, and which lines go between them.

Clients stand on a circle, those of one home relay side by side and in the order of their names; relays inside it, in the
direction of their clients; controllers above. Lengths are pixels at scale 1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shadowmesh.model.connectivity import Topology, TopologyPair

NodeKind = Literal["controller", "relay", "client"]
LinkKind = Literal["p2p", "relay", "hybrid", "home"]
Point = tuple[float, float]

CROWD = 24  # from so many clients on their names stand along the rays of the circle
_MARGIN = 160.0  # for names
_LEGEND = 96.0
_LEAST_RADIUS = 190.0
_APART = {False: 120.0, True: 17.0}  # pixels of the circle for each client; True: a crowd
_COLOURS = ((20.0, "#15803d"), (60.0, "#65a30d"), (150.0, "#d97706"), (math.inf, "#dc2626"))  # up to so many ms
UNKNOWN_COLOUR = "#64748b"
LATENCIES = ("< 20 ms", "< 60 ms", "< 150 ms", "more")


@dataclass(frozen=True, slots=True)
class DrawnNode:
    """`angle`: where it stands on the circle (radians, 0 to the right, clockwise); None: not on it."""

    id: str
    kind: NodeKind
    name: str
    detail: str
    online: bool
    at: Point
    angle: float | None = None


@dataclass(frozen=True, slots=True)
class DrawnLink:
    """A pair's way, or (`home`) that a client is connected to its home relay. `points`: from one end to the other, by the
    relay of a relayed pair. `width`: pixels, by the traffic of the last day where it is known."""

    ends: tuple[str, str]
    kind: LinkKind
    points: tuple[Point, ...]
    colour: str
    width: float
    label: str


@dataclass(frozen=True, slots=True)
class Layout:
    """`crowded`: see CROWD. Clients stand on the circle of this `centre` and `radius`."""

    title: str
    width: float
    height: float
    nodes: tuple[DrawnNode, ...]
    links: tuple[DrawnLink, ...]
    crowded: bool
    centre: Point = (0.0, 0.0)
    radius: float = 0.0


def lay_out(topology: Topology) -> Layout:
    """Every controller, relay and client of it is a node; every pair, and every client with a home relay, a link."""
    clients = sorted(topology.clients, key=lambda c: (c.relay is None, c.relay or "", c.name.casefold(), c.client_id))
    crowded = len(clients) >= CROWD
    radius = max(_LEAST_RADIUS, len(clients) * _APART[crowded] / math.tau)
    half = radius + _MARGIN
    top = 70.0 if topology.controllers else 30.0
    centre = (half, top + half - (_MARGIN / 2 if not crowded else 0))
    nodes: dict[str, DrawnNode] = {}
    directions: dict[str, list[float]] = defaultdict(list)  # of each relay's clients, by its name
    for number, client in enumerate(clients):
        angle = math.tau * number / len(clients) - math.pi / 2
        if client.relay is not None:
            directions[client.relay].append(angle)
        at = _towards(centre, angle, radius)
        nodes[client.client_id] = DrawnNode(
            client.client_id, "client", client.name, client.ip, client.online, at, angle
        )
    relays = {relay.name: relay.relay_id for relay in topology.relays}
    for number, relay in enumerate(topology.relays):
        towards = _mean(directions[relay.name])
        angle = math.tau * number / len(topology.relays) if towards is None else towards
        inner = 0.0 if len(topology.relays) == 1 else 0.42 * radius
        at = _towards(centre, angle, inner)
        nodes[relay.relay_id] = DrawnNode(relay.relay_id, "relay", relay.name, relay.region, relay.online, at)
    for number, url in enumerate(topology.controllers):
        x = half + (number - (len(topology.controllers) - 1) / 2) * 240.0
        nodes[url] = DrawnNode(url, "controller", url.removeprefix("https://"), "controller", True, (x, 56.0))
    links = [
        DrawnLink((c.client_id, relays[c.relay]), "home", (nodes[c.client_id].at, nodes[relays[c.relay]].at), "#cbd5e1", 1.0, "")
        for c in clients
        if c.relay in relays
    ]  # fmt: skip
    pairs = (_pair(pair, nodes, relays) for pair in topology.pairs if all(end in nodes for end in pair.client_ids))
    links += sorted(pairs, key=lambda link: -link.width)  # the thin ones above
    height = centre[1] + radius + (_MARGIN if crowded else 90.0) + _LEGEND
    return Layout(topology.name, 2 * half, height, tuple(nodes.values()), tuple(links), crowded, centre, radius)


def _pair(pair: TopologyPair, nodes: dict[str, DrawnNode], relays: dict[str, str]) -> DrawnLink:
    first, second = (nodes[end] for end in pair.client_ids)
    by = next((relays[view.relay] for view in pair.views if view.relay in relays), None)
    kind: LinkKind = (
        "p2p" if pair.connection_type == "p2p" else "hybrid" if pair.connection_type == "hybrid" else "relay"
    )
    points = [first.at, second.at]
    if kind == "relay" and by is not None:
        points.insert(1, nodes[by].at)
    moved = sum((view.rx_bytes or 0) + (view.tx_bytes or 0) for view in pair.views)
    latency = None if pair.latency_ms is None else f"{pair.latency_ms:g} ms"
    label = " ".join(filter(None, (f"{first.name} - {second.name}:", pair.connection_type, latency)))
    ends = (pair.client_ids[0], pair.client_ids[1])
    return DrawnLink(ends, kind, tuple(points), colour(pair.latency_ms), _width(moved), label)


def colour(latency_ms: float | None) -> str:
    """By latency: green to red, grey where it isn't known."""
    if latency_ms is None:
        return UNKNOWN_COLOUR
    return next(colour for most, colour in _COLOURS if latency_ms < most)


def legend() -> Sequence[tuple[str, str]]:
    """Colours and what they mean."""
    return [*zip((colour for _, colour in _COLOURS), LATENCIES, strict=True), (UNKNOWN_COLOUR, "not known")]


def _width(moved: int) -> float:
    """1.5 pixels; each factor of ten above a megabyte adds some, up to 6."""
    return 1.5 if moved < 1_000_000 else min(6.0, 1.5 + 0.9 * math.log10(moved / 1e6))


def _towards(centre: Point, angle: float, distance: float) -> Point:
    return centre[0] + distance * math.cos(angle), centre[1] + distance * math.sin(angle)


def _mean(angles: Sequence[float]) -> float | None:
    """The direction of their sum; None without one."""
    x, y = sum(map(math.cos, angles)), sum(map(math.sin, angles))
    return math.atan2(y, x) if math.hypot(x, y) > 1e-6 else None
