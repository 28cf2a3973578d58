"""`shadowmesh client …`, `member …`, `user …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, details, new_app, table, verb
from shadowmesh.cli.device import open_invites, places
from shadowmesh.cli.managed import by_name, connect, request, when
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import canonical_email

if TYPE_CHECKING:
    from shadowmesh.client_api.rest import ControllerClient
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
NewEmail = Annotated[str, typer.Argument(help="The user's e-mail address.", metavar="EMAIL")]
Role = Annotated[
    str,
    typer.Option(
        "--role",
        help="owner (runs the network), member (invites one machine of their own at a time) or guest (only looks).",
        autocompletion=suggest.words("owner", "member", "guest"),
    ),
]


def attach(app: typer.Typer) -> None:
    clients = new_app("The machines in a network.")
    verb(clients, "list", "client list home", managed=True)(client_list)
    verb(clients, "show", "client show home laptop", managed=True)(client_show)
    verb(clients, "approve", "client approve home laptop", managed=True)(client_approve)
    verb(clients, "deny", "client deny home laptop", managed=True)(client_deny)
    verb(clients, "rename", "client rename home laptop laptop-anna", managed=True)(client_rename)
    verb(clients, "set", "client set home laptop --ip 10.20.0.9", managed=True)(client_set)
    verb(clients, "remove", "client remove home laptop", managed=True)(client_remove)
    app.add_typer(clients, name="client")
    people = new_app("Who may manage a network.")
    verb(people, "list", "member list home", managed=True)(member_list)
    verb(people, "add", "member add home anna@example.org --role owner", managed=True)(member_add)
    verb(people, "set-role", "member set-role home anna@example.org --role guest", managed=True)(member_add)
    verb(people, "remove", "member remove home anna@example.org", managed=True)(member_remove)
    app.add_typer(people, name="member")
    users = new_app("The users of the controller.")
    verb(users, "list", "user list", managed=True)(user_list)
    verb(users, "add", "user add anna@example.org", managed=True)(user_add)
    verb(users, "disable", "user disable anna@example.org", managed=True)(user_disable)
    verb(users, "enable", "user enable anna@example.org", managed=True)(user_enable)
    verb(users, "reset-password", "user reset-password anna@example.org", managed=True)(user_reset_password)
    app.add_typer(users, name="user")


def client_list(call: Call, network: Network) -> None:
    """The clients of a network."""
    with connect(call) as controller:
        found = by_name(controller.client_list(network))
    call.done(
        "clients/1",
        {"clients": [c.model_dump(mode="json") for c in found]},
        lambda: table(
            ("NAME", "ADDRESS", "STATE", "ONLINE", "RELAY", "LAST SEEN", "ID"),
            ([c.name, c.ip, c.state, c.online, c.relay, when(c.last_seen), c.id] for c in found),
        ),
    )


def client_show(call: Call, network: Network, client: Client) -> None:
    """One client in full."""
    with connect(call) as controller:
        found = controller.client_show(network, client).model_dump(mode="json")
    call.done("client/1", found, lambda: details(found))


def client_approve(call: Call, network: Network, client: Pending) -> None:
    """Let a waiting client in."""
    with connect(call) as controller:
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
        controller.client_remove(network, found.id)
        elsewhere = _elsewhere(controller, found.device)
        invites = open_invites(controller, [(found.network, found.network_name)])
    call.done(
        "client-removed/1",
        {
            "client": client,
            "client_id": found.id,
            "device": found.device,
            "also_in": [m.model_dump(mode="json") for m in elsewhere],
        },
        f"{client}: removed from {found.network_name}",
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
        lambda: table(("EMAIL", "ROLE"), ([m.email, m.role] for m in found)),
    )


def member_add(call: Call, network: Network, email: Email, role: Role = "member") -> None:
    """Give a user a role in a network."""
    from shadowmesh.model import api

    wish = request(api.MemberPut, email=email, role=role)
    with connect(call) as controller:
        done = controller.member_set(network, wish)
    call.done("member/1", done.model_dump(mode="json"), f"{email}: {done.role} of {network}")


def member_remove(call: Call, network: Network, email: MemberEmail) -> None:
    """Take a user's role in a network away."""
    with connect(call) as controller:
        controller.member_remove(network, email)
    call.done("member-removed/1", {"email": email}, f"{email}: removed from {network}")


def user_list(call: Call) -> None:
    """The users of the controller."""
    with connect(call) as controller:
        found = sorted(controller.user_list(), key=lambda u: u.email.casefold())
    call.done(
        "users/1",
        {"users": [u.model_dump(mode="json") for u in found]},
        lambda: table(
            ("EMAIL", "ADMIN", "DISABLED"),
            ([u.email, u.admin, u.disabled] for u in found),
        ),
    )


def user_add(
    call: Call, email: NewEmail, admin: Annotated[bool, typer.Option("--admin", help="An administrator.")] = False
) -> None:
    """Add a user; prints a password to be used once."""
    from shadowmesh.model import api

    wish = request(api.UserCreate, email=email, admin=admin)
    with connect(call) as controller:
        made = controller.user_create(wish)
    call.done(
        "user/1",
        made.model_dump(mode="json"),
        f"{made.email}: added; password, to be used once: {made.password}",
        shown_once=True,
    )


def user_disable(call: Call, email: Email) -> None:
    """Shut a user out."""
    from shadowmesh.model import api

    with connect(call) as controller:
        if not any(canonical_email(email) == u.email or email == u.id for u in controller.user_list()):
            raise ShadowMeshError(
                "user_unknown", f"no user {email!r}", "`shadowmesh user list` names them", kind=Kind.NOT_FOUND
            )
        call.confirm(f"shut {email} out, wherever they are signed in?", reversible=True)
        controller.user_set(email, request(api.UserPatch, disabled=True))
    call.done("user-disabled/1", {"email": email}, f"{email}: disabled")


def user_enable(call: Call, email: Email) -> None:
    """Let a user in again; what they had signed in with before has ended, but for API keys."""
    from shadowmesh.model import api

    with connect(call) as controller:
        controller.user_set(email, request(api.UserPatch, disabled=False))
    call.done("user-enabled/1", {"email": email}, f"{email}: enabled")


def user_reset_password(call: Call, email: Email) -> None:
    """Give a user a new password, to be used once."""
    with connect(call) as controller:
        made = controller.user_reset_password(email)
    call.done(
        "user/1", made.model_dump(mode="json"), f"{email}: password, to be used once: {made.password}", shown_once=True
    )
