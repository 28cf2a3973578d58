"""`shadowmesh export …`."""

from __future__ import annotations

from typing import Annotated

import typer

from shadowmesh.cli.base import Call, new_app, verb
from shadowmesh.cli.client import Peer
from shadowmesh.client_api.local import DaemonClient


def attach(app: typer.Typer) -> None:
    group = new_app("Hand a configuration to other software.")
    examples = [
        "export wireguard laptop --takeover > wg0.conf",
        "export wireguard server --takeover --endpoint vpn.example.org:41641 > wg0.conf",
    ]
    verb(group, "wireguard", examples, client=True)(wireguard)
    app.add_typer(group, name="export")


def wireguard(
    call: Call,
    peer: Peer,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Stop this network's daemon side here; the file takes its place.")
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where PEER is reached, taken as you say it: a forwarded port, a 1:1 NAT; this machine can't know these.",
        ),
    ] = None,
) -> None:
    """This machine's identity as a wg(8) configuration with PEER as its peer. It contains the private key."""
    answer = DaemonClient(call.state_dir).call("export_wireguard", peer=peer, takeover=takeover, endpoint=endpoint)
    call.done("export-wireguard/1", answer, answer["config"].rstrip(), shown_once=True)
    network = answer["network"]
    call.note(
        f"{network} is down here now; next, with the above in a file: `wg-quick up ./wg0.conf`\n"
        f"back again: `wg-quick down ./wg0.conf`, then `shadowmesh up {network}`"
    )
