"""Where the nodes of a network stand on a canvas, and the lines between them. Pure.

This machine is in the middle. Peers stand in a column on either side, at the end of their line and with the label
outwards, so that no line runs through a label. Relays stand above and below the middle, and the peers reached
through them at the near end of the columns. Where there are more peers than rows, the rest is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from shadowmesh.model.status import PathKind
from shadowmesh_tui.canvas import Canvas, Dash
from shadowmesh_tui.state import PeerKey, PeerRow
from shadowmesh_tui.text import PATH_GLYPH, latency, shorten

Side = Literal["left", "right"]
RELAYED = Dash(4, 4)
_MAX_LABEL = 28
_INNER = 14  # cells kept for the lines on either side of the middle
RELAY_GLYPH, OFFLINE_GLYPH, THIS_MACHINE = "◈", "○", "◉ this machine"


@dataclass(frozen=True, slots=True)
class Leaf:
    """What stands at the end of a line: a peer, or (without a key) a number of peers that found no room."""

    label: str
    path: PathKind
    key: PeerKey | None = None
    relay: str | None = None
    latency_ms: float | None = None
    offline: bool = False
    idle: bool = False

    @property
    def glyph(self) -> str:
        return OFFLINE_GLYPH if self.path == "none" else PATH_GLYPH[self.path]


@dataclass(frozen=True, slots=True)
class Placed:
    """A leaf and the cell of its mark."""

    leaf: Leaf
    x: int
    y: int
    side: Side


@dataclass(frozen=True, slots=True)
class RelaySpot:
    name: str
    x: int
    y: int
    is_home: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """A laid out network. `leaves`: the left column from top to bottom, then the right one."""

    width: int
    height: int
    centre: tuple[int, int]
    ip: str
    relays: tuple[RelaySpot, ...]
    leaves: tuple[Placed, ...]

    def step(self, key: PeerKey | None, step: int) -> PeerKey | None:
        """The peer that comes `step` places after `key` in reading order, round and round."""
        keys = [p.leaf.key for p in self.leaves if p.leaf.key is not None]
        if not keys:
            return None
        if key not in keys:
            return keys[0]
        return keys[(keys.index(key) + step) % len(keys)]

    def end(self, *, last: bool) -> PeerKey | None:
        """The first peer in reading order, or the last."""
        keys = [p.leaf.key for p in self.leaves if p.leaf.key is not None]
        return keys[-1 if last else 0] if keys else None

    def across(self, key: PeerKey | None) -> PeerKey | None:
        """The peer nearest on the other side."""
        here = next((p for p in self.leaves if p.leaf.key == key), None)
        others = [p for p in self.leaves if p.leaf.key is not None and here is not None and p.side != here.side]
        if here is None or not others:
            return key
        return min(others, key=lambda p: abs(p.y - here.y)).leaf.key

    def at(self, x: int, y: int) -> PeerKey | None:
        """The peer whose mark or label is at this cell."""
        for placed in self.leaves:
            start, length = _label_span(placed)
            if placed.y == y and start <= x < start + length:
                return placed.leaf.key
        return None


def choose_leaves(rows: Sequence[PeerRow], capacity: int, selected: PeerKey | None) -> list[Leaf]:
    """The peers to show, at most `capacity`, in the given order; others become a count for each kind of path.

    The selected peer is always among them; direct ones get most of the room, those without a path what is left.
    """
    kinds: dict[PathKind, list[PeerRow]] = {"direct": [], "relay": [], "none": []}
    for row in rows:
        kinds[row.peer.path].append(row)
    if len(rows) <= capacity:
        shares = {kind: len(peers) for kind, peers in kinds.items()}
    else:
        room = max(1, capacity - len(kinds) - 1)  # each kind may need a line for its count, the selected one its own
        relayed = min(len(kinds["relay"]), max(room // 3, room - len(kinds["direct"])))
        direct = min(len(kinds["direct"]), room - relayed)
        shares = {"direct": direct, "relay": relayed, "none": room - relayed - direct}
    leaves: list[Leaf] = []
    for kind, peers in kinds.items():
        shown = peers[: shares[kind]]
        hidden = next((r for r in peers[len(shown) :] if r.key == selected), None)
        if hidden is not None:
            shown = [*shown[:-1], hidden]
        leaves += [_leaf(row) for row in shown]
        rest = len(peers) - len(shown)
        if rest > 0:
            words = {"direct": "more direct", "relay": "more by relay", "none": "more without a path"}
            relay = peers[-1].peer.relay if kind == "relay" else None
            leaves.append(Leaf(f"{rest} {words[kind]}", kind, relay=relay))
    return leaves


def _leaf(row: PeerRow) -> Leaf:
    peer = row.peer
    return Leaf(
        label=peer.name,
        path=peer.path,
        key=row.key,
        relay=peer.relay if peer.path == "relay" else None,
        latency_ms=peer.latency_ms if peer.path != "none" else None,
        offline=peer.online is False,
        idle=peer.idle,
    )


def arrange(
    rows: Sequence[PeerRow], ip: str, home_relay: str | None, selected: PeerKey | None, width: int, height: int
) -> Picture:
    """Lays a network out on `width` × `height` cells."""
    leaves = choose_leaves(rows, 2 * height, selected)
    centre = (width // 2, (height - 1) // 2)
    longest = max((len(leaf.label) for leaf in leaves), default=0) + 2
    label_width = max(4, min(longest, _MAX_LABEL, width // 2 - _INNER))
    reach = max(4, min(width // 2 - 1 - label_width, 3 * height))
    names = sorted({leaf.relay for leaf in leaves if leaf.relay} | ({home_relay} if home_relay else set()))
    relays = _place_relays(names, home_relay, centre, reach, height)
    columns = _deal(leaves, {r.name: r for r in relays}, centre, height)
    placed = []
    for side in ("left", "right"):
        column = columns[side]
        for i, leaf in enumerate(column):
            y = int((i + 0.5) * height / len(column))
            bend = (y - centre[1]) / max(1, height / 2)
            offset = round(reach * math.sqrt(1 - 0.55 * min(1.0, bend * bend)))
            x = centre[0] + (offset if side == "right" else -offset)
            room = (width - x if side == "right" else x + 1) - 2
            fitted = replace(leaf, label=shorten(leaf.label, min(room, _MAX_LABEL)))
            placed.append(Placed(fitted, x, y, side))
    return Picture(width, height, centre, ip, relays, tuple(placed))


def _place_relays(
    names: Sequence[str], home: str | None, centre: tuple[int, int], reach: int, height: int
) -> tuple[RelaySpot, ...]:
    """Relays by turns below and above the middle, spread over the width that the lines have."""
    below, above = names[0::2], names[1::2]
    spots = []
    for group, sign in ((below, 1), (above, -1)):
        y = centre[1] + sign * max(2, round(height * 0.3))
        for i, name in enumerate(group):
            x = centre[0] + round((i - (len(group) - 1) / 2) * 1.3 * reach / max(1, len(group)))
            spots.append(RelaySpot(name, x, min(max(y, 0), height - 1), name == home))
    return tuple(spots)


def _deal(
    leaves: Sequence[Leaf], relays: dict[str, RelaySpot], centre: tuple[int, int], height: int
) -> dict[Side, list[Leaf]]:
    """Deals the leaves to the two columns, evenly, each near the relay it is reached through."""
    columns: dict[Side, list[Leaf]] = {"left": [], "right": []}

    def spot(leaf: Leaf) -> RelaySpot | None:
        return relays.get(leaf.relay) if leaf.relay else None

    def rank(leaf: Leaf) -> int:
        relay = spot(leaf)
        if relay is not None:
            return 3 if relay.y > centre[1] else 0
        return 1 if leaf.path == "direct" else 2

    for leaf in sorted(leaves, key=lambda item: 0 if item.relay else 1):
        relay = spot(leaf)
        side: Side = "right" if len(columns["right"]) <= len(columns["left"]) else "left"
        if relay is not None and relay.x != centre[0]:
            near: Side = "right" if relay.x > centre[0] else "left"
            if len(columns[near]) < min(height, math.ceil(len(leaves) / 2)):
                side = near
        columns[side].append(leaf)
    return {side: sorted(column, key=rank) for side, column in columns.items()}


def _label_span(placed: Placed) -> tuple[int, int]:
    length = len(placed.leaf.label) + 2
    return (placed.x if placed.side == "right" else placed.x - length + 1), length


def draw(picture: Picture, selected: PeerKey | None) -> Canvas:
    """The picture on a canvas. Styles: direct, relay, none, me, node, label, muted, selected, and `… strong`."""
    canvas = Canvas(picture.width, picture.height)
    relays = {relay.name: relay for relay in picture.relays}
    for relay in picture.relays:
        canvas.line(picture.centre, (relay.x, relay.y), "relay", RELAYED)
    sparse = len(picture.leaves) <= picture.height
    ordered = sorted(picture.leaves, key=lambda p: (p.leaf.path == "direct", p.leaf.key == selected))
    for placed in ordered:
        strong = " strong" if placed.leaf.key is not None and placed.leaf.key == selected else ""
        end = (placed.x, placed.y)
        if placed.leaf.path == "direct":
            canvas.line(picture.centre, end, f"direct{strong}", heavy=sparse)
        elif placed.leaf.path == "relay":
            by = relays.get(placed.leaf.relay or "")
            canvas.line((by.x, by.y) if by else picture.centre, end, f"relay{strong}", RELAYED)
    _draw_middle(canvas, picture)
    for relay in picture.relays:
        label = f" {RELAY_GLYPH} {relay.name}{' (home)' if relay.is_home else ''} "
        canvas.text(relay.x - len(label) // 2, relay.y, label, "node")
    for placed in picture.leaves:
        _draw_label(canvas, placed, placed.leaf.key is not None and placed.leaf.key == selected)
    for placed in ordered:
        _draw_latency(canvas, picture, placed, relays.get(placed.leaf.relay or ""))
    return canvas


def _draw_middle(canvas: Canvas, picture: Picture) -> None:
    x, y = picture.centre
    for i, line in enumerate((THIS_MACHINE, picture.ip)):
        canvas.text(x - (len(line) + 2) // 2, y + i, f" {line} ", "me")


def _draw_label(canvas: Canvas, placed: Placed, is_selected: bool) -> None:
    leaf = placed.leaf
    start, length = _label_span(placed)
    text_style = "muted" if leaf.path == "none" or leaf.key is None else "label"
    glyph_style, text_style = ("selected", "selected") if is_selected else (leaf.path, text_style)
    if placed.side == "right":
        canvas.text(start, placed.y, f"{leaf.glyph} ", glyph_style)
        canvas.text(start + 2, placed.y, leaf.label, text_style)
    else:
        canvas.text(start, placed.y, f"{leaf.label} ", text_style)
        canvas.text(start + length - 1, placed.y, leaf.glyph, glyph_style)


def _draw_latency(canvas: Canvas, picture: Picture, placed: Placed, relay: RelaySpot | None) -> None:
    """The round trip, on the line where there is room, else after the label, else not at all."""
    leaf = placed.leaf
    if leaf.latency_ms is None:
        return
    text = latency(leaf.latency_ms)
    from_x, from_y = (relay.x, relay.y) if relay else picture.centre
    far = abs(placed.x - from_x) >= len(text) + 8
    if far and len(picture.leaves) <= picture.height:  # else the lines stand too close to carry figures
        for part in (0.62, 0.7, 0.54, 0.78):
            x = round(from_x + (placed.x - from_x) * part) - (len(text) + 2) // 2
            y = round(from_y + (placed.y - from_y) * part)
            if canvas.is_free(x - 1, y, len(text) + 4):
                canvas.text(x, y, f" {text} ", leaf.path)
                return
    start, length = _label_span(placed)
    at = start + length + 1 if placed.side == "right" else start - len(text) - 1
    if canvas.is_free(at, placed.y, len(text)):
        canvas.text(at, placed.y, text, leaf.path)
