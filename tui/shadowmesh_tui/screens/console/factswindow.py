"""A window of facts: what is known already, and more that is read for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.notices import line
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.screens.console.base import ConsoleWindow, Keys
from shadowmesh_tui.screens.dialogs import SCROLLING, WINDOW, Scrolls
from shadowmesh_tui.view import View


class FactsWindow(Scrolls, ConsoleWindow[None]):
    """`reads` asks for more, `tells` makes words of it."""

    KEYS: ClassVar[Keys] = (("↑ ↓  j k", "scroll"), ("c", "copy all of it"))
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss(None)", "Close"),
        Binding("c", "copy", "Copy"),
        *SCROLLING,
    ]
    DEFAULT_CSS = f"""
    FactsWindow {{ {WINDOW} }}
    FactsWindow > .window {{ width: 100; max-width: 100%; padding: 0 1; }}
    FactsWindow VerticalScroll {{ height: auto; max-height: 90vh; }}
    FactsWindow .facts-text {{ height: auto; }}
    """

    def __init__(
        self,
        view: View,
        title: str,
        first: Text,
        reads: Callable[[ControllerClient], Any] | None = None,
        tells: Callable[[Any, Palette], Text] | None = None,
    ) -> None:
        super().__init__(view)
        self._heading, self._first, self._reads, self._tells = title, first, reads, tells
        self.text = first
        self._static = Static(first, classes="facts-text")
        self._scrolled = VerticalScroll(self._static)

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = Content(self._heading)
            window.border_subtitle = "c copies   Esc closes"
            yield self._scrolled

    def on_mount(self) -> None:
        if self._reads is not None:
            self._put(Text("reading …", style=self.palette["muted"]))
            self._read(self._reads)

    def scrolled(self) -> VerticalScroll:
        return self._scrolled

    def show_desk(self, desk: Desk) -> None:
        """It shows what was known when it was opened."""

    def _put(self, more: Text) -> None:
        self.text = Text("\n\n").join([self._first, more]) if self._first.plain else more
        self._static.update(self.text)

    @work(group="read")
    async def _read(self, reads: Callable[[ControllerClient], Any]) -> None:
        assert self._tells is not None
        try:
            self._put(self._tells(await self.desk.call(reads), self.palette))
        except ShadowMeshError as e:
            self._put(Text(line(e), style=self.palette["error"]))

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.text.plain)
        self.notify("Copied, where the terminal lets programs do so (OSC 52).")
