"""`shadowmesh client register|wireguard`: devices that have a WireGuard key and no daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, verb
from shadowmesh.cli.managed import connect, request, when
from shadowmesh.model.text import escaped

if TYPE_CHECKING:
    from shadowmesh.model import api

Network = Annotated[
    str,
    typer.Argument(help="The network's name or id (net_…).", metavar="NETWORK", autocompletion=suggest.managed_network),
]


def attach(clients: typer.Typer) -> None:
    """To `client`."""
    verb(clients, "register", "client register home camera --public-key KEY", managed=True)(client_register)
    verb(clients, "wireguard", "client wireguard home camera > wg0.conf", managed=True)(client_wireguard)


def client_register(
    call: Call,
    network: Network,
    name: Annotated[str, typer.Argument(help="Its name: a-z, 0-9 and -, at most 63.", metavar="NAME")],
    public_key: Annotated[str, typer.Option("--public-key", help="Of WireGuard, as `wg pubkey` prints it.")],
) -> None:
    """Register a client by its WireGuard key: its name and address are kept for an hour, until it is let in."""
    from shadowmesh.model import api

    wish = request(api.ClientRegister, client_name=name, public_key=public_key)
    with connect(call) as controller:
        made = controller.client_register(network, wish)
    call.done(
        "client-registered/1",
        made.model_dump(mode="json"),
        f"{name}: registered as {made.assigned_ip} until {when(made.expires_at)}; has it no daemon: "
        f"`shadowmesh client approve {network} {name} --plain-wireguard`",
        shown_once=call.json and made.invite is not None,
    )


def client_wireguard(
    call: Call,
    network: Network,
    client: Annotated[
        str, typer.Argument(help="The client's name or id (cli_…).", metavar="CLIENT", autocompletion=suggest.client)
    ],
) -> None:
    """The configuration of a plain WireGuard device, for wg-quick(8): its private key is for you to fill in.

    Standard WireGuard has neither disco nor relays: it reaches the members whose endpoint is known and open to it. After the
    network's key has rotated, as it does when a client is removed, the device needs this anew within 7 days.
    """
    with connect(call) as controller:
        found = controller.client_plain_configuration(network, client)
    call.done("plain-wireguard/1", found.model_dump(mode="json"), lambda: _config(found), shown_once=True)
    if not any(peer.endpoints for peer in found.peers):
        call.note(f"nobody in {found.network_name} has an endpoint that is known now: it can reach no member")


def _config(found: api.PlainConfiguration) -> str:
    lines = [
        # Names are others' words: a line break in one would begin a setting, PostUp for example.
        f"# {escaped(found.name)} in {escaped(found.network_name)}, epoch {found.epoch} of the network's key",
        "[Interface]",
        f"# its private key, of which {found.public_key} is the public one:",
        "PrivateKey = ",
        f"Address = {found.address}",
        f"MTU = {found.mtu}",
    ]
    for peer in found.peers:
        if not peer.endpoints:
            lines += ["", f"# {escaped(peer.name)}: no endpoint is known"]
            continue
        lines += [
            "",
            f"# {escaped(peer.name)}",
            "[Peer]",
            f"PublicKey = {peer.public_key}",
            f"PresharedKey = {peer.preshared_key}",
            f"AllowedIPs = {', '.join(peer.allowed_ips)}",
            f"Endpoint = {peer.endpoints[0]}",
            f"PersistentKeepalive = {found.persistent_keepalive}",
        ]
    return "\n".join(lines)
