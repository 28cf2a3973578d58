"""What people call the networks of this machine: by name, and where several controllers have one of that name, by both."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from shadowmesh.daemon.network import Network
from shadowmesh.daemon.state import NetworkRecord
from shadowmesh.model.errors import Kind, ShadowMeshError


def find(networks: Collection[Network], text: str) -> Network:
    """The one network that is meant: by NAME (in any case), NAME@CONTROLLER or an id.

    Raises ShadowMeshError: network_unknown, ambiguous (naming the candidates as they can be typed).
    """
    found = [n for n in networks if means(n.record, text)]
    if len(found) == 1:
        return found[0]
    if found:
        candidates = " or ".join(sorted(label(n, networks) for n in found))
        raise ShadowMeshError("ambiguous", f"{text} names several networks", f"say {candidates}", kind=Kind.USAGE)
    names = ", ".join(sorted(label(n, networks) for n in networks)) or "none"
    raise ShadowMeshError("network_unknown", f"no network {text} here", f"there is {names}", kind=Kind.NOT_FOUND)


def means(record: NetworkRecord, text: str) -> bool:
    if text in (str(record.network_id), record.ref):
        return True
    name, _, where = text.lower().partition("@")
    return name == record.name.lower() and where in ("", *_controller(record))


def label(network: Network, networks: Collection[Network]) -> str:
    """What to type for this one among all: its name, with its controller if that is needed, else its id."""
    mine = network.record
    alike = [n.record for n in networks if n is not network and n.record.name.lower() == mine.name.lower()]
    if not alike:
        return mine.name
    for where in _controller(mine):
        if not any(where in _controller(other) for other in alike):
            return f"{mine.name}@{where}"
    return mine.ref


def _controller(record: NetworkRecord) -> tuple[str, ...]:
    """HOST, and HOST:PORT, of its controller's first URL."""
    parts = urlsplit(next(iter(record.controller.identity.urls), "").lower())
    return (parts.hostname or "", parts.netloc)
