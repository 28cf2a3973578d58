"""What the log of a network, the audit log and its check say, in words: as commands and the terminal interface tell it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shadowmesh.model.api import AuditEntry, AuditVerdict
    from shadowmesh.model.connectivity import ConnectionLog

_FAULTS = {"changed": "was changed, replaced or taken out", "missing": "is missing or isn't the one that was there"}


def teller(line: ConnectionLog) -> str:
    """The client that told a line; without one the relay or what it comes from."""
    return line.client_name or line.client_id or (line.relay_name or line.relay_id or f"({line.source})")


def log_detail(line: ConnectionLog, size: Callable[[int], str]) -> str | None:
    """What a controller's or relay's line says further, but what stands in the line already. `size`: words for bytes."""
    if line.event_type.startswith("quota_"):
        return _quota(size, **line.detail)
    said = [
        f"{', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in line.detail.items()
        if name != "name" and value not in (None, "")
    ]
    return " ".join(said) or None


def _quota(
    size: Callable[[int], str],
    /,
    plan: str = "",
    month: str = "",
    used: int = 0,
    of: int = 0,
    percent: int = 0,
    **_: object,
) -> str:
    return f"{percent} % of plan {plan} in {month}: {size(used)} of {size(of)}"


def audited_change(detail: dict[str, Any], longest: int | None = None) -> str:
    """What was changed into what; of something made or removed, how it began or ended; cut at `longest` characters."""
    before, after = (side if isinstance(side := detail.get(name), dict) else {} for name in ("before", "after"))
    said = []
    for name in dict.fromkeys((*before, *after)):
        old, new = (json.dumps(side[name], ensure_ascii=False) if name in side else "" for side in (before, after))
        said.append(f"{name} {old} -> {new}" if old and new else f"{name} {old or new}")
    text = ", ".join(said)
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"


def audited_about(entry: AuditEntry) -> str:
    """What it was done to, and in which network, in small letters."""
    return f"{entry.target}\n{entry.detail.get('network') or ''}".lower()


def verdict_words(verdict: AuditVerdict) -> str:
    if verdict.ok:
        return f"{verdict.entries} entries, the chain holds; {_witnesses(verdict)}"
    return f"audit entry {verdict.broken_at} {_FAULTS[verdict.fault or 'changed']}; {_witnesses(verdict)}"


def _witnesses(verdict: AuditVerdict) -> str:
    if not verdict.asked:
        return "no client is connected to this controller that could be a witness of its end"
    heard = f"{verdict.witnesses} of {verdict.asked} clients answered as witnesses on this controller"
    return heard if verdict.vouched_for is None else f"{heard} and vouch for it up to entry {verdict.vouched_for}"
