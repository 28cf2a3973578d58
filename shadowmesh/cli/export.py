"""`shadowmesh export …`."""

from __future__ import annotations

from typing import Annotated

import typer

from shadowmesh.cli.base import Call, new_app, verb
from shadowmesh.cli.client import Peer
from shadowmesh.client_api.local import DaemonClient


def attach(app: typer.Typer) -> None:
    group = new_app("Hand a configuration to other software.")
    verb(group, "wireguard", "export wireguard laptop --takeover > wg0.conf", client=True)(wireguard)
    app.add_typer(group, name="export")


def wireguard(
    call: Call,
    peer: Peer,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Stop this network's daemon side here; the file takes its place.")
    ] = False,
) -> None:
    """This machine's identity as a wg(8) configuration with PEER as its peer. It contains the private key."""
    answer = DaemonClient(call.state_dir).call("export_wireguard", peer=peer, takeover=takeover)
    call.done("export-wireguard/1", answer, answer["config"].rstrip(), shown_once=True)
