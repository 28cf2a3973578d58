"""What is done to clients, one or many, from whatever screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.api import Client
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.console.notices import line
from shadowmesh_tui.console.state import Wants
from shadowmesh_tui.screens.console.base import AtDesk
from shadowmesh_tui.text import shorten

Doing = Callable[[ControllerClient, Client], Any]
CUT_OFF = "It is cut off at once, and the network's key rotates. To come back it has to join again."
_NAMES = 5  # in a question
_CELLS = 40  # of a name in a sentence


def by_name(clients: Iterable[Client]) -> list[Client]:
    """In the order that they are dealt with, and told of."""
    return sorted(clients, key=lambda c: (c.name.casefold(), c.client_id))


def named(clients: Sequence[Client]) -> str:
    """Their names, as a sentence has them."""
    names = [shorten(c.name, _CELLS) for c in clients]
    if len(names) == 1:
        return names[0]
    if len(names) <= _NAMES:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{', '.join(names[: _NAMES - 1])} and {len(names) - _NAMES + 1} more"


def approving(api: ControllerClient, client: Client) -> None:
    api.client_approve(client.network_id, client.client_id)


def denying(api: ControllerClient, client: Client) -> None:
    api.client_deny(client.network_id, client.client_id)


def removing(everywhere: bool) -> Doing:
    def remove(api: ControllerClient, client: Client) -> None:
        if everywhere and client.device:
            api.device_remove(client.device)
        else:
            api.client_remove(client.network_id, client.client_id)

    return remove


async def do_each(screen: AtDesk, clients: Sequence[Client], function: Doing, done: str) -> bool:
    """Goes through all of them, also where some fail; says how it went. Whether all went well."""
    desk, well, failed = screen.desk, [], []
    for client in clients:
        try:
            await desk.call(lambda api, c=client: function(api, c))  # type: ignore[misc]
            well.append(client)
        except ShadowMeshError as e:
            failed.append((client, e))
        wants = Wants(networks={client.network_id}, clients={(client.network_id, client.client_id)})
        desk.want(wants)
    desk.console.marked -= {client.client_id for client in well}
    if well:
        screen.notify(f"{named(well)}: {done}.", markup=False)
    if failed:
        client, error = failed[0]
        more = f" So it was with {len(failed) - 1} more." if len(failed) > 1 else ""
        title = f"{shorten(client.name, _CELLS)}: not {done}"
        screen.notify(line(error) + more, title=title, severity="error", markup=False, timeout=12)
    return not failed
