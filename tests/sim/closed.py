"""What was closed stays closed: claims that the simulated internet checks with each datagram, and what may still wait."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from shadowmesh.engine import Node
from shadowmesh.engine.timers import Timed
from shadowmesh.model.addresses import SockAddr
from shadowmesh.protocol import relay


@dataclass(frozen=True)
class Closed:
    """What a host may send no more. All None: anything at all."""

    since: float
    why: str
    source: IPv4Address | None = None  # nothing under this overlay address
    dest: IPv4Address | None = None  # nothing to this one …
    addrs: frozenset[SockAddr] = frozenset()  # … nor there

    def forbids(self, remote: SockAddr | None, data: bytes) -> bool:
        if self.source is None and self.dest is None:
            return True
        if remote in self.addrs:
            return True
        if data[:4] == relay.FRAME_HEADER:
            return data[36:40] == _packed(self.source) or data[40:44] == _packed(self.dest)
        if data[:4] == relay.CONTROL_HEADER and self.source is not None:
            return getattr(relay.decode_control(data), "ip", None) == self.source
        return False


def _packed(address: IPv4Address | None) -> bytes | None:
    return None if address is None else address.packed


def ownerless(node: Node) -> list[Timed]:
    """Items with a deadline whose owner is gone."""
    living: set[int] = {id(node)}
    for engine in node.engines.values():
        living |= {id(engine.relays), *map(id, engine.relays.sessions.values()), *map(id, engine.peers.values())}
    return [item for item in node.timers.pending() if id(item) not in living]
