"""A whole network as a picture: controllers, relays and clients, by which way each pair goes, how fast, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from shadowmesh.client_api.exports import write_new
from shadowmesh.client_api.offloop import in_thread
from shadowmesh.drawing.layout import LATENCIES
from shadowmesh.drawing.pictures import ENDS, picture
from shadowmesh.model.api import Permission
from shadowmesh.model.connectivity import Topology, TopologyPair
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.text import escaped
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.notices import line
from shadowmesh_tui.console.state import Wants
from shadowmesh_tui.console.wholenetwork import GLYPHS, LEVELS, Condensed, around, clients_of, matching
from shadowmesh_tui.notices import Notice
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.screens.console.base import CONSOLE_BINDINGS, FilteredScreen, Keys
from shadowmesh_tui.screens.console.clientwindow import ClientWindow
from shadowmesh_tui.screens.console.filewindow import FileWindow, file_name
from shadowmesh_tui.text import latency, shorten, volume
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.lines import Lines
from shadowmesh_tui.widgets.networkpicture import NetworkPicture
from shadowmesh_tui.widgets.notice import NoticePane

_CELLS = 40  # of a name in a sentence


Part = Sequence[tuple[str, str]]  # words, each with the name of a style


def fitted(parts: Sequence[Part], width: int, gap: int, styles: Palette) -> Text:
    """As many of the parts as there is room for, the dearest first; the first is always there."""
    made = Text(no_wrap=True, overflow="ellipsis")
    for part in parts:
        piece = Text().join(Text(words, style=styles[style]) for words, style in part)
        if piece and (not made or made.cell_len + gap + piece.cell_len <= width):
            made.append(" " * gap if made else "").append_text(piece)
    return made


def legend(width: int, styles: Palette) -> Text:
    """What lines, marks and colours mean."""
    first, *others = LATENCIES
    colours = [f"{first} ", *(f"{words.removesuffix(' ms')} " for words in others)]
    parts: list[Part] = [
        [("⠤⠤⠤⠤", "label"), (" direct", "muted")],
        [("⠤⠤ ⠤⠤", "label"), (" relayed", "muted")],
        list(zip(colours, LEVELS, strict=False)),
        [("⣤⣤⣤⣤", "label"), (" much traffic", "muted")],
        [("⠤⠤⠤ ⠤⠤⠤", "label"), (" both", "muted")],
        [(GLYPHS["relay"], "node"), (" relay", "muted")],
        [(GLYPHS["controller"], "me"), (" controller", "muted")],
        [(GLYPHS["group"], "latency 1"), (" several", "muted")],
        [(GLYPHS["offline"], "muted"), (" offline", "muted")],
    ]
    return fitted(parts, width, 2, styles)


def counted(bundles: tuple[int, int, int]) -> str:
    """`3 direct, 1 by relays`."""
    words = zip(bundles, ("direct", "by relays", "each its way"), strict=True)
    return ", ".join(f"{count:,} {word}" for count, word in words if count) or "none in use"


def moved(pair: TopologyPair) -> int:
    """Bytes of a day, as the side that says more has them."""
    return max(((view.rx_bytes or 0) + (view.tx_bytes or 0) for view in pair.views), default=0)


class NetworkTopologyScreen(FilteredScreen):
    NAME = "topology"
    LIST = "topology"
    PLACEHOLDER = "words that name, address, path or relay contain; Enter keeps, Esc clears"
    KEYS: ClassVar[Keys] = (
        ("↑ ↓ ← →", "choose what stands that way"),
        ("j k", "one client after another, round the circle"),
        ("Enter", "all about a client; what stands together, apart"),
        ("f", "only this client, or group, and whom it is connected with; again: all"),
        ("/", "look for a client; j and k then go through those that were found"),
        ("+ -  0", "zoom (or the wheel), the whole again"),
        ("[ ]  PgUp PgDn", "move the picture (or drag it, or Shift and arrows)"),
        ("e", "draw it into a file: .svg, .png or .dot"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Find", key_display="/"),
        Binding("f", "focus_on", "Focus"),
        Binding("e,w", "export", "Draw", key_display="e"),
        *CONSOLE_BINDINGS,
    ]
    DEFAULT_CSS = """
    NetworkTopologyScreen #about, NetworkTopologyScreen #chosen, NetworkTopologyScreen #legend { height: 1; padding: 0 1; }
    """

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._picture, self._nobody = NetworkPicture(), NoticePane()
        self._about, self._chosen, self._legend = Lines(id="about"), Lines(id="chosen"), Lines(id="legend")
        self._focused_on: tuple[str, frozenset[str]] | None = None  # a network, and clients of it
        self._made: tuple[tuple[object, ...], Topology | None] = ((), None)

    def body(self) -> ComposeResult:
        yield self._about
        yield self._nobody
        yield self._picture
        yield self.filter
        yield self._chosen
        yield self._legend

    def focus_body(self) -> None:
        self._picture.focus()

    # what is shown

    @property
    def _whole(self) -> Topology | None:
        network = self.console.network
        return self.console.topologies.get(network.network_id) if network is not None else None

    @property
    def _shown(self) -> Topology | None:
        """Around what it is focused on; the same until something changes."""
        whole, focused = self._whole, self._focused_on
        if whole is None or focused is None:
            return whole
        ids = {client.client_id for client in whole.clients} & focused[1]
        if focused[0] != whole.network_id or not ids:
            self._focused_on = None
            return whole
        mark = (id(whole), focused)
        if mark != self._made[0]:
            self._made = mark, around(whole, ids)
        return self._made[1]

    def network_chosen(self) -> None:
        self._focused_on = None
        network = self.console.network
        if network is not None:
            self.desk.want(Wants(topologies={network.network_id}))
        super().network_chosen()

    def show_body(self, desk: Desk) -> None:
        topology = self._shown
        nobody = self._instead_of_picture(topology)
        self._nobody.display = nobody is not None
        for widget in (self._picture, self._chosen, self._legend):
            widget.display = nobody is None
        if nobody is not None:
            self._nobody.show(nobody, self.palette)
        elif topology is not None:
            needle = desk.needle(self.LIST)
            matches = matching(topology, needle)
            self._picture.set_class(desk.console.failure is not None, "-stale")
            apart = matches if needle else self._focused_on[1] if self._focused_on is not None else ()
            self._picture.show(topology, apart, self.palette, searched=bool(needle))
            self._choose_first(topology, matches)
            self._legend.put(legend(self.size.width - 2, self.palette))
        self._tell()
        self.show_filter(desk)

    def _instead_of_picture(self, topology: Topology | None) -> Notice | None:
        network = self.console.network
        if network is None:
            return None
        if topology is None:
            return Notice(f"Reading the topology of {network.name} …", "")
        if not topology.clients:
            return Notice(f"Nobody is in {network.name} yet.", "")
        return None

    def _choose_first(self, topology: Topology, matches: set[str]) -> None:
        """One that was looked for, if what is chosen isn't."""
        condensed = self._picture.condensed
        if not matches or condensed is None:
            return
        nodes = {condensed.node_of(client) for client in matches}
        if self._picture.chosen not in nodes:
            first = next(c.client_id for c in topology.clients if c.client_id in matches)
            self._picture.choose(condensed.node_of(first))

    def _tell(self) -> None:
        topology, whole = self._shown, self._whole
        if topology is None or whole is None:
            self._about.put(Text())
            return
        self._about.put(self._about_line(topology, whole))
        condensed = self._picture.condensed
        if condensed is not None:
            self._chosen.put(self._chosen_line(topology, condensed))

    def _about_line(self, topology: Topology, whole: Topology) -> Text:
        online, needle = sum(client.online for client in topology.clients), self.desk.needle(self.LIST)
        parts: list[Part] = [[(shorten(whole.name, min(_CELLS, self.size.width // 3)), "title")]]
        if needle:
            count = len(matching(topology, needle))
            parts.append([(f"{count:,} found" if count else "nobody is found", "warning")])
        if self._focused_on is not None:
            parts.append([(f"focus: {self._focus_name(whole)} (f: all)", "warning")])
        parts.append([(f"{online:,} of {len(topology.clients):,} online", "label")])
        if not self.console.may(Permission.LOGS_VIEW, whole.network_id):
            parts.append([("your role isn't told who is connected", "muted")])
        elif whole.reports == "off":
            parts.append([("nobody tells of connections (reports: off)", "muted")])
        else:
            kinds = [pair.connection_type for pair in topology.pairs]
            sums = (kinds.count("p2p"), kinds.count("relay"), len(kinds) - kinds.count("p2p") - kinds.count("relay"))
            parts.append([(counted(sums) if self.size.width >= 70 else f"{len(kinds):,} pairs", "label")])
        if not whole.complete:
            parts.append([("there are more pairs", "warning")])
        if self._picture.zoom > 1:
            parts.append([(f"×{self._picture.zoom:g}", "muted")])
        drawn = self._picture.drawn
        if drawn is not None and drawn.shown < drawn.all:
            parts.append([(f"{drawn.shown} of {drawn.all:,} lines, the busiest", "muted")])
        return fitted(parts, self.size.width - 2, 2, self.palette)

    def _focus_name(self, whole: Topology) -> str:
        ids = self._focused_on[1] if self._focused_on is not None else frozenset()
        names = [client.name for client in whole.clients if client.client_id in ids]
        return shorten(names[0], 24) if len(names) == 1 else f"{len(names)} clients"

    def _chosen_line(self, topology: Topology, condensed: Condensed) -> Text:
        """What is chosen, in one line."""
        node, width = self._picture.chosen, self.size.width - 2
        if node is None:
            return Text("↑ ↓ ← → choose", style=self.palette["muted"])
        clients = [c for c in topology.clients if c.client_id in clients_of(condensed, [node])]
        relay = next((r for r in topology.relays if r.relay_id == node), None)
        parts: list[Part]
        if relay is not None:
            homes = sum(c.relay == relay.name for c in topology.clients)
            parts = [[(f"relay {shorten(relay.name, _CELLS)}", "title")], [("online" if relay.online else "away", "label")],
                     [(f"home of {homes:,} clients", "label")], [(relay.region, "muted")]]  # fmt: skip
            return fitted(parts, width, 2, self.palette)
        if not clients:
            return fitted([[("controller", "title")], [(node, "label")]], width, 2, self.palette)
        if len(clients) == 1:
            client = clients[0]
            parts = [[(shorten(client.name, min(_CELLS, width // 3)), "title")], [(client.ip, "label")]]
            parts.append([("online" if client.online else "offline", "label")])
            beside = f"home relay {client.relay}" if client.relay is not None else ""
        else:
            online = sum(client.online for client in clients)
            parts = [[(f"{len(clients)} clients", "title")], [(f"{online} online", "label")]]
            beside = f"{shorten(clients[0].name, 20)} … {shorten(clients[-1].name, 20)}"
        sums = [0, 0, 0]
        for counts in (condensed.inside.get(node), *(n for ends, n in condensed.bundles.items() if node in ends)):
            sums = [a + b for a, b in zip(sums, counts or (0, 0, 0), strict=True)]
        parts.append([(counted((sums[0], sums[1], sums[2])), "label")])
        pairs = [pair for pair in condensed.topology.pairs if node in pair.client_ids]
        known = [pair.latency_ms for pair in pairs if pair.latency_ms is not None]
        if known:
            span = latency(min(known)) if len(known) == 1 else f"{latency(min(known))} to {latency(max(known))}"
            parts.append([(span, "label")])
        bytes_moved = sum(map(moved, pairs))
        parts += [[(f"{volume(bytes_moved)} a day" if bytes_moved else "", "muted")], [(beside, "muted")]]
        return fitted(parts, width, 2, self.palette)

    def on_network_picture_picked(self, _message: NetworkPicture.Picked) -> None:
        self._tell()
        self.refresh_bindings()

    def on_network_picture_zoomed(self, _message: NetworkPicture.Zoomed) -> None:
        self._tell()

    # what is done

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.view.desk is not None and action == "export":
            return self._shown is not None
        if self.view.desk is not None and action == "focus_on":
            return self._focused_on is not None or bool(self._clients_chosen)
        if action == "clear_filter" and self._focused_on is not None:
            return True
        return super().check_action(action, parameters)

    @property
    def _clients_chosen(self) -> set[str]:
        topology, condensed, node = self._shown, self._picture.condensed, self._picture.chosen
        if topology is None or condensed is None or node is None:
            return set()
        known = {client.client_id for client in topology.clients}
        return clients_of(condensed, [node]) & known

    def action_focus_on(self) -> None:
        clients = self._clients_chosen
        network = self.console.network
        if self._focused_on is not None:
            self._focused_on = None
        elif clients and network is not None:
            self._focused_on = network.network_id, frozenset(clients)
        self.show()
        self.refresh_bindings()

    def action_clear_filter(self) -> None:
        """What was looked for first, then the focus."""
        if self.filter.has_class("-shown"):
            super().action_clear_filter()
        elif self._focused_on is not None:
            self.action_focus_on()

    def on_network_picture_opened(self, _message: NetworkPicture.Opened) -> None:
        clients, network = self._clients_chosen, self.console.network
        if network is None or not clients:
            return
        if len(clients) == 1:
            (client,) = clients
            self.open(ClientWindow(self.view, network.network_id, client))
        else:
            self._focused_on = network.network_id, frozenset(clients)
            self.show()
            self.refresh_bindings()

    def action_export(self) -> None:
        topology = self._shown
        if topology is None:
            return
        words = "The end of the name says how it is drawn: .svg, .png or .dot. What is written is for your user alone."
        name = f"{file_name(topology.name)}.svg"
        self.open(FileWindow("draw", name, words, ENDS), partial(self._named, topology))

    def _named(self, topology: Topology, chosen: tuple[Path, bool] | None) -> None:
        if chosen is not None:
            self._export(topology, *chosen)

    @work(group="export")
    async def _export(self, topology: Topology, path: Path, replace: bool) -> None:
        def write() -> tuple[int, int]:
            data, nodes, links = picture(topology, path.suffix.lower())
            write_new(path, data, replace=replace)
            return nodes, links

        try:
            nodes, links = await in_thread(write)
        except ShadowMeshError as e:
            self.notify(line(e), title="Not drawn", severity="error", markup=False, timeout=12)
        else:
            self.notify(f"{escaped(str(path))}: {nodes:,} nodes, {links:,} links.", markup=False)
