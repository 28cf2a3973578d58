"""A whole network as a picture on a terminal: what of it is shown, where it stands, and how it is drawn. Pure.

Where things stand is `drawing.layout`'s: clients on a circle, those of one home relay side by side, relays inside, controllers
above. Here the circle is bent so that each client has a row of its own on the left or on the right, where its name has room. Where
there are more clients than rows, neighbours on the circle stand together as one node; with more rows (a zoom) they come apart.
"""

from __future__ import annotations

import datetime as dt
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from rich.cells import cell_len

from shadowmesh.drawing.layout import DrawnLink, Layout, LinkKind, NodeKind, Point, lay_out, legend
from shadowmesh.model.connectivity import Topology, TopologyClient, TopologyPair, TopologyView
from shadowmesh_tui.canvas import Canvas, Dash
from shadowmesh_tui.text import latency, shorten

Side = Literal["left", "right", "middle"]
ZOOMS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
DASHES: Mapping[LinkKind, Dash | None] = {"p2p": None, "relay": Dash(4, 4), "hybrid": Dash(8, 2), "home": Dash(1, 5)}
LEVELS = ("latency 1", "latency 2", "latency 3", "latency 4", "muted")  # styles, in the order of `layout.legend`
GLYPHS: Mapping[str, str] = {"controller": "■", "relay": "◈", "client": "●", "offline": "○", "group": "◉"}
HEAVY = 3.3  # pixels of the layout: 100 MB a day
_STYLES = {colour: style for (colour, _), style in zip(legend(), LEVELS, strict=True)}
_LONGEST = 24  # cells of a name
_INNER = 12  # cells kept for lines on either side of the middle
_TOP = 2  # rows for controllers
_GROUP = "group "
_LONG_AGO = dt.datetime.fromtimestamp(0, dt.UTC)


# what is shown


def around(topology: Topology, clients: Collection[str]) -> Topology:
    """These clients, those that they are connected with, and the pairs between; relays that any of them needs."""
    pairs = [pair for pair in topology.pairs if not set(clients).isdisjoint(pair.client_ids)]
    near = set(clients).union(*(pair.client_ids for pair in pairs))
    shown = [client for client in topology.clients if client.client_id in near]
    used = {client.relay for client in shown} | {view.relay for pair in pairs for view in pair.views}
    relays = [relay for relay in topology.relays if relay.name in used]
    return topology.model_copy(update={"clients": shown, "pairs": pairs, "relays": relays})


def matching(topology: Topology, needle: str) -> set[str]:
    """Clients in which each of these words occurs somewhere. Without words: none."""
    words = needle.casefold().split()
    if not words:
        return set()
    return {client.client_id for client in topology.clients if all(word in _hay(client) for word in words)}


def _hay(client: TopologyClient) -> str:
    state = "online" if client.online else "offline"
    kind = {"p2p": "direct p2p"}.get(client.connection_type or "", client.connection_type or "idle")
    parts = (client.name, client.ip, client.relay or "", client.nat_type or "", state, kind, client.client_id)
    return "\n".join(parts).casefold()


@dataclass(frozen=True, slots=True)
class Condensed:
    """A topology in which clients may stand for several. `members`: of each node that does; `bundles`: pairs that a line stands for,
    (direct, relayed, each its way), by its ends; `inside`: the same of pairs within a node."""

    topology: Topology
    members: Mapping[str, tuple[str, ...]]
    bundles: Mapping[tuple[str, str], tuple[int, int, int]]
    inside: Mapping[str, tuple[int, int, int]]

    def node_of(self, client: str | None) -> str | None:
        """That client's node: itself, or the group that it is in."""
        if client is None:
            return None
        inner = client.removeprefix(_GROUP)
        if any(c.client_id == inner for c in self.topology.clients):
            return inner
        found = (node for node, members in self.members.items() if inner in members)
        return next(found, client if client in self.members else None)


@dataclass(slots=True)
class _Bundle:
    kinds: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    relays: Counter[str] = field(default_factory=Counter)
    moved: int = 0

    def add(self, pair: TopologyPair) -> None:
        self.kinds[pair.connection_type] += 1
        if pair.latency_ms is not None:
            self.latencies.append(pair.latency_ms)
        for view in pair.views:
            self.moved += (view.rx_bytes or 0) + (view.tx_bytes or 0)
            if view.relay is not None:
                self.relays[view.relay] += 1

    @property
    def counts(self) -> tuple[int, int, int]:
        direct, relayed = self.kinds["p2p"], self.kinds["relay"]
        return direct, relayed, self.kinds.total() - direct - relayed

    def pair(self, ends: tuple[str, str]) -> TopologyPair:
        kind = next(iter(self.kinds)) if len(self.kinds) == 1 else "hybrid"
        relay = self.relays.most_common(1)[0][0] if self.relays else None
        middle = statistics.median(self.latencies) if self.latencies else None
        view = TopologyView(
            client_id=ends[0], connection_type=kind, reason="", relay=relay, since=_LONG_AGO, rx_bytes=self.moved
        )
        return TopologyPair(client_ids=list(ends), connection_type=kind, latency_ms=middle, views=[view])


def condense(topology: Topology, capacity: int, apart: Collection[str] = ()) -> Condensed:
    """At most `capacity` nodes of clients, neighbours on the circle in one. `apart`: clients that stand for themselves, as far as they
    take no more than half the room."""
    clients = sorted(topology.clients, key=lambda c: (c.relay is None, c.relay or "", c.name.casefold(), c.client_id))
    if len(clients) <= capacity:
        each = {(pair.client_ids[0], pair.client_ids[1]): _counts(pair) for pair in topology.pairs}
        return Condensed(topology, {}, each, {})
    alone = {c.client_id for c in [c for c in clients if c.client_id in apart][: capacity // 2]}
    runs: list[list[TopologyClient]] = []
    for relay in dict.fromkeys(c.relay for c in clients):
        runs.append([c for c in clients if c.relay == relay and c.client_id not in alone])
    room = max(1, capacity - len(alone))
    size = max(2, math.ceil(sum(map(len, runs)) / room))
    while sum(math.ceil(len(run) / size) for run in runs) > max(room, sum(1 for run in runs if run)):
        size += 1
    nodes = [c for c in clients if c.client_id in alone]
    members: dict[str, tuple[str, ...]] = {}
    place: dict[str, str] = {c.client_id: c.client_id for c in nodes}
    for run in runs:
        for start in range(0, len(run), size):
            chunk = run[start : start + size]
            node = chunk[0] if len(chunk) == 1 else _group(chunk)
            nodes.append(node)
            if len(chunk) > 1:
                members[node.client_id] = tuple(c.client_id for c in chunk)
            place.update((c.client_id, node.client_id) for c in chunk)
    bundles, inside = defaultdict[tuple[str, str], _Bundle](_Bundle), defaultdict[str, _Bundle](_Bundle)
    for pair in topology.pairs:
        if not all(end in place for end in pair.client_ids):
            continue
        first, second = sorted(place[end] for end in pair.client_ids)
        (inside[first] if first == second else bundles[first, second]).add(pair)
    pairs = [bundle.pair(ends) for ends, bundle in bundles.items()]
    shown = topology.model_copy(update={"clients": nodes, "pairs": pairs})
    return Condensed(
        shown,
        members,
        {ends: bundle.counts for ends, bundle in bundles.items()},
        {node: bundle.counts for node, bundle in inside.items()},
    )


def _counts(pair: TopologyPair) -> tuple[int, int, int]:
    bundle = _Bundle()
    bundle.add(pair)
    return bundle.counts


def _group(chunk: Sequence[TopologyClient]) -> TopologyClient:
    first = chunk[0]
    return TopologyClient(
        client_id=f"{_GROUP}{first.client_id}",
        name=f"{first.name} +{len(chunk) - 1}",
        ip=f"{len(chunk)} clients",
        online=any(c.online for c in chunk),
        relay=first.relay,
        capabilities=[],
    )


# where it stands


@dataclass(frozen=True, slots=True)
class Spot:
    """A node and the cell of its mark. The name stands outwards of it, or (`middle`) around it."""

    id: str
    kind: NodeKind
    glyph: str
    name: str
    online: bool
    x: int
    y: int
    side: Side

    @property
    def label(self) -> str:
        return f"{self.name} {self.glyph}" if self.side == "left" else f"{self.glyph} {self.name}"

    @property
    def start(self) -> int:
        """Where the label begins."""
        length = cell_len(self.label)
        return {"left": self.x - length + 1, "right": self.x, "middle": self.x - length // 2}[self.side]


@dataclass(frozen=True, slots=True)
class Line:
    ends: tuple[str, str]
    kind: LinkKind
    cells: tuple[tuple[int, int], ...]
    style: str
    heavy: bool
    width: float
    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class Chart:
    """A network laid out on `width` × `height` cells: more than are seen at once after a zoom. `order`: clients, round the circle."""

    width: int
    height: int
    spots: Mapping[str, Spot]
    lines: tuple[Line, ...]
    order: tuple[str, ...]

    def step(self, chosen: str | None, step: int, among: Collection[str] = ()) -> str | None:
        """The client that comes `step` places after, round and round; `among`: only of these, if there are any."""
        order = [node for node in self.order if not among or node in among]
        if not order:
            return None
        if chosen not in order:
            return order[0]
        return order[(order.index(chosen) + step) % len(order)]

    def towards(self, chosen: str | None, dx: int, dy: int) -> str | None:
        """The node that is nearest in this direction; what stands far off to the side is farther. None: there is none."""
        here = self.spots.get(chosen or "")
        if here is None:
            return self.order[0] if self.order else next(iter(self.spots), None)
        best: tuple[float, str] | None = None
        for spot in self.spots.values():
            x, y = spot.x - here.x, 2 * (spot.y - here.y)  # a cell is twice as high as wide
            along, aside = (x * dx, abs(y)) if dx else (y * dy, abs(x))
            if along > 0 and spot.id != here.id and (best is None or along + 2 * aside < best[0]):
                best = along + 2 * aside, spot.id
        return None if best is None else best[1]


def capacity(height: int) -> int:
    """How many nodes of clients have rows of their own."""
    return max(2, 2 * (height - _TOP))


def chart(condensed: Condensed, width: int, height: int) -> Chart:
    """Places everything on a field of this size."""
    layout = lay_out(condensed.topology)
    clients = [node for node in layout.nodes if node.kind == "client"]
    top = _TOP if layout.nodes and any(node.kind == "controller" for node in layout.nodes) else 0
    middle, centre, half = width // 2, (top + height - 1) / 2, max(0.5, (height - 1 - top) / 2)
    longest = min(_LONGEST, max((cell_len(node.name) for node in clients), default=0)) + 2
    reach = max(4, min(middle - 1 - max(4, min(longest, middle - _INNER)), 3 * height))
    spots: dict[str, Spot] = {}
    for number, node in enumerate(clients):
        x, row, side = _bent(number, len(clients), max(1, height - top))
        column = middle + round(x * reach)
        room = max(1, (width - column if side == "right" else column + 1) - 2)
        glyph = GLYPHS["group"] if node.id in condensed.members else GLYPHS["client" if node.online else "offline"]
        name = shorten(node.name, min(room, _LONGEST))
        spots[node.id] = Spot(node.id, "client", glyph, name, node.online, column, top + row, side)
    taken: set[tuple[int, int]] = set()
    for node in layout.nodes:
        if node.kind == "client":
            continue
        if node.kind == "controller":
            number = sum(spot.kind == "controller" for spot in spots.values())
            count = sum(n.kind == "controller" for n in layout.nodes)
            column, row = round(width * (number + 0.5) / count), 0
            name = shorten(node.name, max(4, width // count - 4))
        else:
            column, row = _inside(node.at, layout, middle, centre, reach, half, top, height)
            while any(abs(column - x) < _LONGEST and row == y for x, y in taken) and row < height - 1:
                row += 1
            taken.add((column, row))
            name = shorten(node.name, max(4, min(_LONGEST, 2 * reach - 6)))
        name = name if node.online else f"{name} (away)"
        spots[node.id] = Spot(node.id, node.kind, GLYPHS[node.kind], name, node.online, column, row, "middle")
    relays = {node.at: node.id for node in layout.nodes if node.kind == "relay"}
    latencies = {tuple(pair.client_ids): pair.latency_ms for pair in condensed.topology.pairs}
    lines = tuple(_line(link, spots, relays, latencies.get(link.ends)) for link in layout.links)
    return Chart(width, height, spots, lines, tuple(node.id for node in clients))


def _bent(number: int, count: int, rows: int) -> tuple[float, int, Side]:
    """Where the client of this number stands: how far out (-1 to 1), on which row, and on which side. As long as there are rows for all,
    each on a side has its own; in their order round the circle, from the top on the right."""
    on_right = (count + 1) // 2
    side: Side = "right" if number < on_right else "left"
    place, of = (number, on_right) if side == "right" else (count - 1 - number, count - on_right)
    row = int((place + 0.5) * rows / of)
    y = 2 * (row + 0.5) / rows - 1
    x = math.sqrt(1 - 0.55 * y * y)
    return (x if side == "right" else -x), row, side


def _inside(
    at: Point, layout: Layout, middle: int, centre: float, reach: int, half: float, top: int, height: int
) -> tuple[int, int]:
    x, y = ((at[i] - layout.centre[i]) / (layout.radius or 1.0) for i in (0, 1))
    return middle + round(x * reach), min(height - 1, max(top, round(centre + y * half)))


def _line(link: DrawnLink, spots: Mapping[str, Spot], relays: Mapping[Point, str], latency_ms: float | None) -> Line:
    through = [relays[point] for point in link.points[1:-1] if point in relays]
    cells = tuple((spots[node].x, spots[node].y) for node in (link.ends[0], *through, link.ends[1]))
    style = "muted" if link.kind == "home" else _STYLES[link.colour]
    return Line(link.ends, link.kind, cells, style, link.width >= HEAVY, link.width, latency_ms)


# how it is drawn


@dataclass(frozen=True, slots=True)
class Drawn:
    """`places`: which cells of it are which node's; `shown`, `all`: lines of pairs."""

    canvas: Canvas
    places: tuple[tuple[int, range, str], ...]
    shown: int
    all: int

    def at(self, x: int, y: int) -> str | None:
        return next((node for row, cells, node in self.places if row == y and x in cells), None)


def most_lines(width: int, height: int) -> int:
    """How many lines one can tell apart on so many cells."""
    return max(10, width * height // 120)


def draw(
    found: Chart, pan: tuple[int, int], width: int, height: int, chosen: str | None, dimmed: Collection[str] = ()
) -> Drawn:
    """The part of it from the cell `pan` on. Lines of what is `chosen` are all there, of the others the busiest. Styles: those of
    `LEVELS`, node, me, label, muted, selected, and `… strong`."""
    canvas = Canvas(width, height)
    pairs = [line for line in found.lines if line.kind != "home"]
    homes = [line for line in found.lines if line.kind == "home"]
    mine = [line for line in pairs if chosen in line.ends]
    most = most_lines(width, height)
    others = sorted((line for line in pairs if chosen not in line.ends), key=lambda line: -line.width)
    others = others[: max(0, most - len(mine))]
    sparse = len(found.order) <= height
    for line in homes:
        if sparse or chosen in line.ends:
            _draw_line(canvas, line, pan, "")
    for line in reversed(others):  # the busiest above
        _draw_line(canvas, line if sparse or not mine else replace(line, style="muted"), pan, "")
    for line in mine:
        _draw_line(canvas, line, pan, " strong")
    places: list[tuple[int, range, str]] = []
    rank = {"controller": 1, "relay": 1, "client": 2}
    for spot in sorted(found.spots.values(), key=lambda s: (s.id != chosen, rank[s.kind])):
        place = _draw_spot(canvas, spot, pan, chosen=spot.id == chosen, dim=spot.id in dimmed)
        if place is not None:
            places.append((*place, spot.id))
    told = [*mine, *(others if sparse and len(pairs) <= height else ())]
    for line in told[:most]:
        _draw_latency(canvas, line, pan, chosen)
    return Drawn(canvas, tuple(places), len(others) + len(mine), len(pairs))


def _draw_line(canvas: Canvas, line: Line, pan: tuple[int, int], more: str) -> None:
    cells = [(x - pan[0], y - pan[1]) for x, y in line.cells]
    for start, end in pairwise(cells):
        canvas.line(start, end, f"{line.style}{more}", DASHES[line.kind], heavy=line.heavy)


def _draw_spot(
    canvas: Canvas, spot: Spot, pan: tuple[int, int], *, chosen: bool, dim: bool
) -> tuple[int, range] | None:
    """The whole label where nothing stands yet, else the mark alone, else nothing. Which cells it took."""
    x, y, start, label = spot.x - pan[0], spot.y - pan[1], spot.start - pan[0], spot.label
    length = cell_len(label)
    if not canvas.is_free(start, y, length):
        start, label, length = x, spot.glyph, 1
        if not canvas.is_free(start, y, 1):
            return None
    mark = {"controller": "me", "relay": "node", "client": "latency 1" if spot.online else "muted"}[spot.kind]
    text = "label" if spot.online and not dim else "muted"
    if chosen:
        mark = text = "selected"
    elif dim:
        mark = "muted"
    at = label.rindex(spot.glyph) if spot.side == "left" else 0
    around = 1 if spot.side == "middle" and canvas.is_free(start - 1, y, length + 2) else 0
    if around:
        canvas.text(start - 1, y, " " * (length + 2), "")
    canvas.text(start, y, label, text)
    canvas.text(start + cell_len(label[:at]), y, spot.glyph, mark)
    return y, range(start, start + length)


def _draw_latency(canvas: Canvas, line: Line, pan: tuple[int, int], chosen: str | None) -> None:
    """On the line, nearer to the other end, where there is room; else not at all."""
    if line.latency_ms is None:
        return
    text = latency(line.latency_ms)
    cells = [(x - pan[0], y - pan[1]) for x, y in line.cells]
    if line.ends[1] == chosen:
        cells.reverse()
    (from_x, from_y), (to_x, to_y) = cells[-2], cells[-1]
    if abs(to_x - from_x) < len(text) + 8:
        return
    for part in (0.62, 0.7, 0.54, 0.78, 0.46):
        x = round(from_x + (to_x - from_x) * part) - (len(text) + 2) // 2
        y = round(from_y + (to_y - from_y) * part)
        if canvas.is_free(x - 1, y, len(text) + 4):
            canvas.text(x, y, f" {text} ", line.style)
            return


def clients_of(condensed: Condensed, nodes: Iterable[str]) -> set[str]:
    """The clients that these nodes stand for."""
    return {client for node in nodes for client in condensed.members.get(node, (node,))}
