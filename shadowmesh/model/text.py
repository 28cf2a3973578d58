"""Text from outside on its way to a person: what a terminal would obey or be fooled by, found and made visible.

Unsafe are control characters (C0, C1, DEL, NUL), bidirectional and other invisible formatting, surrogates, and Unicode's
line separators: what ECMA-48 terminals obey, and what makes text read otherwise than it is (Unicode TR 36, TR 39).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import MutableMapping
from functools import cache
from typing import Any

from shadowmesh.model.errors import Kind, ShadowMeshError

_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")  # spelling of several scripts and of emoji needs them
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")  # letters and marks by category that show nothing
_SELECTORS = frozenset(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_BLANKS = _JOINERS | _SELECTORS | {"\u2800"}  # harmless, and nothing to see: the last is Braille without dots


def is_safe(text: str) -> bool:
    """Whether `text` is one line that shows what it is."""
    return (text.isascii() and text.isprintable()) or not any(map(_unsafe, text))


def is_visible(text: str) -> bool:
    """Whether anything of `text` can be seen."""
    return not all(c.isspace() or c in _BLANKS or _unsafe(c) for c in text)


def escaped(text: str, keep: str = "") -> str:
    r"""`text` with each unsafe character as `\x1b` or `\u202e`, but for those in `keep`. Safe text comes back as it is."""
    if is_safe(text):
        return text
    return "".join(_escape(c) if _unsafe(c) and c not in keep else c for c in text)


def safe_part(text: str) -> str:
    """`text` without what is unsafe in it: for a wish that may be made smaller, as a name made of a host name."""
    return "".join(c for c in text if not _unsafe(c))


def json_text(value: Any) -> str:
    r"""One line of JSON that is also safe to show: what a terminal would obey is a `\u` escape in it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if is_safe(text) else "".join(c if is_safe(c) else json.dumps(c)[1:-1] for c in text)


def escape_log(_logger: object, _level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: what others say stands in the log as text. Lines of a traceback stay lines."""
    for name, value in event.items():
        event[name] = _escape_value(value, "\n\t" if name == "exception" else "")
    return event


def _escape_value(value: Any, keep: str = "") -> Any:
    if isinstance(value, str):
        return escaped(value, keep)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_escape_value(item, keep) for item in value]
    if isinstance(value, dict):
        return {_escape_value(key): _escape_value(item, keep) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return escaped(str(value), keep)


def whole_number(text: str) -> int:
    """The number of 1 to 18 decimal digits. Raises ValueError for what `int` takes besides: signs, spaces, underscores, other scripts' digits."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ValueError(f"not a whole number: {text[:20]!r}")
    return int(text)


def check_text(what: str, text: str, most: int) -> str:
    """`text`, if it is safe and has at most `most` characters. Raises ShadowMeshError(bad_text), naming `what`."""
    if len(text) > most:
        raise ShadowMeshError("bad_text", f"the {what} is longer than {most} characters", "shorten it", kind=Kind.USAGE)
    if not is_safe(text):
        raise ShadowMeshError(
            "bad_text", f"the {what} has control or invisible characters: {escaped(text)[:80]}", "leave them out",
            kind=Kind.USAGE,
        )  # fmt: skip
    return text


def canonical_email(text: str) -> str:
    """One spelling of an e-mail address: in lower case, its characters composed (Unicode NFC)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())


# A dot-string and a domain's name (RFC 5321), in whatever script. No quotes, comments, lists, groups and encoded words (RFC 2047, `=?`),
# which mail libraries take apart into other recipients; no routes (`%`, `!`), pipes and files, which mail servers may follow.
_LOCAL_PART = r"""[^\s\x00-\x1f\x7f@"(),:;<>\[\]\\!%?|/.]+"""
_LABEL = r"[^\s\x00-,./:-@\[-`{-\x7f]+"
MAILBOX = rf"{_LOCAL_PART}(?:\.{_LOCAL_PART})*@{_LABEL}(?:\.{_LABEL})*"
_MAILBOX = re.compile(MAILBOX)


def is_mailbox(text: str) -> bool:
    """Whether a mail to this address goes to one mailbox, whatever reads it on the way."""
    return _MAILBOX.fullmatch(text) is not None


def without_tag(email: str) -> str:
    """The mailbox of an address with a tag, `ann+tag@example.org`: many servers keep both in one."""
    local, _, domain = email.rpartition("@")
    return f"{local.partition('+')[0] or local}@{domain}"


def _unsafe(c: str) -> bool:
    return (unicodedata.category(c) in _UNSAFE_CATEGORIES and c not in _JOINERS) or c in _FILLERS


@cache
def safe_pattern(*, visible: bool = False) -> str:
    """A regular expression (ECMA 262) of what `is_safe`, and `is_visible` if so wished, take: for descriptions of an API.

    Surrogates aren't in it, as they are no characters. Looks at all that may be unsafe, some 30 ms.
    """
    unsafe: list[tuple[int, int]] = []
    for n in (*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE1000)):  # a test looks at the others
        if _unsafe(chr(n)):
            unsafe[-1:] = [(unsafe[-1][0], n)] if unsafe and unsafe[-1][1] == n - 1 else [*unsafe[-1:], (n, n)]
    ranges = "".join(_in_class(a) if a == b else f"{_in_class(a)}-{_in_class(b)}" for a, b in unsafe)
    any_ = f"[^{ranges}]*"
    return (
        f"^{any_}[^\\s{ranges}{''.join(map(_in_class, sorted(map(ord, _BLANKS))))}]{any_}$" if visible else f"^{any_}$"
    )


def _in_class(n: int) -> str:
    """As ECMA 262 and others read it; what has more than four hex digits stands for itself."""
    return f"\\u{n:04x}" if n < 0x10000 else chr(n)


def _escape(c: str) -> str:
    return c.encode("unicode_escape").decode()
