"""Which texts are URLs that one can connect to: what takes others' is asked once, where they come in."""

from __future__ import annotations

from urllib.parse import urlsplit

from shadowmesh.model.text import is_safe


def is_controller_url(url: str) -> bool:
    """Whether it is `https://HOST[:PORT][/PATH]`, with a host that a resolver can be asked for and a port that is one."""
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # UnicodeError, too: a label that is empty or too long
        return False
    return good and not (parts.username or parts.query or parts.fragment) and is_safe(url) and " " not in url
