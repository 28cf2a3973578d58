"""Text of whole lines."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static


class Lines(Static):
    """Lines that are cut, not wrapped. Shown again only when they changed, laid out again only when their number did."""

    DEFAULT_CSS = "Lines { height: auto; text-wrap: nowrap; text-overflow: ellipsis; }"

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  (Textual's name)
        super().__init__(id=id)
        self._text: Text | None = None

    def put(self, text: Text) -> None:
        old, self._text = self._text, text
        if old is not None and old == text and old.style == text.style:
            return
        self.update(text, layout=old is None or old.plain.count("\n") != text.plain.count("\n"))
