"""`ping`: an ICMP echo through the tunnel, and beside it the peer's daemon asked outside: which of them answers, and how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from shadowmesh.daemon.environment import Environment
from shadowmesh.daemon.mesh import Mesh
from shadowmesh.daemon.network import Network
from shadowmesh.engine import PingResult
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.netmap import Member
from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import PingTry

_TRY = 2.0  # seconds for one answer
_PACE = 1.0  # seconds between two tries, as ping(8)
_PACE_UNTIL_DIRECT = 0.2


async def pings(
    environment: Environment, mesh: Mesh, network: Network, member: Member, *, count: int | None, timeout: float
) -> AsyncIterator[PingTry]:
    """`count` tries, or with None as many as there are until the path is direct; all within `timeout` seconds.

    Each counts as traffic: a session and a direct path are sought. Raises ShadowMeshError: echo_refused, no_peer.
    """
    end = environment.clock().boot + timeout
    seq = 0
    while (count is None or seq < count) and (left := end - environment.clock().boot) > 0:
        seq += 1
        started = environment.clock().boot
        attempt = await _once(environment, mesh, network, member, seq, min(_TRY, left))
        yield attempt
        if count is None and attempt.ok and attempt.path == "direct":
            return
        if count is None or seq < count:
            pace = _PACE_UNTIL_DIRECT if count is None else _PACE
            moment = environment.clock().boot
            await asyncio.sleep(max(0.0, min(started + pace, end) - moment))


async def _once(
    environment: Environment, mesh: Mesh, network: Network, member: Member, seq: int, timeout: float
) -> PingTry:
    if network.interface is None or network.me is None:
        return PingTry(seq=seq, ok=False, reason=Reason.NONE_NETWORK_DOWN.value)
    try:
        echo = environment.echo(network.interface.netns, network.interface.name, network.me.ip, member.ip)
    except OSError as e:
        raise ShadowMeshError(
            "echo_refused", f"the daemon can't send an echo through {network.interface.name} ({e.strerror})",
            "it needs CAP_NET_RAW",
        ) from e  # fmt: skip
    outside = asyncio.create_task(mesh.ping(network.id, member.client_id, timeout))
    try:
        await asyncio.sleep(0)  # it has asked before the echo goes: that may be answered before anything here waits
        latency = await echo.once(timeout)
        if latency is None:
            return _unanswered(seq, await outside)
        return _through(mesh, environment, network, member, seq, latency, outside)
    finally:
        echo.close()
        outside.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({outside})


def _through(
    mesh: Mesh,
    environment: Environment,
    network: Network,
    member: Member,
    seq: int,
    latency: float,
    outside: asyncio.Task[PingResult | None],
) -> PingTry:
    seen = mesh.node.why(network.id, member.client_id, environment.clock()).peer
    asked = outside.result() if outside.done() else None
    return PingTry(
        seq=seq,
        ok=True,
        latency_ms=round(latency * 1000, 3),
        outer_ms=_ms(asked),
        path=seen.path,
        endpoint=seen.endpoint,
        relay=seen.relay if seen.path == "relay" else None,
        reason=seen.reason,
    )


def _unanswered(seq: int, asked: PingResult | None) -> PingTry:
    if asked is None:  # the pump was started anew meanwhile
        return PingTry(seq=seq, ok=False, reason=Reason.NONE_CONNECTING.value)
    reason = Reason.NONE_NO_ECHO if asked.ok else asked.reason
    return PingTry(seq=seq, ok=False, outer_ms=_ms(asked), reason=reason.value)


def _ms(asked: PingResult | None) -> float | None:
    return None if asked is None or asked.latency is None else round(asked.latency * 1000, 3)
