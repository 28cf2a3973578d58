"""What the main screens share: they show the mesh whenever it changed, and act on what is chosen in it."""

from __future__ import annotations

from textual import events
from textual.binding import Binding, BindingType
from textual.screen import Screen

from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Mesh, PeerKey
from shadowmesh_tui.view import ChoiceChanged, DetailsAsked, PingAsked, SwitchAsked, Verb, View, WarningsAsked
from shadowmesh_tui.widgets.bars import StatusLine
from shadowmesh_tui.widgets.networks import NetworkList

COMMON_BINDINGS: list[BindingType] = [
    Binding("p", "ping", "Ping"),
    Binding("n", "network(1)", "Network"),
    Binding("N", "network(-1)", "Previous network", show=False),
    Binding("u", "switch('up')", "Up"),
    Binding("D", "switch('down')", "Down"),
    Binding("w", "app.warnings", "Warnings", show=False),
    Binding("question_mark", "app.help", "Help"),
    Binding("q", "app.quit", "Quit"),
]


class LiveScreen(Screen[None]):
    """A screen of the mesh as it is now: the app calls `show` whenever that changed.

    Subclasses hold the widgets they show things with, rather than look for them: what comes late, when the screen is on
    its way out and its widgets are gone from it already, then changes what nobody sees.
    """

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view

    @property
    def mesh(self) -> Mesh:
        return self.view.mesh

    @property
    def palette(self) -> Palette:
        return self.view.styles

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self.show)

    def on_resize(self, _event: events.Resize) -> None:
        self.call_after_refresh(self.show)

    def show(self) -> None:
        """Shows the mesh as it is now."""
        raise NotImplementedError


class MeshScreen(LiveScreen):
    """A main screen. Subclasses say which peer is chosen on them."""

    def peer_at_cursor(self) -> PeerKey | None:
        """The peer that a key acts on: the one that is marked on the screen at this moment."""
        raise NotImplementedError

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "network":
            return len(self.mesh.networks) > 1
        return True

    def action_ping(self) -> None:
        key = self.peer_at_cursor()
        if key is None:
            self.notify("No peer is chosen.", severity="warning")
        else:
            self.post_message(PingAsked(key))

    def action_details(self) -> None:
        key = self.peer_at_cursor()
        if key is not None:
            self.post_message(DetailsAsked(key))

    def action_switch(self, verb: Verb) -> None:
        self.post_message(SwitchAsked(verb))

    def action_network(self, step: int) -> None:
        self.mesh.step_network(step)
        self.post_message(ChoiceChanged())

    def on_network_list_chosen(self, message: NetworkList.Chosen) -> None:
        self.choose_network(message.network_id)

    def choose_network(self, network_id: str) -> None:
        self.mesh.choose_network(network_id)
        self.post_message(ChoiceChanged())

    def on_status_line_clicked(self, _message: StatusLine.Clicked) -> None:
        self.post_message(WarningsAsked())
