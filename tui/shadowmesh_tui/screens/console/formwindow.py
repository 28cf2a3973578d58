"""A window with a few fields, checked when it is sent; what the controller refuses stands below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Static

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.forms import Field, Finding, Value, Values
from shadowmesh_tui.console.notices import line
from shadowmesh_tui.screens.console.base import ConsoleWindow, Keys
from shadowmesh_tui.screens.console.createwindow import BUTTONS
from shadowmesh_tui.screens.dialogs import WINDOW
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.networkform import FieldRow

T = TypeVar("T")
Options = Mapping[str, Sequence[tuple[str, str]]]


class FormWindow(ConsoleWindow[T]):
    """`wish` makes of the values what is asked of the controller; the window closes with what that answers. A ValidationError of
    `wish` stands beside its field. `shown`: which fields count, by the values."""

    KEYS: ClassVar[Keys] = (
        ("Tab  Shift+Tab", "the next field, the one before"),
        ("Space", "switch a box, open a list"),
        ("Ctrl+S  Enter", "send it"),
        ("Esc", "leave it"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+s", "send", "Send")]
    DEFAULT_CSS = f"""
    FormWindow {{ {WINDOW} }}
    FormWindow > .window {{ width: 92; max-width: 100%; padding: 1 2; }}
    FormWindow VerticalScroll {{ height: auto; max-height: 100%; }}
    FormWindow .words {{ height: auto; color: $text-muted; margin-bottom: 1; }}
    FormWindow .words.-none {{ display: none; }}
    FormWindow FieldRow.-away {{ display: none; }}
    FormWindow .said {{ height: auto; max-height: 3; margin-top: 1; color: $text-error; }}
    FormWindow .buttons {{ height: 1; margin-top: 1; }}
    FormWindow {{ {BUTTONS} }}
    """

    def __init__(
        self,
        view: View,
        title: str,
        fields: Sequence[Field],
        values: Values,
        wish: Callable[[dict[str, Value]], Callable[[ControllerClient], T]],
        *,
        options: Options | None = None,
        words: str = "",
        button: str = "Send",
        shown: Callable[[Mapping[str, Value]], set[str]] | None = None,
    ) -> None:
        super().__init__(view)
        self._heading, self._wish, self._words, self._send_label, self._shown = title, wish, words, button, shown
        self.rows = {f.key: FieldRow(f, values[f.key], (options or {}).get(f.key, ())) for f in fields}
        self._said = Static(classes="said")
        self._busy = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = Content(self._heading)
            window.border_subtitle = "Ctrl+S sends   Esc closes"
            with VerticalScroll(can_focus=False):
                yield Static(Content(self._words), classes="words" if self._words else "words -none")
                yield from self.rows.values()
                yield self._said
                with Horizontal(classes="buttons"):
                    yield Button(self._send_label, id="send", compact=True)
                    yield Button("Cancel", id="cancel", compact=True)

    def on_mount(self) -> None:
        next(iter(self.rows.values())).editor.focus()
        for row in self.rows.values():
            row.show(None)
        self._offer()

    def show_desk(self, desk: Desk) -> None:
        """It shows what was typed."""

    @property
    def values(self) -> dict[str, Value]:
        return {key: row.value for key, row in self.rows.items()}

    def _offer(self) -> None:
        if self._shown is not None:
            shown = self._shown(self.values)
            for key, row in self.rows.items():
                row.set_class(key not in shown, "-away")

    def _say(self, text: str) -> None:
        self._said.update(Content(text))

    def on_input_changed(self) -> None:
        self._say("")

    def on_checkbox_changed(self) -> None:
        self._offer()

    def on_select_changed(self) -> None:
        self._offer()

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        self.action_send()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "send":
            self.action_send()
        else:
            self.dismiss(None)

    def action_send(self) -> None:
        if self._busy:
            return
        found: dict[str, Finding] = {}
        try:
            function = self._wish(self.values)
        except ValidationError as e:
            for error in e.errors():
                key = next((str(part) for part in error["loc"] if part in self.rows), next(iter(self.rows)))
                found.setdefault(key, Finding(_words(error["type"], error["msg"])))
        except ShadowMeshError as e:
            self._say(line(e))
            return
        for key, row in self.rows.items():
            row.show(found.get(key))
        if found:
            wrong = next(key for key in self.rows if key in found)
            self.rows[wrong].editor.focus()
            self._say(f"{self.rows[wrong].field.label}: {found[wrong].text}.")
        else:
            self._send(function)

    @work(group="act")
    async def _send(self, function: Callable[[ControllerClient], Any]) -> None:
        self._busy = True
        try:
            answer = await self.desk.call(function)
        except ShadowMeshError as e:
            self._say(line(e))
            return
        finally:
            self._busy = False
        self.dismiss(answer)


def _words(kind: str, message: str) -> str:
    return "empty, or not of the right form" if "pattern" in kind else message.removeprefix("Value error, ")
