"""What people see of a peer: status, why, the export to a standard WireGuard."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

from shadowmesh.engine.counterreader import CounterReader
from shadowmesh.engine.engine import Engine
from shadowmesh.engine.events import PathChanged, WireGuardExport
from shadowmesh.engine.peer import Peer, endpoint_candidates
from shadowmesh.engine.surroundings import Surroundings
from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.reasons import EXPLANATIONS, FALLBACK_FORBIDDEN, NO_RELAY_REACHED, Reason
from shadowmesh.model.status import PathAttempt, PeerStatus, Why
from shadowmesh.paths.candidates import CandidateKind, HostView, Rank, reachable
from shadowmesh.paths.values import PathProbe

_KIND_NAMES = {
    CandidateKind.HOST: "host",
    CandidateKind.REFLEXIVE: "reflexive",
    CandidateKind.MAPPED: "mapped",
    CandidateKind.IPV6: "ipv6",
    CandidateKind.GUESS: "guess",
    CandidateKind.TURN: "turn",
    CandidateKind.NESTED: "nested",
}

NARROW = " Full-size packets don't get through on it, packets of {} bytes do."
DOUBLED = " Just now it doesn't answer, so the relay carries a second copy of everything."


def status(peer: Peer, now: Now, counters: CounterReader | None) -> PeerStatus:
    kind, reason, endpoint, relay = peer.view(now)
    traffic = counters.traffic(peer.index) if counters is not None else None
    path, handshake = peer.path, peer.handshake
    latency = path.latency() if path is not None and kind != "none" else None
    doubled = kind == "direct" and path is not None and path.doubled(now.boot)
    mtu = path.mtu if path is not None and kind != "none" else None
    done = handshake.done_at if handshake is not None else -inf
    return PeerStatus(
        name=peer.member.name,
        client_id=peer.member.client_id,
        ip=str(peer.member.ip),
        online=peer.online,
        path=kind,
        idle=kind != "none" and path is not None and not path.active(now.boot),
        endpoint=str(endpoint) if endpoint is not None else None,
        relay=relay if relay is not None or not doubled or peer.relay is None else peer.relay.relay.name,
        latency_ms=None if latency is None else round(latency * 1000, 3),
        rx_bytes=traffic.rx if traffic is not None else 0,
        tx_bytes=traffic.tx if traffic is not None else 0,
        last_handshake=_clock(now.wall - (now.boot - done)) if done > -inf else None,
        reason=reason.value,
        explanation=_explanation(peer, reason) + (DOUBLED if doubled else "") + (NARROW.format(mtu) if mtu else ""),
        mtu=mtu,
    )


def _explanation(peer: Peer, reason: Reason) -> str:
    if reason is Reason.NONE_NO_RELAY and peer.path is not None:
        return NO_RELAY_REACHED if peer.path.policy.relay_fallback else FALLBACK_FORBIDDEN
    return EXPLANATIONS[reason]


def why(engine: Engine, peer: Peer, now: Now, counters: CounterReader | None) -> Why:
    path = peer.path
    probes = sorted(path.probes.values(), key=lambda p: (p.rank, p.path)) if path is not None else []
    next_try = path.next_try - now.boot if path is not None and path.next_try < inf else None
    return Why(
        network=engine.netmap.head.name if engine.netmap is not None else "",
        peer=status(peer, now, counters),
        attempts=tuple(_attempt(p, path.mtu_of(p.path), now.boot) for p in probes if path is not None),
        next_try_s=None if next_try is None else round(max(0.0, next_try), 1),
        history=tuple(_line(e, now) for e in peer.history or ()),
        drops=counters.drops(peer.index) if counters is not None else {},
    )


def _attempt(probe: PathProbe, mtu: int | None, now: float) -> PathAttempt:
    if probe.pong_at > -inf:
        result = "lost" if probe.lost_at > probe.pong_at else "answered"
    else:
        result = "silent" if probe.sent_at > -inf else "not-tried"
    kind = "triggered" if probe.kind is None else _KIND_NAMES[probe.kind]
    since = probe.pong_at if probe.pong_at > -inf else probe.sent_at
    return PathAttempt(
        candidate=str(probe.path.remote),
        kind={Rank.LAN: "lan", Rank.NESTED: "nested"}.get(probe.rank, kind),
        result=result,
        latency_ms=round(probe.rtt * 1000, 3) if probe.rtt else None,
        age_s=round(now - since, 1) if since > -inf else None,
        mtu=mtu,
    )


def _line(event: PathChanged, now: Now) -> str:
    when = _clock(now.wall - (now.boot - event.at))[11:]
    where = event.endpoint or event.relay
    return f"{when} {event.path} ({event.reason.value})" + (f" {where}" if where else "")


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def export_wireguard(engine: Engine, peer: Peer, around: Surroundings, now: Now) -> WireGuardExport | None:
    """None while no network key is held. The endpoint is one that needs no hole in a NAT."""
    membership, me = engine.membership, engine.me
    epoch = membership.network_keys.current(around.controller_wall(membership.network_id, now))
    if epoch is None or me is None:
        return None
    return WireGuardExport(
        private=membership.private,
        addresses=_ips(me.ip, me.ip6),
        peer=peer.key,
        psk=membership.network_keys.psk(peer.key, epoch),
        allowed=_ips(peer.member.ip, peer.member.ip6),
        endpoint=_endpoint(peer, around.view),
    )


def _ips(ip: IPAddress, ip6: IPAddress | None) -> tuple[IPAddress, ...]:
    return (ip,) if ip6 is None else (ip, ip6)


def _endpoint(peer: Peer, view: HostView) -> SockAddr | None:
    """Of the addresses that are reachable by themselves, the one in use, else one that answered, else the best."""
    path = peer.path
    candidates = path.remote_candidates if path is not None else ()
    if not candidates and peer.presence is not None:
        candidates = endpoint_candidates(peer.presence.endpoints)
    open_ones = reachable(view, candidates)
    heard = path.heard_from() if path is not None else []
    return next((addr for addr in (*heard, *open_ones) if addr in open_ones), None)
