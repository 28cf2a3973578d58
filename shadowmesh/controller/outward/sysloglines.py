"""Lines of syslog: RFC 5424, framed for TCP and TLS by their length (RFC 6587, RFC 5425), one a datagram for UDP (RFC 5426).

The text after the structured data is JSON in ASCII. Nothing from outside stands anywhere else but in structured data,
escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

MOST_DATAGRAM = 8192  # bytes; what is longer is cut, and says so
MOST_FRAME = 256 * 1024
_FACILITIES = {"audit": 13, "logs": 16, "events": 16}  # log audit; local use 0
_NOTICE, _INFORMATIONAL = 5, 6
_ENTERPRISE = "shadowmesh@32473"  # the number that RFC 5612 leaves for those who have none


def syslog_line(
    stream: str, host: str, kind: str, number: int, at: datetime, content: Mapping[str, Any], most: int
) -> bytes:
    """`kind`: what happened, the message's id; `most`: bytes that the line has at most."""
    severity = _NOTICE if stream == "audit" else _INFORMATIONAL
    priority = _FACILITIES[stream] * 8 + severity
    when = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = json.dumps(content, separators=(",", ":"))

    def line(more: str, text: str) -> bytes:
        data = f'[{_ENTERPRISE} stream="{_value(stream)}" number="{number}"{more}]'
        head = f"<{priority}>1 {when} {_word(host, 255)} shadowmesh-controller - {_word(kind, 32)} {data} "
        return (head + text).encode("ascii", "backslashreplace")

    whole = line("", text)
    return whole if len(whole) <= most else line(' cut="true"', text)[:most]


def framed(line: bytes) -> bytes:
    return b"%d " % len(line) + line


def _word(text: str, most: int) -> str:
    """PRINTUSASCII, or a dash for nothing."""
    return "".join(c if "!" <= c <= "~" else "_" for c in text)[:most] or "-"


def _value(text: str) -> str:
    return "".join(f"\\{c}" if c in '"\\]' else c for c in text)
