"""The app: follows the daemon, keeps the mesh's state, has the screens show it, and does what they ask for. Its other hat, a
controller, is `controllerhat`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen

from shadowmesh.client_api.local import SOCKET_NAME
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.places import DEFAULT_STATE_DIR
from shadowmesh.model.status import NetworkStatus
from shadowmesh_tui import ascii as ascii_only
from shadowmesh_tui.console.follower import Pace
from shadowmesh_tui.console.kept import kept_path
from shadowmesh_tui.controllerhat import ControllerHat
from shadowmesh_tui.daemon import Daemon
from shadowmesh_tui.help import help_text
from shadowmesh_tui.palette import palette
from shadowmesh_tui.screens.base import LiveScreen, MeshScreen
from shadowmesh_tui.screens.dashboard import DashboardScreen
from shadowmesh_tui.screens.dialogs import ConfirmScreen, PeerScreen, PingScreen, ReadingScreen
from shadowmesh_tui.screens.topology import TopologyScreen
from shadowmesh_tui.state import Mesh, PeerKey
from shadowmesh_tui.view import ChoiceChanged, DetailsAsked, PingAsked, SwitchAsked, Verb, WarningsAsked

_WHY_EVERY_S = 5.0
_WHY_SETTLES_S = 0.15  # while the cursor runs down the table, nobody needs an answer
_QUESTIONS: dict[Verb, str] = {
    "up": "Switch on {} on this machine?",
    "down": "Switch off {} on this machine? Connections through it break, and it stays off until it is switched on.",
}


def system_now() -> Now:
    return Now(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class ShadowMeshApp(ControllerHat):
    """`refresh_s` is the least time between two redraws, whatever the daemon sends; `retry_s`, between two calls.

    `plain`: the terminal shows ASCII only.
    """

    TITLE = "ShadowMesh"
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
        plain: bool = False,
        data_dir: Path | None = None,
        kept_in: Path | None = None,
        pace: Pace | None = None,
    ) -> None:
        # Without colour means without any: not even the greys that Textual puts in their place.
        colours = True if "NO_COLOR" in os.environ else None
        super().__init__(clock, data_dir=data_dir, kept_in=kept_in, pace=pace, ansi_color=colours)
        self._state_dir = state_dir
        self._daemon = Daemon(state_dir, silence_s=silence_s)
        self._retry_s, self._refresh_s = retry_s, refresh_s
        self._ascii = ascii_only.AsciiFilter(enabled=plain)
        self._redraw: asyncio.TimerHandle | None = None
        self._next_draw = 0.0
        self._why_mark: tuple[object, ...] | None = None
        self._several = False

    @property
    def mesh(self) -> Mesh:
        return self.view.mesh

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), *([self._ascii] if self._ascii.enabled else [])]

    def on_mount(self) -> None:
        self._theme_changed()
        self.theme_changed_signal.subscribe(self, lambda _theme: self._theme_changed())
        self.add_mode("dashboard", lambda: DashboardScreen(self.view))
        self.add_mode("topology", lambda: TopologyScreen(self.view))
        self.add_console_modes()
        answers, meant = (self._state_dir / SOCKET_NAME).exists(), self._state_dir != DEFAULT_STATE_DIR
        first = self.first_context(machine_answers=answers, machine_meant=meant)
        self.switch_mode("dashboard")
        if first is not None:
            self.look_at(first)
        self._follow()

    def on_unmount(self) -> None:
        if self._redraw is not None:
            self._redraw.cancel()
        self.end_console()

    def _theme_changed(self) -> None:
        self.view.styles = palette(self.theme_variables)
        self.changed()

    # following the daemon

    @work(group="follow")
    async def _follow(self) -> None:
        while True:
            try:
                async for status in self._daemon.watch():
                    self.mesh.observe(status, self.clock())
                    self.changed()
                    self._keep_why_fresh()
            except ShadowMeshError as e:
                if self.mesh.lose(e.what, e.remedy, self.clock()):
                    self.changed()
            await asyncio.sleep(self._retry_s)

    def changed(self) -> None:
        """Has the screens show the mesh anew, soon; many calls in a short time become one."""
        if self._redraw is None:
            wait = max(0.0, self._next_draw - time.monotonic())
            if wait:  # not by set_timer: a timer of Textual's that is late before it sleeps never fires
                self._redraw = asyncio.get_running_loop().call_later(wait, self.call_later, self._show)
            else:
                self._show()

    @property
    def is_redraw_due(self) -> bool:
        """Whether something changed that isn't on the screen yet."""
        return self._redraw is not None

    def _show(self) -> None:
        self._redraw, started = None, time.monotonic()
        if not self.is_running or not self.screen_stack:
            return  # it hasn't begun, or is ending: there is no screen
        for screen in self.screen_stack:
            if isinstance(screen, LiveScreen):
                screen.show()
        ended = time.monotonic()
        # A crowd of peers takes long to draw: keys come first, so at most a quarter of the time goes to drawing.
        self._next_draw = started + max(self._refresh_s, 4 * (ended - started))
        several = len(self.mesh.networks) > 1
        if several != self._several:  # the footer is made anew, which is dear, so only when its keys change
            self._several = several
            self.screen.refresh_bindings()

    def _keep_why_fresh(self) -> None:
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

    # what the screens ask for

    def on_choice_changed(self, _message: ChoiceChanged) -> None:
        self._keep_why_fresh()
        self.changed()

    def on_details_asked(self, message: DetailsAsked) -> None:
        self.push_screen(PeerScreen(self.view, message.key))

    def on_ping_asked(self, message: PingAsked) -> None:
        row = self.mesh.row(message.key)
        if row is None or isinstance(self.screen, PingScreen):
            return  # it left just now, or the key was pressed twice
        ping = partial(self._daemon.ping, row.peer.client_id or row.peer.ip)
        self.push_screen(PingScreen(row.peer, ping, self.view.styles))

    def on_switch_asked(self, message: SwitchAsked) -> None:
        """Asks, then switches the chosen network."""
        network = self.mesh.network
        if network is None:
            self.notify("There is no network to switch.", severity="warning")
            return
        verb = message.verb

        def answered(yes: bool | None) -> None:
            if yes:
                self._switch(verb, network)

        self.push_screen(ConfirmScreen(_QUESTIONS[verb].format(network.name)), answered)

    @work(group="switch")
    async def _switch(self, verb: Verb, network: NetworkStatus) -> None:
        try:
            await self._daemon.switch(verb, network.network_id)
        except ShadowMeshError as e:
            self.notify(str(e), title=f"{network.name}: not switched {verb}", severity="error", markup=False)
        else:
            self.notify(f"{network.name} is {verb}.", markup=False)

    def on_warnings_asked(self, _message: WarningsAsked) -> None:
        self.action_warnings()

    # what any screen can do

    def action_warnings(self) -> None:
        warnings = self.mesh.status.warnings if self.mesh.status else ()
        words = "\n\n".join(warnings) or "The daemon has no warnings."
        self.push_screen(ReadingScreen("warnings", Text(words)))

    def action_help(self) -> None:
        if self.action_console_help():
            return
        self.push_screen(ReadingScreen("help", help_text(self.view.styles)))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        yield from self.console_commands(screen)
        if self.at_console:
            return
        yield SystemCommand("Dashboard", "Networks and their peers", lambda: self.switch_mode("dashboard"))
        yield SystemCommand("Topology", "The network as a picture", lambda: self.switch_mode("topology"))
        yield SystemCommand("Warnings", "What the daemon warns of", self.action_warnings)
        if not isinstance(screen, MeshScreen):
            return
        yield SystemCommand("Ping", "Ping the chosen peer", screen.action_ping)
        yield SystemCommand("Details", "All about the chosen peer", screen.action_details)
        yield SystemCommand("Network up", "Switch the chosen network on", partial(screen.action_switch, "up"))
        yield SystemCommand("Network down", "Switch the chosen network off", partial(screen.action_switch, "down"))
        for network in self.mesh.networks:
            choose = partial(screen.choose_network, network.network_id)
            yield SystemCommand(f"Go to {network.name}", f"{network.state}, {network.ip or 'no address'}", choose)


def run(state_dir: Path, *, color: bool = True, data_dir: Path | None = None) -> None:
    """Runs until the person quits. `state_dir` is the daemon's, `data_dir` that of a controller of this host that is meant. Raises ShadowMeshError(no_terminal) where there is none."""
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)  # Textual draws on the last
    if not all(s is not None and s.isatty() for s in streams) or os.environ.get("TERM") in (None, "", "dumb"):
        raise ShadowMeshError(
            "no_terminal",
            "the terminal interface needs a terminal to read from and to draw on",
            "start it in one (`ssh -t`, `docker run -it`), or use `shadowmesh status --watch`",
            kind=Kind.USAGE,
        )
    if not color:
        os.environ["NO_COLOR"] = "1"
    ShadowMeshApp(state_dir, plain=ascii_only.wanted(os.environ), data_dir=data_dir, kept_in=kept_path()).run()
