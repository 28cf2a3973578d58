"""All about one client, live: figures, its paths to others and why, what changed of them; rename, address, let in, remove."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.api import Client, Permission
from shadowmesh.model.connectivity import ConnectionLog, TopologyPair
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.notices import line
from shadowmesh_tui.console.state import Wants
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.screens.console.base import ConsoleWindow, Keys
from shadowmesh_tui.screens.console.clientacts import CUT_OFF, Doing, approving, denying, do_each, removing
from shadowmesh_tui.screens.console.textwindow import TextWindow
from shadowmesh_tui.screens.dialogs import SCROLLING, WINDOW, ConfirmScreen, Scrolls
from shadowmesh_tui.text import UNKNOWN, duration, latency, padded, shorten, volume
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.clientfacts import ago, client_facts, figures
from shadowmesh_tui.widgets.lines import Lines

_HISTORY = dt.timedelta(days=1)
_LINES = 100
_EVERY_S = 5.0
_PATH = {"p2p": ("● direct", "direct"), "relay": ("◌ relay", "relay"), "hybrid": ("◐ differs", "relay")}


class ClientWindow(Scrolls, ConsoleWindow[None]):
    KEYS: ClassVar[Keys] = (
        ("r", "rename it"),
        ("i", "give it another address"),
        ("a  D", "let in, reject (who waits for approval)"),
        ("x  X", "remove, from this network or from all"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss(None)", "Close"),
        Binding("r", "rename", "Rename"),
        Binding("i", "address", "Address"),
        Binding("a", "approve", "Approve"),
        Binding("D", "deny", "Reject"),
        Binding("x", "remove(False)", "Remove"),
        Binding("X", "remove(True)", "Remove everywhere"),
        *SCROLLING,
    ]
    DEFAULT_CSS = f"""
    ClientWindow {{ {WINDOW} }}
    ClientWindow > .window {{ width: 110; max-width: 100%; height: 34; }}
    ClientWindow VerticalScroll {{ height: 1fr; }}
    ClientWindow .keys {{ height: 1; }}
    ClientWindow Lines {{ margin-bottom: 1; }}
    """

    def __init__(self, view: View, network_id: str, client_id: str) -> None:
        super().__init__(view)
        self._ids = network_id, client_id
        self._facts, self._more, self._paths, self._history = Lines(), Lines(), Lines(), Lines()
        self._keys = Lines()
        self._keys.add_class("keys")
        self._scrolled = VerticalScroll(self._facts, self._more, self._paths, self._history)
        self._window = Vertical(self._scrolled, self._keys, classes="window")
        self._pairs: list[TopologyPair] | str | None = None
        self._log: list[ConnectionLog] | str | None = None
        self._names: dict[str, str] = {}
        self._last: Client | None = None

    def compose(self) -> ComposeResult:
        yield self._window

    def on_mount(self) -> None:
        self._read()
        self.set_interval(_EVERY_S, self._read)

    def scrolled(self) -> VerticalScroll:
        return self._scrolled

    @property
    def client(self) -> Client | None:
        """As it is now; None: it has gone."""
        return None if self.view.desk is None else self.console.client(*self._ids)

    # what is read for this window alone

    @work(group="read", exclusive=True)
    async def _read(self) -> None:
        network_id, client_id = self._ids
        if self.view.desk is None:
            return
        desk = self.desk

        def pairs(api: ControllerClient) -> tuple[list[TopologyPair], dict[str, str]]:
            found = api.topology(network_id, client_id)
            return found.pairs, {c.client_id: c.name for c in found.clients}

        def log(api: ControllerClient) -> list[ConnectionLog]:
            since = dt.datetime.fromtimestamp(desk.wall(), dt.UTC) - _HISTORY
            return list(api.log(network_id, client=client_id, since=since))[-_LINES:]

        try:
            self._pairs, self._names = await desk.call(pairs)
        except ShadowMeshError as e:
            self._pairs = line(e)
        if Permission.LOGS_VIEW in self._permissions():
            try:
                self._log = await desk.call(log)
            except ShadowMeshError as e:
                self._log = "it has gone" if e.kind is Kind.NOT_FOUND else line(e)
        else:
            self._log = "your role here doesn't read logs"
        self.show()

    def _permissions(self) -> list[Permission]:
        network = self.console.networks.get(self._ids[0])
        return [] if network is None else network.permissions

    # what is shown

    def show_desk(self, desk: Desk) -> None:
        client, styles = self.client or self._last, self.palette
        gone = self.client is None
        width = max(20, self._scrolled.size.width - 2)
        title = "client" if client is None else f"{shorten(client.name, 60)} in {shorten(client.network_name, 40)}"
        self._window.border_title = Content(f"{title} (gone)" if gone and client is not None else title)
        self._window.border_subtitle = "Esc closes"
        if client is None:
            self._facts.put(Text("It isn't there any more."))
            return
        self._last = client
        self._facts.put(client_facts(client, desk.console.series.get(client.client_id), desk.wall(), width, styles))
        self._more.put(figures(_more(client, desk.wall()), styles))
        self._paths.put(self._path_lines(styles))
        self._history.put(self._history_lines(styles))
        self._keys.put(self._offers(styles))
        self.refresh_bindings()

    def _path_lines(self, styles: Palette) -> Text:
        head = Text().append("paths", style=styles["title"])
        if not isinstance(self._pairs, list):
            return head.append(f"\n  {self._pairs or 'reading …'}", style=styles["muted"])
        if not self._pairs:
            return head.append("\n  none in use that are told of", style=styles["muted"])
        me = self._ids[1]
        for pair in self._pairs:
            other = next((c for c in pair.client_ids if c != me), me)
            mark, style = _PATH.get(pair.connection_type, (pair.connection_type, "label"))
            head.append(f"\n  {mark:<10}", style=styles[style])
            head.append(f"{padded(self._names.get(other, other), 24)}  ", style=styles["label"])
            head.append(f"{latency(pair.latency_ms):>8}  ", style=styles["label"])
            view = next((v for v in pair.views if v.client_id == me), pair.views[0] if pair.views else None)
            if view is not None:
                since = f"for {duration(max(0.0, self.desk.wall() - view.since.timestamp()))}"
                by = f" by {view.relay}" if view.relay else ""
                moved = (view.rx_bytes or 0) + (view.tx_bytes or 0)
                head.append(f"{view.reason}{by}, {since}", style=styles["muted"])
                head.append(f", {volume(moved)} a day" if moved else "", style=styles["muted"])
        return head

    def _history_lines(self, styles: Palette) -> Text:
        head = Text().append("history of a day, the newest first", style=styles["title"])
        if not isinstance(self._log, list):
            return head.append(f"\n  {self._log or 'reading …'}", style=styles["muted"])
        if not self._log:
            return head.append("\n  nothing", style=styles["muted"])
        for entry in reversed(self._log):
            head.append(f"\n  {entry.timestamp.astimezone():%H:%M:%S}  ", style=styles["muted"])
            kind = {"upgrade_p2p": "good", "fallback_relay": "warning"}.get(entry.event_type, "label")
            head.append(f"{entry.event_type.replace('_', ' '):<16}", style=styles[kind])
            peer = shorten(entry.remote_peer_name or entry.remote_peer_id, 24)
            said = " ".join(str(v) for k, v in entry.detail.items() if k != "name" and v not in (None, "", []))
            head.append(
                " ".join(part for part in (peer, entry.reason or said.replace("_", " ")) if part), style=styles["label"]
            )
        return head

    def _offers(self, styles: Palette) -> Text:
        offers = [
            ("a", "let in", "approve"), ("D", "reject", "deny"), ("r", "rename", "rename"), ("i", "address", "address"),
            ("x", "remove", "remove"), ("X", "remove everywhere", "remove"),
        ]  # fmt: skip
        text = Text(no_wrap=True, overflow="ellipsis")
        for key, what, action in offers:
            if self.check_action(action, (False,)):
                text.append(f"{key} ", style=styles["me"]).append(f"{what}   ", style=styles["muted"])
        return text

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        client = self.client
        if action in ("approve", "deny"):
            return client is not None and client.state == "pending" and self._may(Permission.NETWORK_INVITE)
        if action in ("rename", "address"):
            return client is not None and self._may(Permission.NETWORK_CONFIGURE)
        if action == "remove":
            return client is not None and self.console.may_remove(client)
        return True

    def _may(self, needed: Permission) -> bool:
        return self.may(needed, self._ids[0])

    # what is done

    @property
    def _again(self) -> Wants:
        return Wants(networks={self._ids[0]}, clients={self._ids})

    def action_rename(self) -> None:
        client = self.client
        if client is not None:
            hint = "small letters, digits and dashes"
            self.open(TextWindow(f"New name of {shorten(client.name, 40)}", client.name, hint), self._renamed)

    def _renamed(self, name: str | None) -> None:
        if name:
            self._set({"name": name})

    def action_address(self) -> None:
        client, network = self.client, self.console.networks.get(self._ids[0])
        if client is not None and network is not None:
            window = TextWindow(f"New address of {shorten(client.name, 40)}", client.ip, f"of {network.subnet}")
            self.open(window, self._moved)

    def _moved(self, ip: str | None) -> None:
        if ip:
            self._set({"ip": ip})

    @work(group="act")
    async def _set(self, values: dict[str, str]) -> None:
        network_id, client_id = self._ids
        await self.act(
            lambda api: api.client_set(network_id, client_id, name=values.get("name"), ip=values.get("ip")),
            done=f"It is {', '.join(values.values())} now.",
            failed="Not changed",
            wants=self._again,
        )

    def action_approve(self) -> None:
        self._do(approving, "let in")

    def action_deny(self) -> None:
        self._asked("Reject {}? It is told so, and has to join again.", denying, "rejected")

    def action_remove(self, everywhere: bool) -> None:
        where = "from all networks" if everywhere else "from this network"
        self._asked(f"Remove {{}} {where}? {CUT_OFF}", removing(everywhere), "removed")

    def _asked(self, question: str, function: Doing, done: str) -> None:
        client = self.client

        def answered(yes: bool | None) -> None:
            if yes:
                self._do(function, done)

        if client is not None:
            self.open(ConfirmScreen(question.format(shorten(client.name, 40))), answered)

    @work(group="act")
    async def _do(self, function: Doing, done: str) -> None:
        client = self.client
        if client is not None:
            await do_each(self, [client], function, done)


def _more(client: Client, wall: float) -> list[tuple[str, str]]:
    endpoints = ", ".join(client.endpoints) or UNKNOWN
    return [
        ("WireGuard key", client.public_key),
        ("device", client.device or UNKNOWN),
        ("endpoints", endpoints),
        ("joined", f"{ago(client.created_at, wall)}, by invite {client.invite or UNKNOWN}"),
        ("owner", client.owner or UNKNOWN),
        ("key epoch", UNKNOWN if client.epoch is None else str(client.epoch)),
    ]
