"""What people call the networks of this machine: by name, and where several controllers have one of that name, by both."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from shadowmesh.daemon.network import Network
from shadowmesh.daemon.state import FormerNetwork, NetworkRecord
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.netmap import Member


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


def means_member(member: Member, text: str) -> bool:
    if text in (member.name, member.client_id):
        return True
    try:
        return ipaddress.ip_address(text) in (member.ip, member.ip6)
    except ValueError:
        return False


def no_peer(text: str, networks: Collection[Network], ended: Collection[FormerNetwork]) -> ShadowMeshError:
    """Why no peer is meant by `text` in these networks of this machine: it is in none that works, or that is itself, or nobody."""
    name = text.partition("@")[0]
    if any(n.me is not None and means_member(n.me, name) for n in networks):
        return ShadowMeshError(
            "that_is_here", f"{text} is this machine", "`shadowmesh peers` lists the others", kind=Kind.USAGE
        )
    return not_in_any(networks, ended) or ShadowMeshError(
        "peer_unknown", f"no peer {text} in the networks here", "`shadowmesh peers` lists them", kind=Kind.NOT_FOUND
    )


def not_in_any(networks: Collection[Network], ended: Collection[FormerNetwork]) -> ShadowMeshError | None:
    """What to say where this machine has no network in which it could have peers; None where it has one."""
    if any(n.record.approved for n in networks):
        return None
    if networks:
        return waiting(min((n.record for n in networks), key=lambda record: record.name))
    if ended:
        return ended_error(min(ended, key=lambda former: former.record.name))
    return ShadowMeshError(
        "no_network", "this machine is in no network yet", "`shadowmesh join INVITE` joins one", kind=Kind.NOT_FOUND
    )


def waiting(record: NetworkRecord) -> ShadowMeshError:
    return ShadowMeshError(
        "pending_approval", f"{record.name}: this machine waits for an administrator's approval",
        f"there: `shadowmesh client approve {record.name} {record.client_name or record.client_id}`", kind=Kind.WAITING,
    )  # fmt: skip


def ended_error(former: FormerNetwork) -> ShadowMeshError:
    name = former.record.name
    return ShadowMeshError(
        f"network_{former.state}", f"{name}: {former.what}",
        f"a new invite joins it again; `shadowmesh leave {name}` forgets it", kind=Kind.NOT_ALLOWED,
    )  # fmt: skip


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
