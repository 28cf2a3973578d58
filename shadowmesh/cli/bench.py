"""`shadowmesh bench`: how fast the mesh is between this machine and another of one's own."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from shadowmesh.bench import cpu, messages
from shadowmesh.bench.client import Client
from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, table, verb
from shadowmesh.client_api import unixsocket
from shadowmesh.client_api.local import SOCKET_NAME, DaemonClient
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.status import PeerStatus

T = TypeVar("T")
_SIZE = 64
_WAKE = 10.0  # seconds to wait for the peer's first answer


def attach(app: typer.Typer) -> None:
    verb(app, "bench", ["bench --serve", "bench laptop --seconds 2"], client=True)(bench)


def bench(
    call: Call,
    peer: Annotated[
        str | None,
        typer.Argument(
            help="A name, NAME@NETWORK, an overlay address or a client id.",
            metavar="PEER",
            show_default=False,
            autocompletion=suggest.peer,
        ),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Be the far side, until Ctrl-C.")] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.2, max=messages.MAX_SECONDS, help="Seconds of each measurement.")
    ] = 4.0,
    streams: Annotated[
        int, typer.Option("--streams", min=1, max=messages.MAX_STREAMS, help="TCP streams, besides one.")
    ] = 4,
    reverse: Annotated[bool, typer.Option("--reverse", help="Only from PEER to this machine.")] = False,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The listener's TCP port.")] = messages.PORT,
) -> None:
    """Measure the way to a peer, which has to run `shadowmesh bench --serve`: round trip, TCP, small datagrams."""
    if serve == (peer is not None):
        raise ShadowMeshError(
            "wrong_use",
            "`bench` takes either a PEER or --serve",
            "say `shadowmesh bench --serve` on one machine, `shadowmesh bench PEER` on the other",
            kind=Kind.USAGE,
        )
    if peer is None:
        _serve(call, port)
    else:
        _measure(call, peer, seconds, streams, reverse, port)


# the far side


def _serve(call: Call, port: int) -> None:
    from shadowmesh.bench.listener import Listener

    networks = [n for n in DaemonClient(call.state_dir).status().networks if n.state == "up"]
    if not networks:
        raise ShadowMeshError(
            "bench_no_network", "no network is up here", "see `shadowmesh status`; `shadowmesh up` switches one on"
        )

    def served(client: str, request: messages.Request, received: messages.Received | None) -> None:
        what = f"{request.test} {'to' if request.reverse else 'from'} {client}"
        call.note(what if received is None or not received.seconds else f"{what}: {_rate(request, received)}")

    with ExitStack() as stack:
        try:
            for n in networks:
                stack.enter_context(Listener(n.ip, port, interface=n.interface, served=served))
        except OSError as e:
            raise ShadowMeshError(
                "bench_port", f"can't listen on port {port} ({e.strerror})", "give another by --port on both sides"
            ) from e
        listening = [{"network": n.name, "ip": n.ip, "port": port} for n in networks]
        where = ", ".join(f"{n.ip} port {port} ({n.name})" for n in networks)
        call.done("bench-serve/1", {"listening": listening}, f"serving at {where}; Ctrl-C ends it")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


def _rate(request: messages.Request, received: messages.Received) -> str:
    per_second = received.count / received.seconds
    return f"{per_second * 8 / 1e6:.0f} Mbit/s" if request.test == "tcp" else f"{per_second:.0f} datagrams/s"


# the near side


def _measure(call: Call, peer: str, seconds: float, streams: int, reverse: bool, port: int) -> None:
    daemon = DaemonClient(call.state_dir)
    status = daemon.status()
    _wake(daemon, peer)
    why = daemon.why(peer)
    with Client(why.peer.ip, port, name=peer) as client:
        meter = _Meter(call)
        document: dict[str, Any] = {
            "peer": why.peer.name,
            "network": why.network,
            "ip": why.peer.ip,
            "pump": status.pump,
            "version": status.version,
            "path": _path(why.peer),
            "seconds": seconds,
        }
        call.note("round trip …")
        rtt = client.round_trip(min(seconds, 5.0))
        document["round_trip"] = {
            "count": rtt.count,
            "lost": rtt.lost,
            "median_ms": _rounded(rtt.median_ms),
            "p99_ms": _rounded(rtt.p99_ms),
        }
        ways = (True,) if reverse else (False, True)
        document["tcp"] = [
            _tcp(call, client, meter, seconds, number, back) for back in ways for number in sorted({1, streams})
        ]
        document["udp"] = [_udp(call, client, meter, seconds, back) for back in ways[:1]]
    after = _path(daemon.why(peer).peer)
    document["path_after"] = after
    call.done("bench/1", document, lambda: _text(document))


def _wake(daemon: DaemonClient, peer: str) -> None:
    """Lets the daemon find its way to the peer first. Raises ShadowMeshError if there is none."""
    attempts = list(daemon.ping(peer, count=3, timeout=_WAKE, until_direct=False))
    if not any(a.ok for a in attempts):
        reason = attempts[-1].reason if attempts else "no answer"
        raise ShadowMeshError(
            "bench_no_path", f"{peer} doesn't answer ({reason})", f"see `shadowmesh why {peer}`", kind=Kind.UNREACHABLE
        )


def _path(peer: PeerStatus) -> dict[str, Any]:
    return {"kind": peer.path, "endpoint": peer.endpoint, "relay": peer.relay, "reason": peer.reason}


def _tcp(call: Call, client: Client, meter: _Meter, seconds: float, streams: int, reverse: bool) -> dict[str, Any]:
    call.note(f"TCP {'from' if reverse else 'to'} the peer, {streams} stream{'s' if streams > 1 else ''} …")
    flow, used = meter.during(lambda: client.tcp(seconds, streams=streams, reverse=reverse))
    return {
        "direction": "from" if reverse else "to",
        "streams": streams,
        "bytes": flow.count,
        "seconds": round(flow.seconds, 3),
        "mbit_per_s": round(flow.rate * 8 / 1e6, 1),
        **used.document(flow.count),
    }


def _udp(call: Call, client: Client, meter: _Meter, seconds: float, reverse: bool) -> dict[str, Any]:
    call.note(f"datagrams of {_SIZE} bytes {'from' if reverse else 'to'} the peer …")
    seen, used = meter.during(lambda: client.udp(seconds, size=_SIZE, reverse=reverse))
    call.note("the highest rate without loss …")
    lossless = client.highest_lossless(max(1000.0, seen.received_pps), size=_SIZE, reverse=reverse)
    return {
        "direction": "from" if reverse else "to",
        "size": _SIZE,
        "sent_per_s": round(seen.sent_pps),
        "received_per_s": round(seen.received_pps),
        "lost_percent": round(seen.lost * 100, 2),
        "lossless_per_s": round(lossless),
        **used.document(None),
    }


@dataclass(frozen=True, slots=True)
class _Used:
    """CPU seconds here; None where the daemon's process can't be seen."""

    daemon: float | None
    pump: float | None

    def document(self, octets: int | None) -> dict[str, Any]:
        value: dict[str, Any] = {"cpu_s": {"daemon": _rounded(self.daemon), "pump": _rounded(self.pump)}}
        if octets is not None:
            known = self.daemon is not None and self.pump is not None and octets > 0
            total = (self.daemon or 0) + (self.pump or 0)
            value["cpu_s_per_gb"] = _rounded(total / (octets / 1e9)) if known else None
        return value


class _Meter:
    """What the daemon of this machine and its pump, which is its child, spend on a test."""

    def __init__(self, call: Call) -> None:
        self._daemon = _daemon_pid(call.state_dir)

    def during(self, test: Callable[[], T]) -> tuple[T, _Used]:
        if self._daemon is None:
            return test(), _Used(None, None)
        pumps = [pid for pid in cpu.with_children([self._daemon]) if pid != self._daemon]
        before = cpu.spent([self._daemon]), cpu.spent(pumps)
        result = test()
        return result, _Used(cpu.spent([self._daemon]) - before[0], cpu.spent(pumps) - before[1])


def _daemon_pid(state_dir: Path) -> int | None:
    """Who listens on the daemon's socket; None if that is in another PID namespace."""
    with unixsocket.connect(state_dir / SOCKET_NAME, 5.0) as sock:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid = int(struct.unpack("3i", credentials)[0])
    return pid if pid > 0 and Path(f"/proc/{pid}/stat").exists() else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _text(d: dict[str, Any]) -> str:
    def way(path: dict[str, Any]) -> str:
        where = path["endpoint"] if path["kind"] == "direct" else path["relay"]
        return f"{path['kind']} {where or ''}".strip() + f" ({path['reason']})"

    rtt = d["round_trip"]
    lines = [f"{d['peer']} ({d['ip']}) in {d['network']}: {way(d['path'])}; {d['pump']} pump"]
    if d["path_after"] != d["path"]:
        lines.append(f"the path changed meanwhile: {way(d['path_after'])}")
    if rtt["median_ms"] is None:
        lines.append("round trip: no answer")
    else:
        lost = f", {rtt['lost']} of {rtt['count']} lost" if rtt["lost"] else ""
        lines.append(f"round trip: median {rtt['median_ms']:.2f} ms, p99 {rtt['p99_ms']:.2f} ms{lost}")
    rows = [
        [f"{t['direction']} {d['peer']}", t["streams"], f"{t['mbit_per_s']:.0f}", t["cpu_s_per_gb"]] for t in d["tcp"]
    ]
    lines += ["", table(("TCP", "STREAMS", "MBIT/S", "CPU S/GB HERE"), rows)]
    rows = [
        [
            f"{u['direction']} {d['peer']}",
            u["sent_per_s"],
            u["received_per_s"],
            f"{u['lost_percent']:.1f} %",
            u["lossless_per_s"],
        ]
        for u in d["udp"]
    ]
    lines += ["", table((f"UDP, {_SIZE} BYTES", "SENT/S", "RECEIVED/S", "LOST", "WITHOUT LOSS/S"), rows)]
    return "\n".join(lines)
