"""`shadowmesh client …`, `member …`, `user …`."""

from __future__ import annotations

from typing import Annotated

import typer

from shadowmesh.cli.base import Call, details, new_app, table, verb
from shadowmesh.cli.managed import connect, request, when
from shadowmesh.cli.network import Name

Client = Annotated[str, typer.Argument(help="The client's name or id (cli_…).", metavar="CLIENT")]
Email = Annotated[str, typer.Argument(help="The user's e-mail address.", metavar="EMAIL")]
Role = Annotated[str, typer.Option("--role", help="owner, member or guest.")]


def attach(app: typer.Typer) -> None:
    clients = new_app("The machines in a network.")
    verb(clients, "list", managed=True)(client_list)
    verb(clients, "show", managed=True)(client_show)
    verb(clients, "approve", managed=True)(client_approve)
    verb(clients, "deny", managed=True)(client_deny)
    verb(clients, "rename", managed=True)(client_rename)
    verb(clients, "set", managed=True)(client_set)
    verb(clients, "remove", managed=True)(client_remove)
    app.add_typer(clients, name="client")
    people = new_app("Who may manage a network.")
    verb(people, "list", managed=True)(member_list)
    verb(people, "add", managed=True)(member_add)
    verb(people, "set-role", managed=True)(member_add)
    verb(people, "remove", managed=True)(member_remove)
    app.add_typer(people, name="member")
    users = new_app("The users of the controller.")
    verb(users, "list", managed=True)(user_list)
    verb(users, "add", managed=True)(user_add)
    verb(users, "disable", managed=True)(user_disable)
    verb(users, "reset-password", managed=True)(user_reset_password)
    app.add_typer(users, name="user")


def client_list(call: Call, network: Name) -> None:
    """The clients of a network."""
    with connect(call) as controller:
        found = controller.client_list(network)
    call.done(
        "clients/1",
        {"clients": [c.model_dump(mode="json") for c in found]},
        lambda: table(
            ("NAME", "ADDRESS", "STATE", "ONLINE", "RELAY", "LAST SEEN", "ID"),
            ([c.name, c.ip, c.state, c.online, c.relay, when(c.last_seen), c.id] for c in found),
        ),
    )


def client_show(call: Call, network: Name, client: Client) -> None:
    """One client in full."""
    with connect(call) as controller:
        found = controller.client_show(network, client).model_dump(mode="json")
    call.done("client/1", found, lambda: details(found))


def client_approve(call: Call, network: Name, client: Client) -> None:
    """Let a waiting client in."""
    with connect(call) as controller:
        done = controller.client_approve(network, client)
    call.done("client/1", done.model_dump(mode="json"), f"{done.name}: approved as {done.ip}")


def client_deny(call: Call, network: Name, client: Client) -> None:
    """Refuse a waiting client."""
    with connect(call) as controller:
        controller.client_deny(network, client)
    call.done("client-denied/1", {"client": client}, f"{client}: denied")


def client_rename(
    call: Call, network: Name, client: Client, name: Annotated[str, typer.Argument(help="The new name.")]
) -> None:
    """Rename a client."""
    with connect(call) as controller:
        done = controller.client_set(network, client, name=name)
    call.done("client/1", done.model_dump(mode="json"), f"{client}: is {done.name} now")


def client_set(
    call: Call, network: Name, client: Client, ip: Annotated[str, typer.Option("--ip", help="The new address.")]
) -> None:
    """Change a client's address."""
    with connect(call) as controller:
        done = controller.client_set(network, client, ip=ip)
    call.done("client/1", done.model_dump(mode="json"), f"{done.name}: has {done.ip} now")


def client_remove(call: Call, network: Name, client: Client) -> None:
    """Cut a client off and rotate the network's key."""
    call.confirm(f"remove {client} from {network}?")
    with connect(call) as controller:
        controller.client_remove(network, client)
    call.done("client-removed/1", {"client": client}, f"{client}: removed")


def member_list(call: Call, network: Name) -> None:
    """The people of a network and their roles."""
    with connect(call) as controller:
        found = controller.member_list(network)
    call.done(
        "members/1",
        {"members": [m.model_dump(mode="json") for m in found]},
        lambda: table(("EMAIL", "ROLE"), ([m.email, m.role] for m in found)),
    )


def member_add(call: Call, network: Name, email: Email, role: Role = "member") -> None:
    """Give a user a role in a network."""
    from shadowmesh.model import api

    wish = request(api.MemberPut, email=email, role=role)
    with connect(call) as controller:
        done = controller.member_set(network, wish)
    call.done("member/1", done.model_dump(mode="json"), f"{email}: {done.role} of {network}")


def member_remove(call: Call, network: Name, email: Email) -> None:
    """Take a user's role in a network away."""
    with connect(call) as controller:
        controller.member_remove(network, email)
    call.done("member-removed/1", {"email": email}, f"{email}: removed from {network}")


def user_list(call: Call) -> None:
    """The users of the controller."""
    with connect(call) as controller:
        found = controller.user_list()
    call.done(
        "users/1",
        {"users": [u.model_dump(mode="json") for u in found]},
        lambda: table(
            ("EMAIL", "ADMIN", "DISABLED"),
            ([u.email, u.admin, u.disabled] for u in found),
        ),
    )


def user_add(
    call: Call, email: Email, admin: Annotated[bool, typer.Option("--admin", help="An administrator.")] = False
) -> None:
    """Add a user; prints a password to be used once."""
    from shadowmesh.model import api

    wish = request(api.UserCreate, email=email, admin=admin)
    with connect(call) as controller:
        made = controller.user_create(wish)
    call.done(
        "user/1", made.model_dump(mode="json"), f"{made.email}: added; password, to be used once: {made.password}"
    )


def user_disable(call: Call, email: Email) -> None:
    """Shut a user out."""
    from shadowmesh.model import api

    with connect(call) as controller:
        controller.user_set(email, request(api.UserPatch, disabled=True))
    call.done("user-disabled/1", {"email": email}, f"{email}: disabled")


def user_reset_password(call: Call, email: Email) -> None:
    """Give a user a new password, to be used once."""
    with connect(call) as controller:
        made = controller.user_reset_password(email)
    call.done("user/1", made.model_dump(mode="json"), f"{email}: password, to be used once: {made.password}")
