"""The networks of this machine, a line each."""

from __future__ import annotations

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widgets import Static

from shadowmesh.model.status import NetworkStatus
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Counts, Mesh
from shadowmesh_tui.text import printable, shorten

_STATE = {
    "up": ("▲ up", "good"),
    "pending-approval": ("◔ pending", "warning"),
    "down": ("▽ down", "muted"),
    "error": ("✗ error", "error"),
}
MAX_LINES = 4


class NetworkList(Static):
    """Up to four lines; with more networks, those around the chosen one. A click chooses."""

    DEFAULT_CSS = "NetworkList { height: auto; text-wrap: nowrap; text-overflow: ellipsis; padding: 0 1; }"

    class Chosen(Message):
        def __init__(self, network_id: str) -> None:
            self.network_id = network_id
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[NetworkStatus, ...] = ()

    def show(self, mesh: Mesh, styles: Palette) -> None:
        networks, chosen = mesh.networks, mesh.network
        self.display = bool(networks)
        if chosen is None:
            return
        at = networks.index(chosen)
        first = max(0, min(at - MAX_LINES // 2, len(networks) - MAX_LINES))
        self._shown = networks[first : first + MAX_LINES]
        name_width = min(20, max(len(n.name) for n in self._shown))
        lines = [self._line(n, n is chosen, len(networks) > 1, name_width, styles) for n in self._shown]
        self.update(Text("\n").join(lines))

    def _line(self, network: NetworkStatus, chosen: bool, several: bool, name_width: int, styles: Palette) -> Text:
        wide = self.size.width >= 110
        state, state_style = _STATE[network.state]
        line = Text(no_wrap=True, overflow="ellipsis")
        if several:
            line.append("▸ " if chosen else "  ", style=styles["me"])
        name = shorten(printable(network.name), name_width).ljust(name_width)
        line.append(f"{name}  ", style=styles["title" if chosen else "label"])
        line.append(f"{state:<9}  " if several else f"{state}  ", style=styles[state_style])
        line.append(f"{network.ip}  {network.interface}  ", style=styles["label"])
        connected = network.controller == "connected"
        line.append("controller ", style=styles["muted"])
        word = "●" if connected and not wide else f"{'●' if connected else '○'} {network.controller}"
        line.append(word, style=styles["good" if connected else "warning"])
        line.append(f"  serial {network.map_serial}  epoch {network.epoch}", style=styles["muted"])
        if wide and network.state == "up":
            counts = Counts.of(network.peers)
            line.append("  peers ", style=styles["muted"])
            line.append(f"{counts.direct} direct", style=styles["direct"])
            line.append(f", {counts.relay} relay", style=styles["relay"])
            line.append(f", {counts.none} none", style=styles["muted"])
        return line

    def on_click(self, event: events.Click) -> None:
        if 0 <= event.y < len(self._shown):
            self.post_message(self.Chosen(self._shown[event.y].network_id))
