"""A code or an invite, large enough to be read aloud, to be copied, and as a picture for a phone's camera."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from shadowmesh_tui.screens.dialogs import SCROLLING, WINDOW, Scrolls


def qr(text: str) -> Text:
    """In half blocks, dark on light whatever the theme, with the margin that cameras want."""
    import segno

    rows = [list(row) for row in segno.make(text, error="l", micro=False).matrix_iter(border=2)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        marks = "".join(" ▀▄█"[int(bool(a)) + 2 * int(bool(b))] for a, b in zip(upper, lower, strict=True))
        lines.append(Text(marks, style="#000000 on #ffffff", no_wrap=True))
    return Text("\n").join(lines)


class CodeWindow(Scrolls, ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss(None)", "Close"),
        Binding("c", "copy", "Copy"),
        *SCROLLING,
    ]
    DEFAULT_CSS = f"""
    CodeWindow {{ {WINDOW} }}
    CodeWindow > .window {{ width: auto; min-width: 50; max-width: 100%; padding: 0 2; }}
    CodeWindow VerticalScroll {{ width: auto; height: auto; max-width: 100%; max-height: 90vh; }}
    CodeWindow .code {{ width: auto; max-width: 72; height: auto; text-style: bold; margin: 1 0; }}
    CodeWindow .words {{ width: auto; max-width: 72; height: auto; color: $text-muted; margin-bottom: 1; }}
    CodeWindow .qr {{ width: auto; height: auto; margin-bottom: 1; }}
    """

    def __init__(self, title: str, code: str, words: str, *, picture: bool = False) -> None:
        super().__init__()
        self._heading, self.code, self._words, self._picture = title, code, words, picture
        self._scrolled = VerticalScroll(can_focus=False)

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = Content(self._heading)
            window.border_subtitle = "c copies   Esc closes"
            with self._scrolled:
                if self._picture:
                    picture = qr(self.code)
                    missing = picture.plain.count("\n") + 3 - self.app.size.height
                    if missing > 0:
                        yield Static(f"The picture needs {missing} more lines of the terminal.", classes="words")
                    yield Static(picture, classes="qr")
                yield Static(Text(self.code), classes="code")
                yield Static(Content(self._words), classes="words")

    def scrolled(self) -> VerticalScroll:
        return self._scrolled

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.code)
        self.notify("Copied, where the terminal lets programs do so (OSC 52).")
