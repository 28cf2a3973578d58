"""What is said of memberships that began or ended."""

from __future__ import annotations

from datetime import UTC, datetime

from shadowmesh.daemon.network import Network
from shadowmesh.daemon.state import Ending, FormerNetwork
from shadowmesh.model.status import JoinResult, NetworkStatus


def former_status(former: FormerNetwork) -> NetworkStatus:
    assert former.state != "left"
    record = former.record
    return NetworkStatus(
        name=record.name,
        network_id=str(record.network_id),
        ip=record.ip,
        interface="",
        state=former.state,
        controller="offline",
        client_id=record.client_id,
        client_name=record.client_name,
        error=former.what,
    )


def join_result(network: Network) -> JoinResult:
    return JoinResult(
        network=network.name,
        network_id=str(network.id),
        client_id=network.record.client_id,
        name=network.record.client_name,
        ip=network.record.ip,
        interface=network.interface.name if network.interface is not None else "",
        state=network.run_state if network.record.approved else "pending-approval",
        network_ref=None if network.map is None else network.map.head.network_ref,
    )


def ending(reason: str, at: float | None, now: float) -> tuple[Ending, str]:
    """What a `Removed` means: the state that the network is in, and a sentence. `at`: when it happened, Unix time."""
    moment = at if at is not None and 0 < at < now + 86400 else now
    when = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    match reason:
        case "left":
            return "left", ""
        case "denied":
            return "refused", f"an administrator refused this machine at {when}"
        case "deleted":
            return "removed", f"the network was deleted at {when}"
        case "expired":
            return "expired", f"the membership ended at {when}, as the machine had been away for longer than it allows"
        case _:
            return "removed", f"removed by an administrator at {when}"
