"""`export wireguard`: this machine's identity as a wg(8) configuration with one peer."""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from contextlib import suppress

from shadowmesh.engine import WireGuardExport
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.netmap import Member
from shadowmesh.model.pump import INNER_MTU
from shadowmesh.model.text import escaped

_KEEPALIVE = 25
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?", re.ASCII)
_ADDRESS_LIKE = re.compile(r"[0-9.]+", re.ASCII)


def free_port() -> int:
    """A UDP port that nothing has: the daemon, which goes on with other networks, keeps its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])


def stated_endpoint(text: str) -> str:
    """Where the operator says that PEER is reached: HOST:PORT as wg(8) takes it, HOST a name, an IPv4 address or an IPv6
    address in brackets. Raises ShadowMeshError(USAGE) for another form; whether somebody answers there isn't asked."""
    host, _, port = text.rpartition(":")
    named = _HOST_NAME.fullmatch(host) is not None and ".." not in host and not _ADDRESS_LIKE.fullmatch(host)
    if not named:
        with suppress(ValueError):
            bare = host.removeprefix("[").removesuffix("]")
            address = ipaddress.ip_address(bare)
            named = host == (f"[{bare}]" if address.version == 6 else bare) and "%" not in host
    if not named or re.fullmatch(r"[0-9]{1,5}", port) is None or not 0 < int(port) < 65536:
        raise ShadowMeshError(
            "bad_endpoint", f"{text[:80]!r} is no HOST:PORT",
            "say where PEER's daemon is reached, as vpn.example.org:41641, 203.0.113.4:41641 or [2001:db8::1]:41641",
            kind=Kind.USAGE,
        )  # fmt: skip
    return text


def wireguard_config(
    network: str,
    peer: Member,
    export: WireGuardExport | None,
    *,
    listen_port: int,
    epoch: int = 0,
    endpoint: str | None = None,
) -> str:
    """The text of a wg-quick(8) file. Raises ShadowMeshError(CONFLICT) where standard WireGuard couldn't reach the peer.

    This machine may be behind any NAT: it speaks first, and keeps its mapping. `epoch`: of the network key. `endpoint`:
    what the operator says of PEER, a `stated_endpoint`; without it, what is known to be open to anyone.
    """
    if export is None:
        raise ShadowMeshError("no_network_key", f"no key of {network} is held yet", "wait for the controller")
    if endpoint is None and export.endpoint is None:
        raise ShadowMeshError(
            "no_endpoint",
            f"{peer.name} is known to have no endpoint that is open to anyone, and standard WireGuard has neither disco nor relay",
            "choose a peer on this LAN or with a public address; if this is one, `shadowmesh ping` it first, which asks for its "
            "addresses; where a port is forwarded to it, say --endpoint HOST:PORT",
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
        f"Endpoint = {endpoint or export.endpoint}",
        f"PersistentKeepalive = {_KEEPALIVE}",
        "",
    ]
    return "\n".join(lines)


def _b64(key: bytes) -> str:
    return base64.b64encode(key).decode()
