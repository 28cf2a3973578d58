"""A window that asks for one line of text."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from shadowmesh_tui.screens.dialogs import WINDOW


class TextWindow(ModalScreen[str | None]):
    """Closes with what was typed; with None if it is as it was, or Esc was pressed."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Close")]
    DEFAULT_CSS = f"""
    TextWindow {{ {WINDOW} }}
    TextWindow > .window {{ width: 60; max-width: 100%; padding: 1 2; }}
    TextWindow Input {{ height: 1; border: none; padding: 0 1; background: $panel; }}
    TextWindow .hint {{ color: $text-muted; }}
    """

    def __init__(self, title: str, value: str, hint: str = "") -> None:
        super().__init__()
        self._heading, self._value, self._hint = title, value, hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = Content(self._heading)
            window.border_subtitle = "Enter   Esc closes"
            yield Input(self._value, compact=True)
            yield Static(Content(self._hint), classes="hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        value = event.value.strip()
        self.dismiss(value if value and value != self._value else None)
