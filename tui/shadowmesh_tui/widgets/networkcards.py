"""The networks of a controller: a line each on a small screen, a card each on a large one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.message import Message

from shadowmesh.model.api import Network
from shadowmesh_tui.console.health import Health, health
from shadowmesh_tui.console.state import Console
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.text import padded, shorten
from shadowmesh_tui.widgets.lines import Lines
from shadowmesh_tui.widgets.networks import window

CARD_LINES = 4
_LEAST_LINES, _LINE_EACH = 3, 5  # of the screen's rows, every fifth may go to the networks, in any case three


class NetworkCards(Lines):
    """A click chooses. Of more than there is room for those around the chosen one are shown, and the others are counted."""

    DEFAULT_CSS = "NetworkCards { padding: 0 1; }"

    class Chosen(Message):
        def __init__(self, network_id: str) -> None:
            self.network_id = network_id
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[str] = []
        self._each = 1

    def show(self, console: Console, styles: Palette, lines: int, *, cards: bool) -> None:
        """`lines`: of the screen (a line each), or of the room that there is for cards."""
        networks, chosen = list(console.networks.values()), console.network
        if chosen is None:
            self.put(Text())
            return
        self._each = CARD_LINES if cards else 1
        most = max(1, lines // CARD_LINES) if cards else max(_LEAST_LINES, lines // _LINE_EACH)
        at = next(i for i, n in enumerate(networks) if n.network_id == chosen.network_id)
        part = window(len(networks), at, most)
        shown = networks[part.start : part.stop]
        self._shown = [n.network_id for n in shown]
        found = [(n, health(n, console.relays.values())) for n in shown]
        if cards:
            made = [_card(n, h, n is chosen, self.size.width - 2, styles) for n, h in found]
        else:
            made = _lines(found, chosen, self.size.width - 2, styles)
        if len(part) < len(networks):
            above, below = part.start, len(networks) - part.stop
            hidden = ", ".join(f"{n} {where}" for n, where in ((above, "above"), (below, "below")) if n)
            made.append(Text(f"  ⋮ {hidden}: n and N go through all {len(networks)}", style=styles["warning"]))
        self.put(Text("\n").join(made))

    def on_click(self, event: events.Click) -> None:
        at = event.y // self._each
        if 0 <= at < len(self._shown):
            self.post_message(self.Chosen(self._shown[at]))


def online(network: Network) -> str:
    return f"{network.clients_online} of {network.clients} online"


def _ways(network: Network) -> str:
    if not network.p2p_enabled:
        return "relay only"
    return "direct only" if not network.relay_fallback else ""


def _lines(found: Sequence[tuple[Network, Health]], chosen: Network, room: int, styles: Palette) -> list[Text]:
    name = min(max(cell_len(n.name) for n, _ in found), max(12, room - 62))
    word = max(len(h.word) for _, h in found)
    counted = max(len(online(n)) for n, _ in found)
    lines = []
    for network, how in found:
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append("▸ " if network is chosen else "  ", style=styles["me"])
        line.append(f"{padded(network.name, name)}  ", style=styles["title" if network is chosen else "label"])
        line.append(f"{how.mark} {how.word:<{word}}  ", style=styles[how.level])
        line.append(f"{online(network):<{counted}}  ", style=styles["label"])
        line.append(f"{network.subnet:<18}", style=styles["label"])
        if network.pending:
            line.append(f" ◔ {network.pending} waiting", style=styles["warning"])
        if _ways(network):
            line.append(f"  {_ways(network)}", style=styles["muted"])
        lines.append(line)
    return lines


def _card(network: Network, how: Health, chosen: bool, room: int, styles: Palette) -> Text:
    edge = ("▌ ", "me") if chosen else ("  ", "")

    def line(*parts: tuple[str, str]) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis").append(edge[0], style=styles[edge[1]])
        for words, style in parts:
            text.append(words, style=styles[style])
        text.truncate(room, overflow="ellipsis")
        return text

    first = line((shorten(network.name, room - 2), "title" if chosen else "label"))
    waiting = f"  ◔ {network.pending} waiting" if network.pending else ""
    second = line((f"{online(network)}  ", "label"), (network.subnet, "label"))
    why = how.why if how.level in ("warning", "error") else how.word
    ways = f"  {_ways(network)}" if _ways(network) else ""
    third = line((f"{how.mark} {why}", how.level), (waiting, "warning"), (ways, "muted"))
    return Text("\n").join([first, second, third, Text()])
