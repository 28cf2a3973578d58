"""The networks of this machine, a line each."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from textual import events
from textual.message import Message

from shadowmesh.model.status import NetworkStatus
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Counts, Mesh
from shadowmesh_tui.text import UNKNOWN, printable, shorten
from shadowmesh_tui.widgets.lines import Lines

_STATE = {
    "up": ("▲ up", "good"),
    "pending-approval": ("◔ pending", "warning"),
    "down": ("▽ down", "muted"),
    "error": ("✗ error", "error"),
}
MAX_LINES = 4


def _name(network: NetworkStatus) -> str:
    return shorten(printable(network.name), 20)


def _state(network: NetworkStatus) -> str:
    return _STATE[network.state][0]


def _ip(network: NetworkStatus) -> str:
    return network.ip or UNKNOWN


def _interface(network: NetworkStatus) -> str:
    return network.interface or UNKNOWN


class NetworkList(Lines):
    """Up to four lines; with more networks, those around the chosen one. A click chooses."""

    DEFAULT_CSS = "NetworkList { padding: 0 1; }"

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
        lines = [self._line(n, n is chosen, styles) for n in self._shown]
        self.put(Text("\n").join(lines))

    def _line(self, network: NetworkStatus, chosen: bool, styles: Palette) -> Text:
        wide = self.size.width >= 110
        line = Text(no_wrap=True, overflow="ellipsis")
        if len(self._shown) > 1:
            line.append("▸ " if chosen else "  ", style=styles["me"])
        line.append(f"{self._aligned(_name, network)}  ", style=styles["title" if chosen else "label"])
        line.append(f"{self._aligned(_state, network)}  ", style=styles[_STATE[network.state][1]])
        line.append(f"{self._aligned(_ip, network)}  ", style=styles["label"])
        line.append(f"{self._aligned(_interface, network)}  ", style=styles["label"])
        connected = network.controller == "connected"
        line.append("controller ", style=styles["muted"])
        word = "●" if connected and not wide else f"{'●' if connected else '○'} {network.controller}"
        line.append(word, style=styles["good" if connected else "warning"])
        line.append(f"  serial {network.map_serial}  epoch {network.epoch}", style=styles["muted"])
        if wide and network.peers:
            counts = Counts.of(network.peers)
            line.append("  peers ", style=styles["muted"])
            line.append(f"{counts.direct} direct", style=styles["direct"])
            line.append(f", {counts.relay} relay", style=styles["relay"])
            line.append(f", {counts.none} none", style=styles["muted"])
        return line

    def _aligned(self, text: Callable[[NetworkStatus], str], network: NetworkStatus) -> str:
        return text(network).ljust(max(len(text(n)) for n in self._shown))

    def on_click(self, event: events.Click) -> None:
        if 0 <= event.y < len(self._shown):
            self.post_message(self.Chosen(self._shown[event.y].network_id))
