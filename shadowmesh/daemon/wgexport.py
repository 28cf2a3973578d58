"""`export wireguard`: this machine's identity as a wg(8) configuration with one peer."""

from __future__ import annotations

import base64
import socket

from shadowmesh.engine import WireGuardExport
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.netmap import Member
from shadowmesh.model.pump import INNER_MTU
from shadowmesh.model.text import escaped

_KEEPALIVE = 25


def free_port() -> int:
    """A UDP port that nothing has: the daemon, which goes on with other networks, keeps its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])


def wireguard_config(
    network: str, peer: Member, export: WireGuardExport | None, *, listen_port: int, epoch: int = 0
) -> str:
    """The text of a wg-quick(8) file. Raises ShadowMeshError(CONFLICT) where standard WireGuard couldn't reach the peer.

    This machine may be behind any NAT: it speaks first, and keeps its mapping. `epoch`: of the network key.
    """
    if export is None:
        raise ShadowMeshError("no_network_key", f"no key of {network} is held yet", "wait for the controller")
    if export.endpoint is None:
        raise ShadowMeshError(
            "no_endpoint",
            f"{peer.name} is known to have no endpoint that is open to anyone, and standard WireGuard has neither disco nor relay",
            "choose a peer on this LAN or with a public address; if this is one, `shadowmesh ping` it first, which asks for its "
            "addresses",
            kind=Kind.CONFLICT,
        )
    lines = [
        # Names are others' words: a line break in one would begin a setting, PostUp for example.
        f"# {escaped(network)}: this machine towards {escaped(peer.name)}; contains the private key",
        f"# the preshared key is that of epoch {epoch}: once the network's key has rotated, it ends within 7 days, and this",
        "# has to be exported anew",
        "[Interface]",
        f"PrivateKey = {_b64(export.private.reveal())}",
        f"ListenPort = {listen_port}",
        f"Address = {', '.join(f'{a}/{a.max_prefixlen}' for a in export.addresses)}",
        f"MTU = {INNER_MTU}",
        "",
        "[Peer]",
        f"PublicKey = {export.peer}",
        f"PresharedKey = {_b64(export.psk.reveal())}",
        f"AllowedIPs = {', '.join(f'{a}/{a.max_prefixlen}' for a in export.allowed)}",
        f"Endpoint = {export.endpoint}",
        f"PersistentKeepalive = {_KEEPALIVE}",
        "",
    ]
    return "\n".join(lines)


def _b64(key: bytes) -> str:
    return base64.b64encode(key).decode()
