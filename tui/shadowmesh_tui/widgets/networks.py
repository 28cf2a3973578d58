"""The networks of this machine, a line each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual import events
from textual.message import Message

from shadowmesh.model.status import NetworkStatus
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Counts, Mesh
from shadowmesh_tui.text import UNKNOWN, shorten
from shadowmesh_tui.widgets.lines import Lines

_STATE = {
    "up": ("▲ up", "good"),
    "pending-approval": ("◔ pending", "warning"),
    "down": ("▽ down", "muted"),
}
_LEAST_LINES, _LINE_EACH = 3, 6  # of the screen's rows, every sixth may go to the networks, in any case three


def window(count: int, chosen: int, most: int) -> range:
    """Which of `count` things stand in a list of `most` lines: all, or those around the chosen one and a line less."""
    if count <= most:
        return range(count)
    most -= 1  # for the line that tells of the others
    first = max(0, min(chosen - most // 2, count - most))
    return range(first, first + most)


def _state(network: NetworkStatus) -> tuple[str, str]:
    return _STATE.get(network.state, (f"✗ {network.state}", "error"))


def _columns(network: NetworkStatus) -> tuple[str, str, str, str]:
    return (
        shorten(network.name, 20),
        _state(network)[0],
        network.ip or UNKNOWN,
        network.interface or UNKNOWN,
    )


class NetworkList(Lines):
    """A line for each network, as many as the screen has room for, and one for those that have none. A click chooses."""

    DEFAULT_CSS = "NetworkList { padding: 0 1; }"

    class Chosen(Message):
        def __init__(self, network_id: str) -> None:
            self.network_id = network_id
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[NetworkStatus, ...] = ()

    def show(self, mesh: Mesh, styles: Palette, screen_height: int) -> None:
        networks, chosen = mesh.networks, mesh.network
        self.display = bool(networks)
        if chosen is None:
            return
        most = max(_LEAST_LINES, screen_height // _LINE_EACH)
        shown = window(len(networks), networks.index(chosen), most)
        self._shown = networks[shown.start : shown.stop]
        widths = [max(map(len, column)) for column in zip(*map(_columns, self._shown), strict=True)]
        lines = [self._line(n, n is chosen, widths, styles) for n in self._shown]
        if len(shown) < len(networks):
            above, below = shown.start, len(networks) - shown.stop
            hidden = ", ".join(f"{n} {where}" for n, where in ((above, "above"), (below, "below")) if n)
            lines.append(Text(f"  ⋮ {hidden}: n and N go through all {len(networks)}", style=styles["warning"]))
        self.put(Text("\n").join(lines))

    def _line(self, network: NetworkStatus, chosen: bool, widths: Sequence[int], styles: Palette) -> Text:
        wide = self.size.width >= 110
        line = Text(no_wrap=True, overflow="ellipsis")
        if len(self._shown) > 1:
            line.append("▸ " if chosen else "  ", style=styles["me"])
        looks = ("title" if chosen else "label", _state(network)[1], "label", "label")
        for text, width, style in zip(_columns(network), widths, looks, strict=True):
            line.append(f"{text:<{width}}  ", style=styles[style])
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
            if counts.idle:
                line.append(f", {counts.idle} idle", style=styles["muted"])
        return line

    def on_click(self, event: events.Click) -> None:
        if 0 <= event.y < len(self._shown):
            self.post_message(self.Chosen(self._shown[event.y].network_id))
