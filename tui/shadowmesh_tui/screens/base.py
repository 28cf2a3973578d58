"""What the two main screens share: they show the mesh whenever it changed, and act on the chosen network."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual import events
from textual.binding import Binding, BindingType
from textual.screen import Screen

from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Mesh
from shadowmesh_tui.widgets.bars import StatusLine
from shadowmesh_tui.widgets.networks import NetworkList

if TYPE_CHECKING:
    from shadowmesh_tui.app import ShadowMeshApp


COMMON_BINDINGS: list[BindingType] = [
    Binding("p", "app.ping", "Ping"),
    Binding("n", "network(1)", "Network"),
    Binding("N", "network(-1)", "Previous network", show=False),
    Binding("u", "app.switch_network('up')", "Up"),
    Binding("D", "app.switch_network('down')", "Down"),
    Binding("w", "app.warnings", "Warnings", show=False),
    Binding("question_mark", "app.help", "Help"),
    Binding("q", "app.quit", "Quit"),
]


class MeshScreen(Screen[None]):
    """Subclasses implement `show`."""

    @property
    def owner(self) -> ShadowMeshApp:
        return cast("ShadowMeshApp", self.app)

    @property
    def mesh(self) -> Mesh:
        return self.owner.mesh

    @property
    def styles_by_name(self) -> Palette:
        return self.owner.palette

    def on_mount(self) -> None:
        self.owner.mesh_changed.subscribe(self, self._on_mesh_changed)

    def _on_mesh_changed(self, _mesh: Mesh) -> None:
        if self in self.app.screen_stack:
            self.show()

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self.show)

    def on_resize(self, _event: events.Resize) -> None:
        self.call_after_refresh(self.show)

    def show(self) -> None:
        raise NotImplementedError

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "network":
            return len(self.mesh.networks) > 1
        return True

    def action_network(self, step: int) -> None:
        self.mesh.step_network(step)
        self.network_changed()

    def network_changed(self) -> None:
        self.owner.changed()

    def on_network_list_chosen(self, message: NetworkList.Chosen) -> None:
        self.mesh.choose_network(message.network_id)
        self.network_changed()

    def on_status_line_clicked(self, _message: StatusLine.Clicked) -> None:
        self.owner.action_warnings()
