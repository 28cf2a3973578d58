"""Text that a terminal would obey is refused at the edge, and visible wherever it is shown all the same."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.text import check_text, escape_log, escaped, is_safe, is_visible, safe_part, safe_pattern

UNSAFE = [
    "\x1b[2J",
    "a\x00b",
    "\x9b31m",
    "a\u202eb",
    "\u2066x",
    "a\nb",
    "\u2028",
    "\x7f",
    "\ud800",
    "\U000e0041",
    "a\u3164b",
    "\uffa0",
]


@pytest.mark.parametrize("text", UNSAFE)
def test_what_a_terminal_obeys_is_refused_and_made_visible(text: str) -> None:
    assert not is_safe(text)
    assert is_safe(escaped(text))
    with pytest.raises(ShadowMeshError) as e:
        check_text("name", text, 100)
    assert is_safe(e.value.what)


@pytest.mark.parametrize("text", ["", "web-1", "Büro Zürich", "کتاب\u200cخانه", "👩\u200d💻", "50 %"])
def test_text_of_people_stays_as_it_is(text: str) -> None:
    assert escaped(text) == check_text("name", text, 100) == text


@pytest.mark.parametrize(
    ("text", "visible"),
    [("a", True), (" ü ", True), ("👩\u200d💻", True), ("", False), (" \u00a0\u3000", False), ("\u200c\u200d", False),
     ("\u3164", False), ("\ufe0f\U000e0101", False), ("\u2800", False)],
)  # fmt: skip
def test_what_shows_nothing_is_told_from_text(text: str, visible: bool) -> None:
    assert is_visible(text) is visible


def test_the_pattern_for_descriptions_is_what_is_checked() -> None:
    safe, visible = re.compile(safe_pattern()), re.compile(safe_pattern(visible=True))
    for n in (*range(0xD800), *range(0xE000, sys.maxunicode + 1)):
        character = chr(n)
        shows = is_safe(character)
        assert (safe.fullmatch(character) is not None) is shows, hex(n)
        assert (visible.fullmatch(character) is not None) is (shows and is_visible(character)), hex(n)


def test_too_long_is_refused() -> None:
    with pytest.raises(ShadowMeshError, match="longer than 3"):
        check_text("name", "abcd", 3)


def test_lines_may_be_kept() -> None:
    assert escaped("a\n\x1bb", keep="\n") == "a\n\\x1bb"


@given(st.text())
def test_whatever_it_was_it_is_safe_afterwards(text: str) -> None:
    assert is_safe(escaped(text))


@pytest.mark.parametrize("text", UNSAFE)
def test_a_log_entry_is_text_whatever_its_fields_hold(text: str) -> None:
    class Odd:
        def __repr__(self) -> str:
            return f"Odd({text})"

    event = {"event": text, "names": [text, (text,)], "by": {text: text}, "odd": Odd(), "port": 1, "nothing": None}
    found = escape_log(None, "info", dict(event))
    assert (found["port"], found["nothing"]) == (1, None)

    def all_text(value: object) -> str:
        if isinstance(value, dict):
            return "".join(all_text(k) + all_text(v) for k, v in value.items())
        return "".join(map(all_text, value)) if isinstance(value, list) else str(value)

    assert is_safe(all_text(found))


def test_a_traceback_in_the_log_keeps_its_lines() -> None:
    event = escape_log(None, "error", {"event": "x", "exception": "Traceback\n  ValueError: \x1b[2J"})
    assert event["exception"] == "Traceback\n  ValueError: \\x1b[2J"
    assert safe_part("caf\udce9\x1b-1") == "caf-1"
