"""Numbers and states as people read them."""

from __future__ import annotations

import datetime as dt

from shadowmesh.model import api

_PATHS = {"p2p": "P2P", "relay": "Relay", "hybrid": "Hybrid"}


def rate(bytes_per_second: float | None) -> str:
    """Bits per second; a dash where nobody told."""
    if bytes_per_second is None:
        return "–"
    bits = bytes_per_second * 8
    for unit, least in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits >= least:
            return f"{bits / least:.3g} {unit}"
    return f"{bits:.0f} bit/s"


def size(count: float | None) -> str:
    """Bytes, in powers of 1000."""
    if count is None:
        return "–"
    for unit, least in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return f"{count / least:.3g} {unit}"
    return f"{count:.0f} B"


def milliseconds(latency: float | None) -> str:
    return "–" if latency is None else f"{latency:.3g} ms"


def moment(at: dt.datetime | None) -> str:
    return "–" if at is None else f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"


def path_of(kind: str | None) -> str:
    return _PATHS.get(kind or "", "–")


def health(network: api.Network) -> tuple[str, str]:
    """A class of the style sheet, and a word."""
    if network.clients == 0:
        return "idle", "No machines yet"
    if network.clients_online == 0:
        return "bad", "All offline"
    return ("good", "Healthy") if network.clients_online == network.clients else ("fair", "Some offline")
