"""`shadowmesh device …`: a machine over all its networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, details, new_app, table, verb
from shadowmesh.cli.managed import by_name, connect, when
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.client_api.rest import ControllerClient
    from shadowmesh.model.api import Device, DeviceMembership

DeviceName = Annotated[
    str,
    typer.Argument(
        help="The device's id (dev_…), or a client's name, NAME@NETWORK, address or id.",
        metavar="DEVICE",
        autocompletion=suggest.device,
    ),
]


def attach(app: typer.Typer) -> None:
    group = new_app("Machines over all networks in which you may remove clients.")
    verb(group, "list", "device list", managed=True)(list_)
    verb(group, "show", "device show laptop@home", managed=True)(show)
    verb(group, "remove", "device remove laptop@home", managed=True)(remove)
    app.add_typer(group, name="device")


def list_(call: Call) -> None:
    """The machines, each with the networks it is in."""
    with connect(call) as controller:
        found = by_name(controller.device_list())
    call.done(
        "devices/1",
        {"devices": [d.model_dump(mode="json") for d in found]},
        lambda: table(
            ("NAME", "NETWORKS", "ONLINE", "LAST SEEN", "ID"),
            ([d.name, places(d.networks), d.online, when(d.last_seen), d.id] for d in found),
        ),
    )


def show(call: Call, device: DeviceName) -> None:
    """One machine and its place in each network."""
    with connect(call) as controller:
        found = controller.device_show(device)
    call.done("device/1", found.model_dump(mode="json"), lambda: _text(found))


def _text(device: Device) -> str:
    head = details(device.model_dump(mode="json", exclude={"networks"}))
    rows = ([m.network_name, m.name, m.ip, m.state, m.online, m.client_id] for m in device.networks)
    return head + "\n\n" + table(("NETWORK", "NAME", "ADDRESS", "STATE", "ONLINE", "ID"), rows)


def remove(call: Call, device: DeviceName) -> None:
    """Cut a machine off in all its networks: a stolen laptop is one command. Each network's key rotates."""
    with connect(call) as controller:
        found = controller.device_show(device)
        call.confirm(f"remove {found.name} from {places(found.networks)}?")
        gone = controller.device_remove(found.id)
        invites = open_invites(controller, [(m.network_id, m.network_name) for m in gone.networks])
    call.done("device-removed/1", gone.model_dump(mode="json"), f"{gone.name}: removed from {places(gone.networks)}")
    for warning in invites:
        call.note(warning)


def open_invites(controller: ControllerClient, networks: Iterable[tuple[str, str]]) -> list[str]:
    """A warning for each invite that lets machines into `networks` (id and name): one that was removed may hold it."""
    warnings = []
    for network, name in networks:
        try:
            found = controller.invite_list(network)
        except ShadowMeshError as e:
            if e.kind is not Kind.NOT_ALLOWED:
                raise
            continue  # who may only remove machines of their own
        warnings += [
            f"warning: with invite {i.id} it could join {name} again, if it has it; "
            f"`shadowmesh network revoke-invite {name} {i.id}` ends that"
            for i in found
            if i.state == "open" and not (i.standing and controller.network_show(network).code_approval)
        ]
    return warnings


def places(memberships: list[DeviceMembership]) -> str:
    """`laptop@office, pc@lab`"""
    return ", ".join(f"{m.name}@{m.network_name}" for m in memberships)
