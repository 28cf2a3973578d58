"""What to say when there is nothing to show, or when what is shown needs a word. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shadowmesh.model.status import SILENT
from shadowmesh_tui.state import Mesh

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Notice:
    """A message to a person: what is the case, and what to do."""

    title: str
    remedy: str
    level: Level = "info"


def instead_of_peers(mesh: Mesh) -> Notice | None:
    """What stands where the peers would be, when there are none to show."""
    if mesh.status is None:
        if mesh.trouble is None:
            return Notice("Asking the daemon …", "")
        return Notice(
            sentence(mesh.trouble.what), f"{sentence(mesh.trouble.remedy)}\nThis screen goes on by itself.", "error"
        )
    network = mesh.network
    if network is None:
        return Notice(
            "This machine is in no network yet.",
            "Join one with an invite: shadowmesh join smi1_…\n"
            "An invite is made where the controller runs: shadowmesh network invite NAME",
        )
    if network.state == "pending-approval":
        return Notice(
            f"{network.name}: waiting for approval.",
            "Somebody who runs the network approves this machine:\n"
            f"shadowmesh client approve {network.name} {network.client_id or 'CLIENT'}\nThis screen goes on by itself.",
            "warning",
        )
    if network.state == "down":
        return Notice(f"{network.name} is switched off on this machine.", "Press u to switch it on.")
    if network.state == "error":
        return Notice(f"{network.name}: {network.error or 'it could not be started'}", "Press u to try again.", "error")
    if network.state != "up":  # this machine's part in it has ended: removed, refused, expired, a duplicate
        return Notice(
            sentence(f"{network.name}: {network.error or network.state}"),
            f"shadowmesh leave {network.name}\nthen join again with a new invite, if you may.",
            "error",
        )
    if not network.peers:
        return Notice(
            f"Nobody else is in {network.name} yet.",
            f"Invite the next machine: shadowmesh network invite {network.name}",
        )
    return None


def no_match(mesh: Mesh) -> Notice | None:
    """What stands there when the filter lets no peer through."""
    if mesh.needle and not mesh.rows():
        return Notice(f"No peer matches “{mesh.needle}”.", "Press Esc to show all.")
    return None


def banner(mesh: Mesh) -> Notice | None:
    """The one line above the peers: the worst of what is wrong while they can still be shown."""
    if mesh.status is None:
        return None
    if mesh.trouble is not None and mesh.now is not None:
        since = datetime.fromtimestamp(mesh.now.wall).strftime("%H:%M:%S")
        return Notice(
            f"{sentence(mesh.trouble.what)} Shown is what was known at {since}.",
            sentence(mesh.trouble.remedy),
            "error",
        )
    network = mesh.network
    if network is not None and network.state == "up" and network.controller == "offline":
        return Notice(
            "The controller is offline.",
            "Peers go on; who is online isn't known.",
            "warning",
        )
    silence = None if network is None else network.controller_silent_s
    if silence is not None and silence > SILENT:
        return Notice(f"Nothing was heard of the controller for {silence:.0f} s.", "It is being asked.", "warning")
    return None


def sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?", "…")) else text + "."
