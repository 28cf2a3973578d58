"""The app: follows the daemon, keeps the mesh's state, and carries out what the person asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.signal import Signal
from textual.timer import Timer

from shadowmesh.model.clock import Now
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.daemon import Daemon
from shadowmesh_tui.help import help_text
from shadowmesh_tui.palette import Palette, palette
from shadowmesh_tui.screens.dashboard import DashboardScreen
from shadowmesh_tui.screens.dialogs import ConfirmScreen, PeerScreen, PingScreen, ReadingScreen
from shadowmesh_tui.screens.topology import TopologyScreen
from shadowmesh_tui.state import Mesh, PeerKey
from shadowmesh_tui.text import printable

_WHY_EVERY_S = 5.0
_WHY_SETTLES_S = 0.15  # while the cursor runs down the table, nobody needs an answer
_QUESTIONS = {
    "up": "Switch {} on on this machine?",
    "down": "Switch {} off on this machine? Connections through it break, and it stays off until it is switched on.",
}


def system_now() -> Now:
    return Now(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class ShadowMeshApp(App[None]):
    """`refresh_s` is the least time between two redraws, whatever the daemon sends; `retry_s`, between two calls."""

    TITLE = "ShadowMesh"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[None]]]] = {
        "dashboard": DashboardScreen,
        "topology": TopologyScreen,
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "switch_mode('dashboard')", "Dashboard", show=False),
        Binding("t", "switch_mode('topology')", "Topology", show=False),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(
        self,
        state_dir: Path,
        *,
        clock: Callable[[], Now] = system_now,
        retry_s: float = 1.0,
        silence_s: float = 10.0,
        refresh_s: float = 0.1,
    ) -> None:
        super().__init__()
        self.mesh = Mesh()
        self.mesh_changed: Signal[Mesh] = Signal(self, "mesh changed")
        self._daemon = Daemon(state_dir, silence_s=silence_s)
        self._clock, self._retry_s, self._refresh_s = clock, retry_s, refresh_s
        self._redraw: Timer | None = None
        self._next_draw = 0.0
        self._why_mark: tuple[object, ...] | None = None
        self._palette: Palette | None = None
        self._several = False

    @property
    def palette(self) -> Palette:
        if self._palette is None:
            self._palette = palette(self.theme_variables)
        return self._palette

    def on_mount(self) -> None:
        self.theme_changed_signal.subscribe(self, lambda _theme: self._theme_changed())
        self.switch_mode("dashboard")
        self._follow()

    def _theme_changed(self) -> None:
        self._palette = None
        self.changed()

    # following the daemon

    @work(group="follow")
    async def _follow(self) -> None:
        while True:
            try:
                async for status in self._daemon.watch():
                    self.mesh.observe(status, self._clock())
                    self.changed()
                    self.keep_why_fresh()
            except ShadowMeshError as e:
                if self.mesh.lose(e.what, e.remedy, self._clock()):
                    self.changed()
            await asyncio.sleep(self._retry_s)

    def changed(self) -> None:
        """Has the screens show the mesh anew, soon; many calls in a short time become one."""
        if self._redraw is None:
            wait = max(0.0, self._next_draw - time.monotonic())
            self._redraw = self.set_timer(wait, self._publish) if wait else None
            if not wait:
                self._publish()

    @property
    def is_redraw_due(self) -> bool:
        """Whether something changed that isn't on the screen yet."""
        return self._redraw is not None

    def _publish(self) -> None:
        self._redraw, started = None, time.monotonic()
        self.mesh_changed.publish(self.mesh)
        ended = time.monotonic()
        # A crowd of peers takes long to draw: keys come first, so at most a quarter of the time goes to drawing.
        self._next_draw = started + max(self._refresh_s, 4 * (ended - started))
        several = len(self.mesh.networks) > 1
        if several != self._several:  # the footer is made anew, which is dear, so only when its keys change
            self._several = several
            self.screen.refresh_bindings()

    def keep_why_fresh(self) -> None:
        """Asks why the chosen peer is where it is: when it is chosen, when its path changes, and every few seconds."""
        row, now = self.mesh.selected_row, self.mesh.now
        if row is None or now is None or self.mesh.trouble is not None:
            return
        mark = (row.key, row.peer.path, row.peer.reason, int(now.boot / _WHY_EVERY_S))
        if mark != self._why_mark:
            self._why_mark = mark
            self._ask_why(row.key, row.peer.client_id or row.peer.ip)

    @work(group="why", exclusive=True)
    async def _ask_why(self, key: PeerKey, peer: str) -> None:
        await asyncio.sleep(_WHY_SETTLES_S)
        try:
            self.mesh.whys[key] = await self._daemon.why(peer)
        except ShadowMeshError as e:
            self.mesh.whys[key] = str(e)
        self.changed()

    # actions

    def action_details(self) -> None:
        key = self.mesh.selected
        if key is not None:
            self.push_screen(PeerScreen(key))

    def action_ping(self) -> None:
        row = self.mesh.selected_row
        if row is None:
            self.notify("No peer is chosen.", severity="warning")
        elif not isinstance(self.screen, PingScreen):
            self.push_screen(PingScreen(self._daemon, row, self.palette))

    def action_switch_network(self, verb: str) -> None:
        """Asks, then switches the chosen network `up` or `down`."""
        network = self.mesh.network
        if network is None:
            self.notify("There is no network to switch.", severity="warning")
            return
        name = network.name

        def answered(yes: bool | None) -> None:
            if yes:
                self._switch(verb, name)

        self.push_screen(ConfirmScreen(_QUESTIONS[verb].format(printable(name))), answered)

    @work(group="switch")
    async def _switch(self, verb: str, network: str) -> None:
        try:
            await self._daemon.switch(verb, network)
        except ShadowMeshError as e:
            self.notify(str(e), title=f"{network}: not switched {verb}", severity="error", markup=False)
        else:
            self.notify(f"{network} is {verb}.", markup=False)

    def action_warnings(self) -> None:
        warnings = self.mesh.status.warnings if self.mesh.status else ()
        words = "\n\n".join(printable(w) for w in warnings) or "The daemon has no warnings."
        self.push_screen(ReadingScreen("warnings", Text(words)))

    def action_help(self) -> None:
        self.push_screen(ReadingScreen("help", help_text(self.palette)))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        yield SystemCommand("Dashboard", "Networks and their peers", lambda: self.switch_mode("dashboard"))
        yield SystemCommand("Topology", "The network as a picture", lambda: self.switch_mode("topology"))
        yield SystemCommand("Ping", "Ping the chosen peer", self.action_ping)
        yield SystemCommand("Details", "All about the chosen peer", self.action_details)
        yield SystemCommand("Network up", "Switch the chosen network on", lambda: self.action_switch_network("up"))
        yield SystemCommand("Network down", "Switch the chosen network off", lambda: self.action_switch_network("down"))
        yield SystemCommand("Warnings", "What the daemon warns of", self.action_warnings)


def run(state_dir: Path) -> None:
    """Runs until the person quits. `state_dir` is the daemon's."""
    ShadowMeshApp(state_dir).run()
