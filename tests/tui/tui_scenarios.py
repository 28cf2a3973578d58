"""What a daemon might say: plausible networks, step by step in time."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from shadowmesh.model.reasons import EXPLANATIONS, Reason
from shadowmesh.model.status import (
    NatStatus,
    NetworkStatus,
    PathAttempt,
    PathKind,
    PeerStatus,
    PingTry,
    Status,
    Why,
)

START = 1_790_000_000.0  # Unix time of the first status


def handshake(step: int, ago: float) -> str:
    moment = datetime.fromtimestamp(START + step - ago, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def peer(
    name: str,
    n: int,
    reason: Reason,
    *,
    step: int = 0,
    latency: float | None = None,
    endpoint: str | None = None,
    relay: str | None = None,
    rx: float = 0,
    tx: float = 0,
    ago: float | None = None,
    online: bool | None = True,
    idle: bool = False,
) -> PeerStatus:
    """`rx`, `tx`: bytes per second on average, which wobble; `ago`: seconds since the handshake at step 0."""
    path: PathKind = reason.value.split(".")[0]  # type: ignore[assignment]
    wobble = 1 + 0.6 * math.sin(step / 3 + n)

    def sent(each_second: float) -> int:
        return int(sum(each_second * (1 + 0.8 * math.sin(i / 4 + n)) for i in range(step + 1)))

    return PeerStatus(
        name=name,
        client_id=f"cli_{n:04d}",
        ip=f"10.66.{n // 250}.{n % 250 + 2}",
        online=online,
        path=path,
        idle=idle,
        endpoint=endpoint,
        relay=relay,
        latency_ms=None if latency is None else round(latency * (0.8 + 0.2 * wobble), 2),
        rx_bytes=sent(rx),
        tx_bytes=sent(tx),
        last_handshake=None if ago is None else handshake(step, (ago + step) % 120),
        reason=reason.value,
        explanation=EXPLANATIONS[reason],
    )


def office_peers(step: int) -> tuple[PeerStatus, ...]:
    """Six machines behind different NATs."""
    return (
        peer("nas", 1, Reason.DIRECT_LAN, step=step, latency=0.4, endpoint="192.168.7.20:41641", rx=9.4e6, tx=310e3, ago=31),
        peer("laptop-anna", 2, Reason.DIRECT_PUNCHED, step=step, latency=18.2, endpoint="203.0.113.44:51820", rx=84e3, tx=1.3e6, ago=74),
        peer("build-1", 3, Reason.DIRECT_PUBLIC, step=step, latency=6.1, endpoint="198.51.100.9:41641", rx=2.1e6, tx=44e3, ago=12),
        peer("phone-ben", 4, Reason.RELAY_BOTH_SYMMETRIC, step=step, latency=47.5, relay="relay1", rx=5.2e3, tx=2.3e3, ago=55),
        peer("edge-rome", 5, Reason.RELAY_UPGRADING, step=step, latency=39.0, relay="relay1", rx=820, tx=900, ago=3),
        peer("printer", 6, Reason.NONE_PEER_OFFLINE, step=step, online=False),
    )  # fmt: skip


def network(
    peers: tuple[PeerStatus, ...],
    *,
    name: str = "office",
    state: str = "up",
    controller: str = "connected",
    ip: str = "10.66.0.2",
    interface: str = "shadowmesh0",
    error: str | None = None,
) -> NetworkStatus:
    return NetworkStatus(
        name=name,
        network_id=f"id-of-{name}",
        ip=ip,
        interface=interface,
        state=state,  # type: ignore[arg-type]
        controller=controller,  # type: ignore[arg-type]
        map_serial=17,
        epoch=3,
        client_id="cli_self",
        subnet="10.66.0.0/16",
        home_relay="relay1",
        error=error,
        peers=peers,
    )


def status(*networks: NetworkStatus, warnings: tuple[str, ...] = ()) -> Status:
    return Status(
        version="0.3.0",
        pump="python",
        networks=networks,
        nat=NatStatus(type="port_restricted", mapping="endpoint-independent", public="198.51.100.7:41641"),
        warnings=warnings,
    )


def office(steps: int = 45) -> list[Status]:
    """One status per second for `steps` seconds."""
    return [status(network(office_peers(step))) for step in range(steps)]


def crowd(count: int, step: int = 0, order: int = 1) -> Status:
    """Many peers of all kinds. `order` -1 lists them backwards."""
    kinds = (Reason.DIRECT_PUNCHED, Reason.DIRECT_PUNCHED, Reason.RELAY_UPGRADING, Reason.DIRECT_LAN, Reason.NONE_IDLE)
    peers = [
        peer(
            f"host-{n:03d}",
            n,
            kinds[n % len(kinds)],
            step=step,
            latency=None if n % len(kinds) == 4 else 2.0 + n % 97,
            endpoint=f"203.0.113.{n % 250}:51820",
            relay=f"relay{n % 2 + 1}" if n % len(kinds) == 2 else None,
            rx=(n % 7) * 1000,
            tx=(n % 5) * 500,
            ago=n % 120,
        )
        for n in range(1, count + 1)
    ]
    return status(network(tuple(peers[::order])))


def why_of(shown: PeerStatus) -> Why:
    return Why(
        network="office",
        peer=shown,
        attempts=(
            PathAttempt(candidate="192.168.1.23:51820", kind="lan", result="silent"),
            PathAttempt(candidate="203.0.113.44:51820", kind="reflexive", result="answered", latency_ms=18.2, age_s=2),
            PathAttempt(candidate="[2001:db8::44]:51820", kind="ipv6", result="not-tried"),
        ),
        next_try_s=41 if shown.path == "relay" else None,
        history=(
            "09:12:40Z none → relay (relay.upgrading)",
            "09:12:41Z relay → direct (direct.punched)",
        ),
    )


def answers(*latencies: float | None) -> list[PingTry]:
    return [
        PingTry(seq=i, ok=ms is not None, latency_ms=ms, path="direct" if ms else "none", endpoint="203.0.113.44:51820",
                reason="direct.punched")
        for i, ms in enumerate(latencies, 1)
    ]  # fmt: skip
