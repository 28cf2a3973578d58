"""`shadowmesh network …`."""

from __future__ import annotations

from typing import Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, details, new_app, table, verb
from shadowmesh.cli.managed import by_name, connect, request, seconds, when
from shadowmesh.model.errors import Kind, ShadowMeshError

Name = Annotated[
    str,
    typer.Argument(help="The network's name or id (net_…).", metavar="NAME", autocompletion=suggest.managed_network),
]
NewName = Annotated[
    str, typer.Argument(help="Letters, digits, ., _ and -, at most 63, the first a letter or digit.", metavar="NAME")
]
InviteID = Annotated[str, typer.Argument(help="inv_…", metavar="ID", autocompletion=suggest.invite)]
Subnet = Annotated[
    str | None,
    typer.Option(
        "--subnet", help="IPv4 subnet, such as 10.20.0.0/16; it may grow, and shrink while it holds all members."
    ),
]
Subnet6 = Annotated[str | None, typer.Option("--subnet6", help="A ULA /64 besides it.")]
Description = Annotated[str | None, typer.Option("--description", help="A sentence for people.")]
Approval = Annotated[
    bool | None, typer.Option("--approval/--no-approval", help="Whether who joins waits for an administrator.")
]
MaxClients = Annotated[int | None, typer.Option("--max-clients", min=1, help="Limit of clients (default 100).")]
P2p = Annotated[bool | None, typer.Option("--p2p/--no-p2p", help="Whether direct paths are tried.")]
Fallback = Annotated[
    bool | None, typer.Option("--relay-fallback/--no-relay-fallback", help="Whether relays carry traffic.")
]
Relay = Annotated[str | None, typer.Option("--relay", help="Only this relay, by name.", autocompletion=suggest.relay)]


def attach(app: typer.Typer) -> None:
    group = new_app("Networks and the invites to them.")
    verb(
        group,
        "create",
        ["network create home", "network create office --subnet 10.30.0.0/16 --approval"],
        managed=True,
    )(create)
    verb(group, "list", "network list", managed=True)(list_)
    verb(group, "show", "network show home", managed=True)(show)
    verb(group, "set", "network set home --max-clients 200", managed=True)(set_)
    verb(group, "delete", "network delete home", managed=True)(delete)
    verb(group, "rotate-key", "network rotate-key home", managed=True)(rotate_key)
    verb(
        group,
        "invite",
        ["network invite home > invite", "network invite home --uses 5 --expires 7d --client-name build"],
        managed=True,
    )(invite)
    verb(group, "invites", "network invites home", managed=True)(invites)
    verb(group, "revoke-invite", "network revoke-invite home inv_…", managed=True)(revoke_invite)
    app.add_typer(group, name="network")


def create(
    call: Call,
    name: NewName,
    subnet: Annotated[
        str | None,
        typer.Option(
            "--subnet", help="IPv4 subnet, such as 10.20.0.0/16; default: the next free /24 of the controller's pool."
        ),
    ] = None,
    subnet6: Subnet6 = None,
    description: Description = None,
    approval: Approval = None,
    max_clients: MaxClients = None,
    p2p: P2p = None,
    relay_fallback: Fallback = None,
    relay: Relay = None,
) -> None:
    """Create a network."""
    from shadowmesh.model import api

    wish = request(
        api.NetworkCreate,
        name=name,
        subnet=subnet,
        subnet6=subnet6,
        description=description,
        approval=approval,
        max_clients=max_clients,
        p2p=p2p,
        relay_fallback=relay_fallback,
        relay=relay,
    )
    with connect(call) as controller:
        made = controller.network_create(wish)
    call.done(
        "network/1",
        made.model_dump(mode="json"),
        f"{made.name}: created with {made.subnet}; `shadowmesh network invite {made.name}` lets machines in",
    )
    for warning in made.warnings:
        call.note(f"warning: {warning}")


def list_(call: Call) -> None:
    """All networks that you may see."""
    with connect(call) as controller:
        found = by_name(controller.network_list())
    call.done(
        "networks/1",
        {"networks": [n.model_dump(mode="json") for n in found]},
        lambda: table(
            ("NAME", "SUBNET", "CLIENTS", "ONLINE", "PENDING", "SERIAL", "EPOCH", "ID"),
            ([n.name, n.subnet, n.clients, n.online, n.pending, n.serial, n.epoch, n.id] for n in found),
        ),
    )


def show(call: Call, name: Name) -> None:
    """One network in full."""
    with connect(call) as controller:
        found = controller.network_show(name).model_dump(mode="json")
    call.done("network/1", found, lambda: details(found))


def set_(
    call: Call,
    name: Name,
    rename: Annotated[str | None, typer.Option("--rename", help="A new name.")] = None,
    subnet: Subnet = None,
    description: Description = None,
    approval: Approval = None,
    max_clients: MaxClients = None,
    p2p: P2p = None,
    relay_fallback: Fallback = None,
    relay: Relay = None,
) -> None:
    """Change a network; what isn't named stays."""
    from shadowmesh.model import api

    changes = request(
        api.NetworkPatch,
        name=rename,
        subnet=subnet,
        description=description,
        approval=approval,
        max_clients=max_clients,
        p2p=p2p,
        relay_fallback=relay_fallback,
        relay=relay,
    )
    if not changes.model_fields_set:
        raise ShadowMeshError(
            "no_change", "nothing to change", "name what is to be changed; see `--help`", kind=Kind.USAGE
        )
    with connect(call) as controller:
        changed = controller.network_set(name, changes)
    call.done("network/1", changed.model_dump(mode="json"), f"{changed.name}: changed")
    for warning in changed.warnings:
        call.note(f"warning: {warning}")


def delete(call: Call, name: Name) -> None:
    """Delete a network: all its clients are cut off."""
    with connect(call) as controller:
        found = controller.network_show(name)
        call.confirm(f"delete {found.name} and cut off all its clients ({found.clients})?")
        controller.network_delete(found.id)
    call.done("network-deleted/1", {"name": name}, f"{name}: deleted")


def rotate_key(call: Call, name: Name) -> None:
    """Give the network a new key epoch; no running session is dropped."""
    with connect(call) as controller:
        changed = controller.network_rotate_key(name)
    newest = max(e.epoch for e in changed.epochs)
    call.done("network/1", changed.model_dump(mode="json"), f"{changed.name}: epoch {newest} becomes current in 30 s")


def invite(
    call: Call,
    name: Name,
    uses: Annotated[int, typer.Option("--uses", min=1, help="How many machines may use it.")] = 1,
    expires: Annotated[str, typer.Option("--expires", help="For how long it is good: 30m, 24h, 7d.")] = "24h",
    client_name: Annotated[str | None, typer.Option("--client-name", help="The name that the machine gets.")] = None,
    ip: Annotated[str | None, typer.Option("--ip", help="The address that the machine gets.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag for the machine; repeats.")] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="The machine is removed when it was away.")] = False,
    idle: Annotated[str, typer.Option("--idle", help="How long an ephemeral machine may be away.")] = "1h",
) -> None:
    """Make an invite: `shadowmesh join` takes it."""
    from shadowmesh.model import api
    from shadowmesh.model.invite import Invite

    wish = request(
        api.InviteCreate,
        uses=uses,
        expires_in=seconds(expires),
        ephemeral=ephemeral,
        idle=seconds(idle),
        tags=tag or [],
        client_name=client_name,
        ip=ip,
    )
    with connect(call) as controller:
        made = controller.invite_create(name, wish)
    call.done("invite/1", made.model_dump(mode="json"), made.invite, shown_once=True)
    machines = "one machine" if uses == 1 else f"{uses} machines"
    long = Invite.decode(made.invite)
    call.note(f"to type by hand: {made.code}   (for {machines}, until {when(made.expires_at)})")
    call.note(f"a code typed by hand needs --controller {long.urls[0]} --fingerprint {long.fingerprint}")


def invites(call: Call, name: Name) -> None:
    """The invites of a network and their state."""
    with connect(call) as controller:
        found = controller.invite_list(name)
    call.done(
        "invites/1",
        {"invites": [i.model_dump(mode="json") for i in found]},
        lambda: table(
            ("ID", "STATE", "USES LEFT", "EXPIRES", "CLIENT", "BY"),
            (
                [i.id, i.state, f"{i.uses_left}/{i.uses}", when(i.expires_at), i.client_name, i.created_by]
                for i in found
            ),
        ),
    )


def revoke_invite(call: Call, name: Name, invite_id: InviteID) -> None:
    """Make an invite useless."""
    with connect(call) as controller:
        controller.invite_revoke(name, invite_id)
    call.done("invite-revoked/1", {"id": invite_id}, f"{invite_id}: revoked")
