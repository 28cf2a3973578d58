"""Which controller to look at: this machine's mesh, the controller of this host, those signed in to; and signing in to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from shadowmesh_tui.console.contexts import Context
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.screens.dialogs import WINDOW
from shadowmesh_tui.text import shorten

Other = Literal["machine", "sign-in"]
Choice = Context | Other


class ContextsWindow(ModalScreen[Choice | tuple[Literal["sign-out"], Context] | None]):
    """Closes with what was chosen; with the login that is to end after `o`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,C", "dismiss(None)", "Close"),
        Binding("j", "app.simulate_key('down')", show=False),
        Binding("k", "app.simulate_key('up')", show=False),
        Binding("o", "sign_out", "Sign out"),
    ]
    DEFAULT_CSS = f"""
    ContextsWindow {{ {WINDOW} }}
    ContextsWindow > .window {{ width: 84; max-width: 100%; padding: 1 1; }}
    ContextsWindow OptionList, ContextsWindow OptionList:focus {{ height: auto; max-height: 70vh; border: none; background: $surface; padding: 0; }}
    """

    def __init__(self, contexts: Sequence[Context], now: Context | None, styles: Palette) -> None:
        super().__init__()
        self._choices: list[Choice] = ["machine", *contexts, "sign-in"]
        self._now, self._styles = now, styles

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = "what to look at"
            window.border_subtitle = "Enter   o signs out   Esc closes"
            at = next((i for i, c in enumerate(self._choices) if c == (self._now or "machine")), 0)
            options = OptionList(*(Option(self._line(choice)) for choice in self._choices))
            options.highlighted = at
            yield options

    def _line(self, choice: Choice) -> Text:
        if choice == "machine":
            name, words = "this machine", "its networks, peers and paths"
        elif choice == "sign-in":
            name, words = "sign in …", "to another controller"
        else:
            assert isinstance(choice, Context)
            name, words = choice.name if choice.kind != "local" else choice.place, choice.words
        here = choice == (self._now or "machine")
        line = Text("▸ " if here else "  ", style=self._styles["me"], no_wrap=True, overflow="ellipsis")
        line.append(f"{shorten(name, 32):<32}  ", style=self._styles["label"])
        return line.append(words, style=self._styles["muted"])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._choices[event.option_index])

    def action_sign_out(self) -> None:
        at = self.query_one(OptionList).highlighted
        choice = None if at is None else self._choices[at]
        if isinstance(choice, Context) and choice.kind == "login":
            self.dismiss(("sign-out", choice))
        else:
            self.notify("Nobody is signed in there.", severity="warning")
