"""`shadowmesh top`: what moves at this moment, by network and peer."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, size, table, verb
from shadowmesh.client_api.local import DaemonClient
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.status import NetworkStatus, PeerStatus, Status

SORTS = ("rate", "in", "out", "latency", "name")


def attach(app: typer.Typer) -> None:
    verb(app, "top", ["top", "top home --sort latency", "top --count 1 --json"], client=True)(top)


@dataclass(frozen=True, slots=True)
class Moving:
    """A peer and its bytes a second since the look before; None where they aren't known."""

    peer: PeerStatus
    rx: float | None
    tx: float | None

    @property
    def rate(self) -> float:
        return (self.rx or 0.0) + (self.tx or 0.0)


class Rates:
    """From the counters of one look to those of the next. Times are seconds on a clock that never goes back."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._counted: dict[tuple[str, str], tuple[int, int]] = {}

    def look(self, networks: Iterable[NetworkStatus], at: float) -> list[tuple[NetworkStatus, list[Moving]]]:
        seconds = None if self._at is None or at <= self._at else at - self._at
        before, self._counted, self._at = self._counted, {}, at
        found = []
        for network in networks:
            moving = []
            for peer in network.peers:
                key, now = (network.network_id, peer.client_id), (peer.rx_bytes, peer.tx_bytes)
                self._counted[key] = now
                then = before.get(key)
                if seconds is None or then is None or now[0] < then[0] or now[1] < then[1]:  # the daemon started anew
                    moving.append(Moving(peer, None, None))
                else:
                    moving.append(Moving(peer, (now[0] - then[0]) / seconds, (now[1] - then[1]) / seconds))
            found.append((network, moving))
        return found


def top(
    call: Call,
    network: Annotated[
        str | None,
        typer.Argument(
            help="The network's name; all of them without it.", metavar="NETWORK", autocompletion=suggest.network
        ),
    ] = None,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.2, max=3600, help="Seconds of each look.")] = 2.0,
    count: Annotated[int | None, typer.Option("--count", "-c", min=1, help="Looks, then end.")] = None,
    sort: Annotated[
        str, typer.Option("--sort", help="By rate, in, out, latency or name.", autocompletion=suggest.words(*SORTS))
    ] = "rate",
) -> None:
    """What moves now: bytes a second by network and peer, the busiest first; until Ctrl-C."""
    if sort not in SORTS:
        raise ShadowMeshError(
            "bad_option",
            f"--sort {sort!r} isn't usable",
            f"say {', '.join(SORTS[:-1])} or {SORTS[-1]}",
            kind=Kind.USAGE,
        )
    daemon, rates = DaemonClient(call.state_dir), Rates()
    only = None if network is None else daemon.call("network", network=network)["network_id"]

    def look() -> list[tuple[NetworkStatus, list[Moving]]]:
        status: Status = daemon.status()
        chosen = [n for n in status.networks if only in (None, n.network_id)]
        return rates.look(sorted(chosen, key=lambda n: n.name.casefold()), time.monotonic())

    found, due, looks = look(), time.monotonic(), 0
    if call.on_terminal:
        call.screenful(None, _page(found, sort))
    while count is None or looks < count:
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            found = look()
        except ShadowMeshError as e:  # it is being restarted, say
            if e.kind is not Kind.UNREACHABLE:
                raise
            call.note(f"{e.what}; it is asked again")
            continue
        looks += 1
        call.screenful(_document(found, sort), _page(found, sort))


def _sorted(moving: Iterable[Moving], sort: str) -> list[Moving]:
    keys: dict[str, Any] = {
        "rate": lambda m: -m.rate,
        "in": lambda m: -(m.rx or 0.0),
        "out": lambda m: -(m.tx or 0.0),
        "latency": lambda m: float("inf") if m.peer.latency_ms is None else m.peer.latency_ms,
        "name": lambda m: 0,
    }
    return sorted(moving, key=lambda m: (keys[sort](m), m.peer.name.casefold()))


def _sum(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _page(found: Iterable[tuple[NetworkStatus, list[Moving]]], sort: str) -> str:
    parts = []
    for network, moving in found:
        online = sum(m.peer.online is True for m in moving)
        direct = sum(m.peer.path == "direct" for m in moving)
        rates = f"in {_rate(_sum(m.rx for m in moving))}  out {_rate(_sum(m.tx for m in moving))}"
        head = f"{network.name}  {network.state}  {online} of {len(moving)} online  {direct} direct  {rates}"
        rows = (
            [
                m.peer.name,
                m.peer.ip,
                m.peer.path if m.peer.relay is None else f"relay {m.peer.relay}",
                None if m.peer.latency_ms is None else f"{m.peer.latency_ms:.1f} ms",
                _rate(m.rx),
                _rate(m.tx),
                size(m.peer.rx_bytes),
                size(m.peer.tx_bytes),
            ]
            for m in _sorted(moving, sort)
        )
        below = table(("PEER", "ADDRESS", "PATH", "LATENCY", "IN", "OUT", "IN ALL", "OUT ALL"), rows).splitlines()
        parts.append("\n".join([head, *(f"  {line}" for line in below)]) if moving else head)
    return "\n\n".join(parts) or "no network yet: `shadowmesh join INVITE` joins one"


def _rate(value: float | None) -> str | None:
    return "-" if value is None else f"{size(round(value))}/s"


def _document(found: Iterable[tuple[NetworkStatus, list[Moving]]], sort: str) -> dict[str, Any]:
    """`rx_rate` and `tx_rate` are bytes a second, null where they aren't known."""
    networks = [
        {
            "name": network.name,
            "network_id": network.network_id,
            "state": network.state,
            "rx_rate": _sum(m.rx for m in moving),
            "tx_rate": _sum(m.tx for m in moving),
            "peers": [
                {
                    "name": m.peer.name,
                    "client_id": m.peer.client_id,
                    "ip": m.peer.ip,
                    "path": m.peer.path,
                    "latency_ms": m.peer.latency_ms,
                    "rx_rate": m.rx,
                    "tx_rate": m.tx,
                    "rx_bytes": m.peer.rx_bytes,
                    "tx_bytes": m.peer.tx_bytes,
                }
                for m in _sorted(moving, sort)
            ],
        }
        for network, moving in found
    ]
    return {"schema": "shadowmesh.top/1", "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "networks": networks}
