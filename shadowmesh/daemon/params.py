"""Reading the parameters of a request at the daemon's socket. Everything raises ShadowMeshError (USAGE) for what isn't as it should be."""

from __future__ import annotations

from typing import Any

from shadowmesh.host.namespaces import check_name
from shadowmesh.model.errors import Kind, ShadowMeshError

_MOST = 1e9  # of a number in a request


def text(params: dict[str, Any], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or not value:
        raise ShadowMeshError("malformed", f"the request has no {key}", "update the command", kind=Kind.USAGE)
    return value


def one_of(params: dict[str, Any], key: str, *words: str) -> str:
    value = text(params, key)
    if value not in words:
        raise ShadowMeshError(f"wrong_{key}", f"no {key} {value[:80]!r}", f"say {' or '.join(words)}", kind=Kind.USAGE)
    return value


def text_or_none(params: dict[str, Any], key: str) -> str | None:
    value = params.get(key)
    if value is not None and not isinstance(value, str):
        raise ShadowMeshError("malformed", f"{key} is no text", "update the command", kind=Kind.USAGE)
    return value


def netns_of(params: dict[str, Any]) -> str | None:
    """The network namespace that is asked for, "" for the daemon's own; None: nothing is said of it."""
    value = params.get("netns")
    if value is None or value == "":
        return value
    return check_name(text(params, "netns"))


def number(params: dict[str, Any], key: str, default: float) -> float:
    value = params.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_MOST < value < _MOST:  # NaN isn't, too
        raise ShadowMeshError("malformed", f"{key} is no number", "update the command", kind=Kind.USAGE)
    return float(value)
