"""A message in the middle of an otherwise empty place."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from shadowmesh_tui.notices import Notice
from shadowmesh_tui.palette import Palette

_STYLE = {"info": "title", "warning": "warning", "error": "error"}


class NoticePane(Vertical):
    DEFAULT_CSS = """
    NoticePane { align: center middle; height: 1fr; padding: 0 2; }
    NoticePane > Static { width: auto; max-width: 76; height: auto; text-align: center; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._words = Static()

    def compose(self) -> ComposeResult:
        yield self._words

    def show(self, notice: Notice, styles: Palette) -> None:
        words = Text(justify="center").append(notice.title, style=styles[_STYLE[notice.level]])
        if notice.remedy:
            words.append("\n\n").append(notice.remedy, style=styles["label"])
        self._words.update(words)
