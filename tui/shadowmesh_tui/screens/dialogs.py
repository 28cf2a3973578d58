"""Windows over a screen: a question, something to read, a ping as it runs, all about one peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.status import PingTry
from shadowmesh_tui.daemon import Daemon
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Mesh, PeerKey, PeerRow
from shadowmesh_tui.text import PATH_GLYPH, latency, printable
from shadowmesh_tui.widgets.detail import PeerDetail

if TYPE_CHECKING:
    from shadowmesh_tui.app import ShadowMeshApp

_WINDOW = """
    align: center middle;
    & > .window { border: round $primary; background: $surface; padding: 0 1; height: auto; max-height: 100%;
        border-title-color: $foreground; border-subtitle-color: $foreground; }
"""


class ConfirmScreen(ModalScreen[bool]):
    """A question with the answer no until y is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
        Binding("left,right,h,l", "app.focus_next", show=False),
    ]
    DEFAULT_CSS = f"""
    ConfirmScreen {{ {_WINDOW} }}
    ConfirmScreen > .window {{ width: 60; max-width: 100%; padding: 1 2; }}
    ConfirmScreen Horizontal {{ height: auto; align-horizontal: right; margin-top: 1; }}
    ConfirmScreen Button {{ margin-left: 2; }}
    """

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(classes="window"):
            yield Static(Text(self._question))
            with Horizontal():
                yield Button("No (n)", id="no", compact=True)
                yield Button("Yes (y)", id="yes", compact=True, variant="primary")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class ReadingScreen(ModalScreen[None]):
    """Text to read; it scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark,w", "dismiss(None)", "Close"),
        Binding("down,j", "scroll(1)", show=False),
        Binding("up,k", "scroll(-1)", show=False),
    ]
    DEFAULT_CSS = f"""
    ReadingScreen {{ {_WINDOW} }}
    ReadingScreen > .window {{ width: auto; max-width: 100%; }}
    ReadingScreen .words {{ height: auto; width: auto; max-width: 100%; }}
    ReadingScreen VerticalScroll {{ height: auto; width: auto; max-width: 100%; max-height: 90vh; }}
    """

    def __init__(self, title: str, words: Text) -> None:
        super().__init__()
        self._heading, self._words = title, words

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = self._heading
            window.border_subtitle = "Esc closes"
            with VerticalScroll():
                yield Static(self._words, classes="words")

    def action_scroll(self, step: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)


def try_line(ping: PingTry, styles: Palette) -> Text:
    """One answer, or that none came."""
    line = Text(f"{ping.seq:>3}  ", style=styles["muted"], no_wrap=True, overflow="ellipsis")
    if ping.ok:
        line.append(f"{latency(ping.latency_ms):>8}  ", style=styles["label"])
    else:
        line.append("no answer ", style=styles["error"])
    line.append(f"{PATH_GLYPH[ping.path]} {ping.path}", style=styles[ping.path])
    via = ping.endpoint if ping.path == "direct" else ping.relay
    if via:
        line.append(f" via {printable(via)}", style=styles["label"])
    return line.append(f"  {ping.reason}", style=styles["muted"])


def summary(tries: list[PingTry]) -> str:
    """`5 sent, 4 answered; 1.9 ms, 2.2 ms, 3.0 ms (least, mean, most)`."""
    times = [t.latency_ms for t in tries if t.ok and t.latency_ms is not None]
    text = f"{len(tries)} sent, {sum(t.ok for t in tries)} answered"
    if times:
        figures = (min(times), sum(times) / len(times), max(times))
        text += f"; {', '.join(latency(v) for v in figures)} (least, mean, most)"
    return text


class PingScreen(ModalScreen[None]):
    """Pings a peer while it is open, and shows each answer as it comes."""

    COUNT = 5
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss(None)", "Close"),
        Binding("p", "again", "Again"),
    ]
    DEFAULT_CSS = f"""
    PingScreen {{ {_WINDOW} }}
    PingScreen > .window {{ width: 76; max-width: 100%; }}
    PingScreen #tries {{ height: {COUNT}; }}
    """

    def __init__(self, daemon: Daemon, row: PeerRow, styles: Palette) -> None:
        super().__init__()
        self._daemon, self._peer, self._styles = daemon, row.peer, styles
        self.tries: list[PingTry] = []
        self.outcome = ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = f"ping {printable(self._peer.name)} ({self._peer.ip})".replace("[", "\\[")
            window.border_subtitle = "p again   Esc closes"
            yield Static(id="tries")
            yield Static(id="outcome")

    def on_mount(self) -> None:
        self.action_again()

    def action_again(self) -> None:
        self._ping()

    @work(group="ping", exclusive=True)
    async def _ping(self) -> None:
        self.tries, self.outcome = [], "waiting for the first answer …"
        self._show()
        try:
            async for answer in self._daemon.ping(self._peer.client_id or self._peer.ip, self.COUNT):
                self.tries.append(answer)
                self.outcome = summary(self.tries)
                self._show()
        except ShadowMeshError as e:
            self.outcome = str(e)
            self._show()

    def _show(self) -> None:
        lines = [try_line(t, self._styles) for t in self.tries[-self.COUNT :]]
        self.query_one("#tries", Static).update(Text("\n").join(lines))
        self.query_one("#outcome", Static).update(Text(self.outcome))


class PeerScreen(ModalScreen[None]):
    """All about one peer, live."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss(None)", "Close"),
        Binding("p", "app.ping", "Ping"),
        Binding("down,j", "scroll(1)", show=False),
        Binding("up,k", "scroll(-1)", show=False),
    ]
    DEFAULT_CSS = f"""
    PeerScreen {{ {_WINDOW} }}
    PeerScreen > .window {{ width: 100; max-width: 100%; height: 30; }}
    PeerScreen PeerDetail {{ background: $surface; }}
    """

    def __init__(self, key: PeerKey) -> None:
        super().__init__()
        self._key = key

    @property
    def _owner(self) -> ShadowMeshApp:
        return cast("ShadowMeshApp", self.app)

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_subtitle = "p ping   Esc closes"
            yield PeerDetail(classes="-full")

    def on_mount(self) -> None:
        self._owner.mesh_changed.subscribe(self, self._show)
        self.call_after_refresh(self._show, self._owner.mesh)

    def _show(self, mesh: Mesh) -> None:
        self.query_one(PeerDetail).show(mesh, self._key, self._owner.palette)

    def action_scroll(self, step: int) -> None:
        self.query_one(PeerDetail).scroll_relative(y=step, animate=False)
