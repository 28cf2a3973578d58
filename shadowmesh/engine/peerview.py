"""What people see of a peer: where its data goes, and why."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from shadowmesh.engine.handshake import Handshake
from shadowmesh.engine.relaysession import RelaySession
from shadowmesh.engine.route import PeerRoute
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import PathKind
from shadowmesh.paths.peerpath import PeerPath


class PeerView(NamedTuple):
    """`endpoint` of a direct path, `relay` (its name) of a relayed one."""

    path: PathKind
    reason: Reason
    endpoint: SockAddr | None = None
    relay: str | None = None


def idle_view(online: bool | None) -> PeerView:
    """Of a peer that nobody speaks to."""
    return PeerView("none", Reason.NONE_PEER_OFFLINE if online is False else Reason.NONE_IDLE)


def active_view(
    path: PeerPath,
    handshake: Handshake,
    route: PeerRoute,
    online: bool | None,
    now: float,
    *,
    relays_up: bool,
    silent: bool,
) -> PeerView:
    """Of an active peer. `relays_up`: whether this host has a session on any relay; `silent`: the peer was asked and
    doesn't answer, so that its session is worth nothing."""
    live, known = handshake.live(now) and not silent, handshake.done_at > -inf
    if handshake.stale and not live:
        return PeerView("none", Reason.NONE_STALE_KEY)
    if path.plain is not None:
        return PeerView("direct", Reason.DIRECT_WIREGUARD, path.plain.remote)
    if path.best is not None and path.policy.p2p:
        return PeerView("direct", path.reason, path.best.path.remote)
    unanswered = handshake.unanswered or silent
    idle = known and not handshake.connecting and not unanswered and not path.active(now)
    relay = (route.next_relay(now) if idle else route.relay) if path.policy.relay_fallback else None
    if relay is not None and not route.missing and (live or (idle and online is not False)):
        return relayed_view(path, relay)
    if handshake.connecting or path.active(now):
        if route.missing or (online is False and (relay is None or silent)):
            return PeerView("none", Reason.NONE_PEER_OFFLINE)
        if relay is None and not (path.checking and relays_up):
            return PeerView("none", Reason.NONE_NO_RELAY)
        return PeerView("none", Reason.NONE_CONNECTING if handshake.connecting or not silent else Reason.NONE_NO_ANSWER)
    if online is False or route.missing:
        return PeerView("none", Reason.NONE_PEER_OFFLINE)
    if unanswered:
        return PeerView("none", Reason.NONE_NO_ANSWER)
    return PeerView("none", Reason.NONE_NO_RELAY) if known else idle_view(online)


def relayed_view(path: PeerPath | None, relay: RelaySession | None) -> PeerView:
    """Of data that goes by relay."""
    reason = path.reason if path is not None else Reason.NONE_IDLE
    if reason is Reason.NONE_IDLE and path is not None and path.forgotten:
        reason = Reason.RELAY_IDLE
    if not reason.value.startswith("relay."):
        reason = Reason.RELAY_UPGRADING
    return PeerView("relay", reason, None, relay.relay.name if relay is not None else None)
