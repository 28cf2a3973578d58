"""`shadowmesh network …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, details, new_app, table, verb
from shadowmesh.cli.managed import by_name, connect, nothing_to_change, request, seconds, when

if TYPE_CHECKING:
    from shadowmesh.model import api

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
Reports = Annotated[
    str | None,
    typer.Option(
        "--reports",
        help="What machines tell of their connections: off, health (default) or full (bytes, too).",
        autocompletion=suggest.words("off", "health", "full"),
    ),
]
Relay = Annotated[str | None, typer.Option("--relay", help="Only this relay, by name.", autocompletion=suggest.relay)]


def attach(app: typer.Typer) -> None:
    group = new_app("Networks and the invites to them.")
    verb(
        group,
        "create",
        ["network create home", "network create office --template office --subnet 10.30.0.0/16"],
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
    verb(group, "code", ["network code home", "network code home --regenerate"], managed=True)(code)
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
    reports: Reports = None,
    relay: Relay = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            help="Settings by a name (`template list`); what is said here stands over them.",
            autocompletion=suggest.network_template,
        ),
    ] = None,
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
        p2p_enabled=p2p,
        relay_fallback=relay_fallback,
        reports=reports,
        relay=relay,
        template=template,
    )
    with connect(call) as controller:
        made = controller.network_create(wish)
    call.done(
        "network/1",
        made.model_dump(mode="json"),
        f"{made.name}: created with {made.subnet}; `shadowmesh network invite {made.name}` lets machines in",
    )
    call.note(f"to type by hand: {made.invitation_code}   (who joins by it waits for approval)")
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
            (
                [n.name, n.subnet, n.clients, n.clients_online, n.pending, n.serial, n.epoch, n.network_id]
                for n in found
            ),
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
    reports: Reports = None,
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
        p2p_enabled=p2p,
        relay_fallback=relay_fallback,
        reports=reports,
        relay=relay,
    )
    if not changes.model_fields_set:
        raise nothing_to_change("network set")
    with connect(call) as controller:
        before = controller.network_show(name)
        changed = controller.network_set(before.network_id, changes)
    call.done(
        "network/1", changed.model_dump(mode="json"), lambda: _changes_text(before, changed, changes.model_fields_set)
    )
    for warning in changed.warnings:
        call.note(f"warning: {warning}")


def _changes_text(before: api.Network, after: api.Network, fields: set[str]) -> str:
    told = [
        (field, getattr(before, field), getattr(after, field)) for field in type(after).model_fields if field in fields
    ]
    lines = [f"{field.replace('_', '-')} {_word(old)} -> {_word(new)}" for field, old, new in told if old != new]
    return f"{after.name}: {', '.join(lines) or 'it was so already'}"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, "") else str(value)


def delete(call: Call, name: Name) -> None:
    """Delete a network: all its clients are cut off."""
    with connect(call) as controller:
        found = controller.network_show(name)
        call.confirm(f"delete {found.name} and cut off all its clients ({found.clients})?")
        controller.network_delete(found.network_id)
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
            ([i.id, i.state, _uses(i), when(i.expires_at), i.client_name, i.created_by] for i in found),
        ),
    )


def _uses(invite: api.Invite) -> str:
    return "the network's code" if invite.standing else f"{invite.uses_left}/{invite.uses}"


def revoke_invite(call: Call, name: Name, invite_id: InviteID) -> None:
    """Make an invite useless."""
    with connect(call) as controller:
        controller.invite_revoke(name, invite_id)
    call.done("invite-revoked/1", {"id": invite_id}, f"{invite_id}: revoked")


def code(
    call: Call,
    name: Name,
    regenerate: Annotated[
        bool, typer.Option("--regenerate", help="Make another; the one of before is good for nothing any more.")
    ] = False,
) -> None:
    """The network's own invitation code, to type by hand: it was shown when the network was made."""
    with connect(call) as controller:
        if regenerate:
            call.confirm(f"make another invitation code for {name}? Whoever has the one of before can't join by it")
            found = controller.code_regenerate(name)
        else:
            found = controller.code_show(name)
    call.done("invitation-code/1", found.model_dump(mode="json"), found.invitation_code, shown_once=True)
    wait = "who joins by it waits for approval" if found.approval else "who joins by it is in at once"
    call.note(f"{wait}; `shadowmesh network revoke-invite {found.network} {found.invite_id}` ends it")
