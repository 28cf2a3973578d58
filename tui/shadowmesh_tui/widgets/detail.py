"""All about one peer: where it is and why, its recent figures, and what was tried to reach it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll

from shadowmesh.model.status import PathAttempt, Why
from shadowmesh_tui.history import PeerHistory
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Mesh, PeerKey, PeerRow
from shadowmesh_tui.text import PATH_GLYPH, duration, latency, path_code, rate, sparkline, volume
from shadowmesh_tui.widgets.lines import Lines

_RESULT_STYLE = {"answered": "good", "silent": "muted", "lost": "warning", "not-tried": "muted"}


def facts(row: PeerRow, history: PeerHistory | None, width: int, styles: Palette, *, wrap: bool) -> Text:
    """Who and where, why (one line, or as many as it takes), and three sparklines with their figures."""
    peer = row.peer
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(f"{PATH_GLYPH[peer.path]} ", style=styles[peer.path])
    head.append(peer.name, style=styles["title"])
    head.append(f"  {peer.ip}  ", style=styles["label"])
    head.append(path_code(peer), style=styles[peer.path])
    second = Text(no_wrap=True, overflow="ellipsis", style=styles["muted"])
    online = {True: "online", False: "offline", None: "presence unknown"}[peer.online]
    shaken = "no handshake yet" if row.handshake_age is None else f"handshake {duration(row.handshake_age)} ago"
    via = f"via {row.via}, " if row.via else ""
    second.append(f"  {via}{online}, {shaken}{', idle' if peer.idle else ''}, {peer.client_id}")
    why = textwrap.wrap(peer.explanation, max(20, width - 2)) if wrap else [peer.explanation]
    lines = [head, second, *(Text(f"  {line}", style=styles["label"]) for line in why)]
    if history is not None:
        lines += _sparklines(row, history, max(8, min(60, width - 44)), styles)
    return Text("\n").join(lines)


def _sparklines(row: PeerRow, history: PeerHistory, width: int, styles: Palette) -> list[Text]:
    peer = row.peer
    shown = latency(peer.latency_ms if peer.path != "none" else None)
    known = [v for v in history.latency if v is not None]
    spread = f"{latency(min(known))} to {latency(max(known))}" if known else ""

    def line(
        name: str, series: Sequence[float | None], value: str, more: str, style: str, *, from_zero: bool = True
    ) -> Text:
        text = Text(f"  {name:<8} ", style=styles["muted"], no_wrap=True, overflow="crop")
        text.append(sparkline(series, width, from_zero=from_zero), style=styles[style])
        text.append(f"  {value:<9}", style=styles["label"]).append(more, style=styles["muted"])
        return text

    return [
        line("latency", history.latency, shown, spread, peer.path, from_zero=False),
        line("received", history.rx, rate(row.rx_rate), f"{volume(peer.rx_bytes)} so far", "me"),
        line("sent", history.tx, rate(row.tx_rate), f"{volume(peer.tx_bytes)} so far", "me"),
    ]


def attempts(why: Why | str | None, styles: Palette) -> Text:
    """What the daemon answered to `why`: the candidates tried, the next try, what was dropped, how the path changed."""
    if why is None:
        return Text("asking why …", style=styles["muted"])
    if isinstance(why, str):
        return Text(why, style=styles["warning"])
    lines = [Text("tried", style=styles["title"])]
    width = max((len(a.candidate) for a in why.attempts), default=0)
    lines += [_attempt(a, width, styles) for a in why.attempts] or [Text("  nothing yet", style=styles["muted"])]
    if why.next_try_s is not None:
        lines.append(Text(f"  next try in {duration(why.next_try_s)}", style=styles["label"]))
    if any(why.drops.values()):
        lines.append(Text("dropped", style=styles["title"]))
        causes = sorted((cause.removeprefix("drop_"), n) for cause, n in why.drops.items() if n)
        lines.append(Text("  " + ", ".join(f"{n} {cause}" for cause, n in causes), style=styles["warning"]))
    if why.history:
        lines.append(Text("history", style=styles["title"]))
        lines += [Text(f"  {line}", style=styles["label"]) for line in reversed(why.history)]  # the newest first
    return Text("\n", no_wrap=True, overflow="ellipsis").join(lines)


def _attempt(attempt: PathAttempt, width: int, styles: Palette) -> Text:
    line = Text(f"  {attempt.result:<9} ", style=styles[_RESULT_STYLE.get(attempt.result, "label")])
    line.append(f"{attempt.kind:<10} {attempt.candidate:<{width}}", style=styles["label"])
    if attempt.latency_ms is not None:
        line.append(f" {latency(attempt.latency_ms)}", style=styles["label"])
    if attempt.age_s is not None:
        line.append(f" {duration(attempt.age_s)} ago", style=styles["muted"])
    return line


class PeerDetail(VerticalScroll, can_focus=False):
    """Facts, and the attempts beside or below them (classes -beside, -below, -full); else those wait for Enter."""

    DEFAULT_CSS = """
    PeerDetail { height: 7; border-top: solid $foreground 25%; padding: 0 1; background: $background; }
    PeerDetail > #attempts { display: none; }
    PeerDetail.-beside { layout: horizontal; height: 10; }
    PeerDetail.-beside.-tall { height: 16; }
    PeerDetail.-beside > Lines { width: 1fr; }
    PeerDetail.-beside > #attempts { display: block; margin-left: 2; }
    PeerDetail.-below { height: 16; }
    PeerDetail.-full { height: 1fr; border-top: none; }
    PeerDetail.-below > #attempts, PeerDetail.-full > #attempts { display: block; margin-top: 1; }
    """

    def __init__(self, *, classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self._facts, self._attempts = Lines(id="facts"), Lines(id="attempts")
        self._shown: tuple[Mesh, PeerKey | None, Palette] | None = None

    def compose(self) -> ComposeResult:
        yield self._facts
        yield self._attempts

    def on_resize(self, _event: events.Resize) -> None:
        if self._shown is not None:
            self.show(*self._shown)

    def show(self, mesh: Mesh, key: PeerKey | None, styles: Palette) -> None:
        self._shown = mesh, key, styles
        row = mesh.row(key) if key else None
        self._attempts.visible = row is not None
        if row is None or key is None:
            self._facts.put(Text("No peer is chosen.", style=styles["muted"]))
            return
        width = self._facts.size.width
        self._facts.put(facts(row, mesh.history(key), width, styles, wrap=self.size.height > 6))
        self._attempts.put(attempts(mesh.whys.get(key), styles))
