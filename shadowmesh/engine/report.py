"""What people see of a peer: status, why, the export to a standard WireGuard."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING

from shadowmesh.engine.counters import CounterReader
from shadowmesh.engine.events import PathChanged, WireGuardExport
from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.reasons import EXPLANATIONS, Reason
from shadowmesh.model.status import PathAttempt, PathKind, PeerStatus, Why
from shadowmesh.paths.candidates import CandidateKind, Rank, is_site_local, parse_ip
from shadowmesh.paths.values import Probe

if TYPE_CHECKING:
    from shadowmesh.engine.engine import Engine
    from shadowmesh.engine.peer import Peer

_KIND_NAMES = {
    CandidateKind.HOST: "host",
    CandidateKind.REFLEXIVE: "reflexive",
    CandidateKind.MAPPED: "mapped",
    CandidateKind.IPV6: "ipv6",
    CandidateKind.GUESS: "guess",
    CandidateKind.TURN: "turn",
}

DOUBLED = " Just now it doesn't answer, so the relay carries a second copy of everything."


def view(engine: Engine, peer: Peer, now: Now) -> tuple[PathKind, Reason, SockAddr | None, str | None]:
    """Path, reason, endpoint of a direct path, name of the relay of a relayed one."""
    path, handshake = peer.path, peer.handshake
    if path is None or handshake is None:
        return "none", Reason.NONE_PEER_OFFLINE if peer.online is False else Reason.NONE_IDLE, None, None
    if handshake.stale and not handshake.live(now.boot):
        return "none", Reason.NONE_STALE_KEY, None, None
    if path.plain is not None:
        return "direct", Reason.DIRECT_WIREGUARD, path.plain.remote, None
    if path.best is not None and path.policy.p2p:
        return "direct", path.reason, path.best.path.remote, None
    relayed = peer.relay is not None and path.policy.relay_fallback
    if relayed and not peer.missing and handshake.live(now.boot):
        assert peer.relay is not None
        reason = Reason.RELAY_UPGRADING if path.reason is Reason.NONE_IDLE else path.reason
        return "relay", reason, None, peer.relay.relay.name
    if handshake.connecting or path.active(now.boot):
        if peer.missing or (peer.online is False and not relayed):
            return "none", Reason.NONE_PEER_OFFLINE, None, None
        if not relayed and not (path.checking and engine.relays.any_up):
            return "none", Reason.NONE_NO_RELAY, None, None
        return "none", Reason.NONE_CONNECTING, None, None
    return "none", Reason.NONE_PEER_OFFLINE if peer.online is False else Reason.NONE_IDLE, None, None


def status(engine: Engine, peer: Peer, now: Now, counters: CounterReader | None) -> PeerStatus:
    kind, reason, endpoint, relay = view(engine, peer, now)
    traffic = counters.traffic(peer.index) if counters is not None else None
    path, handshake = peer.path, peer.handshake
    latency = path.latency() if path is not None and kind != "none" else None
    doubled = kind == "direct" and path is not None and path.doubled(now.boot)
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
        explanation=EXPLANATIONS[reason] + (DOUBLED if doubled else ""),
    )


def why(engine: Engine, peer: Peer, now: Now, counters: CounterReader | None) -> Why:
    path = peer.path
    probes = sorted(path.probes.values(), key=lambda p: (p.rank, p.path)) if path is not None else []
    next_try = path.next_try - now.boot if path is not None and path.next_try < inf else None
    return Why(
        network=engine.netmap.head.name if engine.netmap is not None else "",
        peer=status(engine, peer, now, counters),
        attempts=tuple(_attempt(p, now.boot) for p in probes),
        next_try_s=None if next_try is None else round(max(0.0, next_try), 1),
        history=tuple(_line(e, now) for e in peer.history or ()),
        drops=counters.drops(peer.index) if counters is not None else {},
    )


def _attempt(probe: Probe, now: float) -> PathAttempt:
    if probe.pong_at > -inf:
        result = "lost" if probe.lost_at > probe.pong_at else "answered"
    else:
        result = "silent" if probe.sent_at > -inf else "not-tried"
    kind = "triggered" if probe.kind is None else _KIND_NAMES[probe.kind]
    since = probe.pong_at if probe.pong_at > -inf else probe.sent_at
    return PathAttempt(
        candidate=str(probe.path.remote),
        kind="lan" if probe.rank is Rank.LAN else kind,
        result=result,
        latency_ms=round(probe.rtt * 1000, 3) if probe.rtt else None,
        age_s=round(now - since, 1) if since > -inf else None,
    )


def _line(event: PathChanged, now: Now) -> str:
    when = _clock(now.wall - (now.boot - event.at))[11:]
    where = event.endpoint or event.relay
    return f"{when} {event.path} ({event.reason.value})" + (f" {where}" if where else "")


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def export_wireguard(engine: Engine, peer: Peer, now: Now) -> WireGuardExport | None:
    """None while no network key is held. The endpoint is where the peer is reached now, else a public one of its own."""
    epoch = engine.keyring.current(engine.node.controller_wall(now))
    if epoch is None or engine.me is None:
        return None
    return WireGuardExport(
        private=engine.identity.private,
        addresses=_ips(engine.me.ip, engine.me.ip6),
        peer=peer.key,
        psk=engine.keyring.psk(peer.key, epoch),
        allowed=_ips(peer.member.ip, peer.member.ip6),
        endpoint=_endpoint(engine, peer),
    )


def _ips(ip: IPAddress, ip6: IPAddress | None) -> tuple[IPAddress, ...]:
    return (ip,) if ip6 is None else (ip, ip6)


def _endpoint(engine: Engine, peer: Peer) -> SockAddr | None:
    path = peer.path
    if path is not None and path.plain is not None:
        return path.plain.remote
    if path is not None and path.best is not None:
        return path.best.path.remote
    known = [c.addr for c in path.remote_candidates] if path is not None else []
    for addr in [*known, *engine.endpoints_of(peer)]:
        ip = parse_ip(addr.host)
        if engine.node.view.on_link(ip) or not is_site_local(ip):
            return addr
    return None
