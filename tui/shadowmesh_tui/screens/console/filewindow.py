"""A window that asks where a file is to be written, and before one that is there is replaced."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from shadowmesh.model.text import escaped
from shadowmesh_tui.screens.console.base import WindowAsked
from shadowmesh_tui.screens.dialogs import WINDOW, ConfirmScreen
from shadowmesh_tui.text import shorten

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def file_name(*parts: str) -> str:
    """Of names from outside, one that every file system takes."""
    return "-".join(_NOT_IN_NAMES.sub("_", part).strip("._") or "_" for part in parts)


class FileWindow(ModalScreen[tuple[Path, bool] | None]):
    """Closes with the path, and whether a file that is there gives way. `endings`: of which the name has to have one."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Close")]
    DEFAULT_CSS = f"""
    FileWindow {{ {WINDOW} }}
    FileWindow > .window {{ width: 76; max-width: 100%; padding: 1 2; }}
    FileWindow Input {{ height: 1; border: none; padding: 0 1; background: $panel; }}
    FileWindow .hint {{ height: auto; color: $text-muted; margin-top: 1; }}
    FileWindow .hint.-error {{ color: $text-error; }}
    """

    def __init__(self, title: str, name: str, words: str, endings: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._heading, self._name, self._words, self._endings = title, name, words, endings
        self._hint = Static(classes="hint")

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = Content(self._heading)
            window.border_subtitle = "Enter writes   Esc closes"
            yield Input(self._name, compact=True)
            yield self._hint

    def on_mount(self) -> None:
        self._say(self._words)

    def _say(self, text: str, *, error: bool = False) -> None:
        self._hint.set_class(error, "-error")
        self._hint.update(Content(text))

    def on_input_changed(self, _event: Input.Changed) -> None:
        self._say(self._words)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        text = event.value.strip()
        if not text:
            return
        path = Path(text).expanduser()
        if self._endings and path.suffix.lower() not in self._endings:
            self._say(f"End it in {', '.join(self._endings[:-1])} or {self._endings[-1]}.", error=True)
        elif not path.parent.is_dir():
            self._say(f"There is no directory {escaped(str(path.parent))}.", error=True)
        elif path.is_dir():
            self._say(f"{escaped(str(path))} is a directory.", error=True)
        elif path.exists():
            question = f"{shorten(escaped(str(path)), 200)} is there already. Replace it? What is in it is lost."
            self.post_message(WindowAsked(ConfirmScreen(question), lambda yes: self._answered(path, yes)))
        else:
            self.dismiss((path, False))

    def _answered(self, path: Path, yes: bool | None) -> None:
        if yes:
            self.dismiss((path, True))
