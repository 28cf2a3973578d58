"""`shadowmesh client …`, `member …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import plaindevices, suggest
from shadowmesh.cli.base import Call, details, new_app, table, verb
from shadowmesh.cli.device import open_invites, places
from shadowmesh.cli.managed import by_name, connect, listed, request, when
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.client_api.rest import ControllerClient
    from shadowmesh.model import api
    from shadowmesh.model.api import DeviceMembership

Network = Annotated[
    str,
    typer.Argument(help="The network's name or id (net_…).", metavar="NETWORK", autocompletion=suggest.managed_network),
]
Client = Annotated[
    str,
    typer.Argument(help="The client's name or id (cli_…).", metavar="CLIENT", autocompletion=suggest.client),
]
Pending = Annotated[
    str,
    typer.Argument(help="The client's name or id (cli_…).", metavar="CLIENT", autocompletion=suggest.pending_client),
]
Email = Annotated[str, typer.Argument(help="The user's e-mail address.", metavar="EMAIL", autocompletion=suggest.user)]
MemberEmail = Annotated[
    str, typer.Argument(help="The user's e-mail address.", metavar="EMAIL", autocompletion=suggest.member)
]
Role = Annotated[
    str,
    typer.Option(
        "--role",
        help="owner (runs the network), member (invites one machine of their own at a time) or guest (only looks).",
        autocompletion=suggest.words("owner", "member", "guest"),
    ),
]
Permissions = Annotated[
    str | None,
    typer.Option(
        "--permissions",
        help="What they may do, whatever the role and groups give: a list as network.view,client.register, or none. Without it the role decides.",
        autocompletion=suggest.permission,
    ),
]


def attach(app: typer.Typer) -> None:
    clients = new_app("The machines in a network.")
    verb(clients, "list", "client list home", managed=True)(client_list)
    verb(clients, "show", "client show home laptop", managed=True)(client_show)
    verb(
        clients,
        "approve",
        ["client approve home laptop", "client approve home camera --plain-wireguard"],
        managed=True,
    )(client_approve)
    plaindevices.attach(clients)
    verb(clients, "deny", "client deny home laptop", managed=True)(client_deny)
    verb(clients, "rename", "client rename home laptop laptop-anna", managed=True)(client_rename)
    verb(clients, "set", "client set home laptop --ip 10.20.0.9", managed=True)(client_set)
    verb(clients, "remove", "client remove home laptop", managed=True)(client_remove)
    app.add_typer(clients, name="client")
    people = new_app("Who may manage a network.")
    verb(people, "list", "member list home", managed=True)(member_list)
    verb(people, "add", "member add home anna@example.org --role owner", managed=True)(member_add)
    verb(
        people,
        "set-role",
        [
            "member set-role home anna@example.org --role guest",
            "member set-role home anna@example.org --permissions network.view,logs.view",
        ],
        managed=True,
    )(member_add)
    verb(people, "remove", "member remove home anna@example.org", managed=True)(member_remove)
    app.add_typer(people, name="member")


def client_list(call: Call, network: Network) -> None:
    """The clients of a network."""
    with connect(call) as controller:
        found = by_name(controller.client_list(network))
    call.done(
        "clients/1",
        {"clients": [c.model_dump(mode="json") for c in found]},
        lambda: table(
            ("NAME", "ADDRESS", "STATE", "STATUS", "RELAY", "LAST SEEN", "ID"),
            ([c.name, c.ip, _state(c), c.status, c.relay, when(c.last_seen), c.client_id] for c in found),
        ),
    )


def _state(client: api.Client) -> str:
    return client.state if client.expires_at is None else f"to prove its key until {when(client.expires_at)}"


def client_show(call: Call, network: Network, client: Client) -> None:
    """One client in full."""
    with connect(call) as controller:
        found = controller.client_show(network, client).model_dump(mode="json")
    call.done("client/1", found, lambda: details(found))


def client_approve(
    call: Call,
    network: Network,
    client: Pending,
    plain_wireguard: Annotated[
        bool,
        typer.Option(
            "--plain-wireguard",
            help="One that was registered by its public key and has no daemon: you vouch for its key.",
        ),
    ] = False,
) -> None:
    """Let a waiting client in."""
    with connect(call) as controller:
        if plain_wireguard:
            done = controller.client_declare_plain(network, client)
            call.note(f"`shadowmesh client wireguard {done.network_name} {done.name}` prints its configuration")
        else:
            done = controller.client_approve(network, client)
    call.done("client/1", done.model_dump(mode="json"), f"{done.name}: approved as {done.ip}")


def client_deny(call: Call, network: Network, client: Pending) -> None:
    """Refuse a waiting client."""
    with connect(call) as controller:
        controller.client_deny(network, client)
    call.done("client-denied/1", {"client": client}, f"{client}: denied")


def client_rename(
    call: Call,
    network: Network,
    client: Client,
    name: Annotated[str, typer.Argument(help="The new name: a-z, 0-9 and -, at most 63.", metavar="NAME")],
) -> None:
    """Rename a client."""
    from shadowmesh.model import api

    wish = request(api.ClientPatch, name=name)
    with connect(call) as controller:
        done = controller.client_set(network, client, name=wish.name)
    call.done("client/1", done.model_dump(mode="json"), f"{client}: is {done.name} now")


def client_set(
    call: Call, network: Network, client: Client, ip: Annotated[str, typer.Option("--ip", help="The new address.")]
) -> None:
    """Change a client's address."""
    from shadowmesh.model import api

    wish = request(api.ClientPatch, ip=ip)
    with connect(call) as controller:
        done = controller.client_set(network, client, ip=wish.ip)
    call.done("client/1", done.model_dump(mode="json"), f"{done.name}: has {done.ip} now")


def client_remove(call: Call, network: Network, client: Client) -> None:
    """Cut a client off and rotate the network's key."""
    with connect(call) as controller:
        found = controller.client_show(network, client)
        call.confirm(f"remove {found.name} ({found.ip}) from {found.network_name}?")
        controller.client_remove(network, found.client_id)
        elsewhere = _elsewhere(controller, found.device)
        invites = open_invites(controller, [(found.network_id, found.network_name)])
        rotation_due = controller.network_show(found.network_id).rotation_due
    call.done(
        "client-removed/1",
        {
            "client": client,
            "client_id": found.client_id,
            "device": found.device,
            "also_in": [m.model_dump(mode="json") for m in elsewhere],
            "rotation_due": None if rotation_due is None else rotation_due.isoformat(),
        },
        f"{client}: removed from {found.network_name}",
    )
    if rotation_due is not None:
        call.note(
            f"it is cut off; {found.network_name}'s key rotated a moment ago, and does so again at {when(rotation_due)}"
            f" (at once: `shadowmesh network rotate-key {found.network_name}`)"
        )
    if elsewhere:
        call.note(
            f"the machine is also {places(elsewhere)}: `shadowmesh device remove {found.device}` cuts it off there"
        )
    for warning in invites:
        call.note(warning)


def _elsewhere(controller: ControllerClient, device: str) -> list[DeviceMembership]:
    """Where else the machine is, as far as who asks may remove it there."""
    try:
        return controller.device_show(device).networks
    except ShadowMeshError as e:
        if e.kind is not Kind.NOT_FOUND:
            raise
        return []


def member_list(call: Call, network: Network) -> None:
    """The people of a network and their roles."""
    with connect(call) as controller:
        found = sorted(controller.member_list(network), key=lambda m: m.email.casefold())
    call.done(
        "members/1",
        {"members": [m.model_dump(mode="json") for m in found]},
        lambda: table(
            ("EMAIL", "ROLE", "PERMISSIONS", "GROUPS"),
            ([m.email, m.role, _listed(m), ", ".join(m.groups)] for m in found),
        ),
    )


def _listed(member: api.NetworkMember) -> str:
    """The list that decides, where there is one; else the role and the groups do."""
    return "" if member.permissions is None else ", ".join(member.permissions) or "nothing"


def member_add(
    call: Call, network: Network, email: Email, role: Role = "member", permissions: Permissions = None
) -> None:
    """Give a user a role in a network; with --permissions exactly these, wider or narrower."""
    from shadowmesh.model import api

    wish = request(api.MemberPut, email=email, role=role, permissions=listed(permissions))
    with connect(call) as controller:
        done = controller.member_set(network, wish)
    only = "" if done.permissions is None else f", who may {_listed(done)}"
    call.done("member/1", done.model_dump(mode="json"), f"{email}: {done.role} of {network}{only}")


def member_remove(call: Call, network: Network, email: MemberEmail) -> None:
    """Take a user's role in a network away."""
    with connect(call) as controller:
        controller.member_remove(network, email)
    call.done("member-removed/1", {"email": email}, f"{email}: removed from {network}")
