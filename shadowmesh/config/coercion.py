"""From what a file, the environment or an argument says to a setting's value, and what may be said of addresses and durations."""

from __future__ import annotations

import difflib
import ipaddress
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shadowmesh.config.setting import Setting
from shadowmesh.model.addresses import LAST_PORT, SockAddr
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import Secret
from shadowmesh.model.relaylink import is_relay_url
from shadowmesh.model.text import is_safe
from shadowmesh.model.urls import is_controller_url

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
STUN_PORT = 3478


def coerce(setting: Setting, raw: str | list[str], base: Path | None = None) -> Any:
    """The value that a text, or a list of texts, stands for. `base`: where relative paths begin. Raises ValueError with what it should be."""
    if setting.listed:
        items = raw if isinstance(raw, list) else [word for word in re.split(r"[,\s]+", raw) if word]
        value: Any = tuple(_checked(setting, _one(setting, item, base)) for item in items)
        return tuple(dict.fromkeys(value))
    if isinstance(raw, list):
        raise ValueError("it is one value, not a list")
    return _checked(setting, _one(setting, raw, base))


def _checked(setting: Setting, value: Any) -> Any:
    return setting.says.check(value) if setting.says.check is not None else value


def _one(setting: Setting, text: str, base: Path | None) -> Any:
    kind = str if setting.listed and not setting.choices else setting.kind
    if not is_safe(text):
        raise ValueError("it has control or invisible characters")
    if setting.choices:
        return _choice(text, setting.choices)
    if kind is bool:
        word = text.strip().lower()
        if word not in (*_YES, *_NO):
            raise ValueError(f"{text!r} is neither true nor false")
        return word in _YES
    if kind is int:
        if re.fullmatch(r"-?[0-9]{1,18}", text.strip()) is None:
            raise ValueError(f"{text!r} is not a whole number")
        return int(text)
    if kind is float:
        return duration(text)
    if kind is Secret:
        return Secret(text.encode())
    if not text.strip():
        raise ValueError("it is empty")
    if kind is Path:
        path = Path(text).expanduser()
        return path if base is None else base / path
    return text.strip()


def _choice(text: str, choices: tuple[str, ...]) -> str:
    if text in choices:
        return text
    near = nearest(text.lower(), choices)
    raise ValueError(f"{text!r} is none of {', '.join(choices)}" + (f"; did you mean {near!r}?" if near else ""))


def nearest(word: str, words: list[str] | tuple[str, ...]) -> str | None:
    """What was meant, perhaps."""
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return found[0] if found else None


def duration(text: str) -> float:
    """Seconds of `90s`, `30m`, `24h`, `7d` or `2w`. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,9}) *([smhdw])", text.strip().lower())
    if found is None or int(found[1]) == 0:
        raise ValueError(f"{text!r} is not a duration: write it as 90s, 30m, 24h or 7d")
    return float(int(found[1]) * _UNITS[found[2]])


def between(least: int, most: int) -> Any:
    """A check of numbers."""

    def check(value: int) -> int:
        if not least <= value <= most:
            raise ValueError(f"{value} is not between {least} and {most}")
        return value

    return check


def listen_address(text: str) -> str:
    """ADDRESS:PORT, or a port alone, for all IPv4 addresses."""
    try:
        found = SockAddr.parse(f"0.0.0.0:{text}" if text.isdigit() else text)
    except MalformedError as e:
        raise ValueError(f"{text!r} is not ADDRESS:PORT") from e
    if found.next_port is None:
        raise ValueError(f"the port after {found.port} is needed, too, for STUN, and there is none")
    return str(found)


def controller_url(text: str) -> str:
    """https://HOST[:PORT], without a slash at its end."""
    url = text.rstrip("/")
    if not is_controller_url(url):
        raise ValueError(f"{text!r} is not https://HOST:PORT")
    return url


def public_url(text: str) -> str:
    url = controller_url(text)
    if urlsplit(url).path:
        raise ValueError(f"{text!r} is not https://HOST:PORT")
    return url


def relay_url(text: str) -> str:
    if not is_relay_url(text):
        raise ValueError(f"{text!r} is neither ws://HOST:9545 nor wss://HOST:PORT")
    return text.rstrip("/")


def fingerprint(text: str) -> str:
    found = text.strip().lower()
    if re.fullmatch(r"sha256:[0-9a-f]{64}", found) is None:
        raise ValueError(f"{text[:80]!r} is not sha256: and 64 hex digits")
    return found


def ipv4_pool(text: str) -> str:
    try:
        pool = ipaddress.IPv4Network(text)
    except ValueError as e:
        raise ValueError(f"{text!r} is not an IPv4 subnet as 10.100.0.0/16 ({e})") from e
    if not 8 <= pool.prefixlen <= 24:
        raise ValueError(f"{text} has a prefix of /{pool.prefixlen}, not /8 to /24")
    return str(pool)


def stun_server(text: str) -> str:
    """`stun:HOST[:PORT]` (RFC 7064), or HOST:PORT; the normal form is `stun:HOST:PORT`."""
    scheme, _, rest = text.partition(":") if re.match(r"[a-z]+:(?![0-9]+$)", text) else ("stun", "", text)
    if scheme != "stun":
        raise ValueError(f"{text!r} is not stun:HOST:PORT; only STUN over UDP is spoken")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or "", STUN_PORT if parts.port is None else parts.port
        host.encode("idna")
    except ValueError as e:
        raise ValueError(f"{text!r} is not stun:HOST:PORT") from e
    if not host or not 0 < port <= LAST_PORT or rest not in (parts.netloc,) or parts.username is not None:
        raise ValueError(f"{text!r} is not stun:HOST:PORT")
    return f"stun:[{host}]:{port}" if ":" in host else f"stun:{host}:{port}"


def ip_network(text: str) -> str:
    """An IPv4 or IPv6 network in its normal form."""
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError as e:
        raise ValueError(f"{text!r} is not a network as 10.20.0.0/16 ({e})") from e
