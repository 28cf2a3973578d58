"""Windows over a screen: a question, something to read, a ping as it runs, all about one peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.status import PeerStatus, PingTry
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.screens.base import LiveScreen
from shadowmesh_tui.state import PeerKey
from shadowmesh_tui.text import PATH_GLYPH, latency
from shadowmesh_tui.view import PingAsked, View
from shadowmesh_tui.widgets.detail import PeerDetail

WINDOW = """
    align: center middle;
    & > .window { border: round $primary; background: $surface; padding: 0 1; height: auto; max-height: 100%;
        border-title-color: $foreground; border-subtitle-color: $foreground; }
"""
SCROLLING: list[BindingType] = [
    Binding("down,j", "scroll(1)", show=False),
    Binding("up,k", "scroll(-1)", show=False),
    Binding("pagedown,space", "page(1)", show=False),
    Binding("pageup", "page(-1)", show=False),
    Binding("home,g", "to_end(False)", show=False),
    Binding("end,G", "to_end(True)", show=False),
]


class Scrolls:
    """The keys that move through a window's text."""

    def scrolled(self) -> VerticalScroll:
        raise NotImplementedError

    def action_scroll(self, step: int) -> None:
        self.scrolled().scroll_relative(y=step, animate=False)

    def action_page(self, pages: int) -> None:
        view = self.scrolled()
        view.scroll_relative(y=pages * max(1, view.size.height - 1), animate=False)

    def action_to_end(self, last: bool) -> None:
        view = self.scrolled()
        if last:
            view.scroll_end(animate=False)
        else:
            view.scroll_home(animate=False)


class ConfirmScreen(ModalScreen[bool]):
    """A question with the answer no until y is pressed."""

    AUTO_FOCUS = "#no"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,q", "answer(False)", "No"),
        Binding("left,right,h,l", "app.focus_next", show=False),
    ]
    DEFAULT_CSS = f"""
    ConfirmScreen {{ {WINDOW} }}
    ConfirmScreen > .window {{ width: 60; max-width: 100%; padding: 1 2; }}
    ConfirmScreen Horizontal {{ height: auto; align-horizontal: right; margin-top: 1; }}
    ConfirmScreen Button {{ margin-left: 2; background: $surface; color: $foreground; text-style: none; }}
    ConfirmScreen Button:focus {{ background: $foreground; color: $surface; text-style: bold !important; background-tint: $foreground 0%; }}
    ConfirmScreen Button:nocolor:focus {{ text-style: bold reverse !important; }}
    """

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(classes="window"):
            yield Static(Text(self._question))
            with Horizontal():
                yield Button("No (n)", id="no", compact=True)
                yield Button("Yes (y)", id="yes", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class ReadingScreen(Scrolls, ModalScreen[None]):
    """Text to read; it scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark,w", "dismiss(None)", "Close"),
        *SCROLLING,
    ]
    DEFAULT_CSS = f"""
    ReadingScreen {{ {WINDOW} }}
    ReadingScreen > .window {{ width: auto; max-width: 100%; }}
    ReadingScreen .words {{ height: auto; width: auto; max-width: 100%; }}
    ReadingScreen VerticalScroll {{ height: auto; width: auto; max-width: 100%; max-height: 90vh; }}
    """

    def __init__(self, title: str, words: Text) -> None:
        super().__init__()
        self._heading = title
        self._scrolled = VerticalScroll(Static(words, classes="words"))

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = self._heading
            window.border_subtitle = "Esc closes"
            yield self._scrolled

    def scrolled(self) -> VerticalScroll:
        return self._scrolled


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
        line.append(f" via {via}", style=styles["label"])
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
    """Pings a peer while it is open, and shows each answer as it comes. `ping` starts to, and gives the answers."""

    COUNT = 5
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss(None)", "Close"),
        Binding("p", "again", "Again"),
    ]
    DEFAULT_CSS = f"""
    PingScreen {{ {WINDOW} }}
    PingScreen > .window {{ width: 76; max-width: 100%; }}
    PingScreen #tries {{ height: {COUNT}; }}
    """

    def __init__(self, peer: PeerStatus, ping: Callable[[int], AsyncIterator[PingTry]], styles: Palette) -> None:
        super().__init__()
        self._peer, self._ping, self._styles = peer, ping, styles
        self._tries_shown, self._outcome_shown = Static(id="tries"), Static(id="outcome")
        self.tries: list[PingTry] = []
        self.outcome = ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = Content(f"ping {self._peer.name} ({self._peer.ip})")
            window.border_subtitle = "p again   Esc closes"
            yield self._tries_shown
            yield self._outcome_shown

    def on_mount(self) -> None:
        self.action_again()

    def action_again(self) -> None:
        self._run()

    @work(group="ping", exclusive=True)
    async def _run(self) -> None:
        self.tries, self.outcome = [], "waiting for the first answer …"
        self.show()
        try:
            async for answer in self._ping(self.COUNT):
                self.tries.append(answer)
                self.outcome = summary(self.tries)
                self.show()
        except ShadowMeshError as e:
            self.outcome = str(e)
            self.show()

    def show(self) -> None:
        lines = [try_line(t, self._styles) for t in self.tries[-self.COUNT :]]
        self._tries_shown.update(Text("\n").join(lines))
        self._outcome_shown.update(Text(self.outcome))


class PeerScreen(Scrolls, LiveScreen, ModalScreen[None]):
    """All about one peer, live."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss(None)", "Close"),
        Binding("p", "ping", "Ping"),
        *SCROLLING,
    ]
    DEFAULT_CSS = f"""
    PeerScreen {{ {WINDOW} }}
    PeerScreen > .window {{ width: 100; max-width: 100%; height: 30; }}
    PeerScreen PeerDetail {{ background: $surface; }}
    """

    def __init__(self, view: View, key: PeerKey) -> None:
        super().__init__(view)
        self._key = key
        self._detail = PeerDetail(classes="-full")

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_subtitle = "p ping   Esc closes"
            yield self._detail

    def show(self) -> None:
        self._detail.show(self.mesh, self._key, self.palette)

    def scrolled(self) -> VerticalScroll:
        return self._detail

    def action_ping(self) -> None:
        self.post_message(PingAsked(self._key))
