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
        resized = old is None or old.plain.count("\n") != text.plain.count("\n")
        self.update(text, layout=resized)
        if resized:
            # Textual takes a layout that was asked for and not begun yet as the one that is asked for now, also where
            # another widget's layout has measured this one in between: then the height stays that of the text before.
            self.call_after_refresh(self.refresh, layout=True)
