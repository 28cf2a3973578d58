"""`shadowmesh group …`: groups of users, and their roles in networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, new_app, table, verb
from shadowmesh.cli.managed import connect, listed, nothing_to_change, request

if TYPE_CHECKING:
    from shadowmesh.model import accounts

Group = Annotated[
    str, typer.Argument(help="The group's name or id (grp_…).", metavar="GROUP", autocompletion=suggest.user_group)
]
User = Annotated[str, typer.Argument(help="The user's e-mail address.", metavar="EMAIL", autocompletion=suggest.user)]
Network = Annotated[
    str,
    typer.Argument(help="The network's name or id (net_…).", metavar="NETWORK", autocompletion=suggest.managed_network),
]


def attach(app: typer.Typer) -> None:
    groups = new_app("Groups of users, and their roles in networks.")
    verb(groups, "list", "group list", managed=True)(group_list)
    verb(groups, "show", "group show ops", managed=True)(group_show)
    verb(groups, "create", "group create ops", managed=True)(group_create)
    verb(groups, "set", "group set ops --description 'on call'", managed=True)(group_set)
    verb(groups, "delete", "group delete ops", managed=True)(group_delete)
    verb(groups, "add", "group add ops anna@example.org", managed=True)(group_add)
    verb(groups, "remove", "group remove ops anna@example.org", managed=True)(group_remove)
    verb(
        groups,
        "set-role",
        ["group set-role ops home --role owner", "group set-role ops home --permissions network.view,logs.view"],
        managed=True,
    )(group_set_role)
    verb(groups, "remove-role", "group remove-role ops home", managed=True)(group_remove_role)
    app.add_typer(groups, name="group")


def _done(call: Call, group: accounts.Group, human: str) -> None:
    call.done("group/1", group.model_dump(mode="json"), human)


def group_list(call: Call) -> None:
    """The groups."""
    with connect(call) as controller:
        found = sorted(controller.group_list(), key=lambda g: g.name.casefold())
    call.done(
        "groups/1",
        {"groups": [g.model_dump(mode="json") for g in found]},
        lambda: table(
            ("NAME", "USERS", "ROLES", "DESCRIPTION", "ID"),
            ([g.name, len(g.users), ", ".join(map(_role, g.networks)), g.description, g.id] for g in found),
        ),
    )


def _role(role: accounts.GroupRole) -> str:
    only = "" if role.permissions is None else f" ({', '.join(role.permissions) or 'nothing'})"
    return f"{role.role} of {role.network_name}{only}"


def group_show(call: Call, group: Group) -> None:
    """Who is in a group, and its roles."""
    with connect(call) as controller:
        found = controller.group_show(group)
    lines = [
        f"name         {found.name}",
        f"id           {found.id}",
        *([f"description  {found.description}"] if found.description else []),
        f"users        {', '.join(found.users) or 'none'}",
        f"roles        {'; '.join(map(_role, found.networks)) or 'none'}",
    ]
    _done(call, found, "\n".join(lines))


def group_create(
    call: Call,
    name: Annotated[str, typer.Argument(help="Letters, digits, ., _ and -.", metavar="NAME")],
    description: Annotated[str | None, typer.Option("--description", help="What it is for.")] = None,
) -> None:
    """Make a group."""
    from shadowmesh.model import accounts

    wish = request(accounts.GroupCreate, name=name, description=description)
    with connect(call) as controller:
        made = controller.group_create(wish)
    _done(call, made, f"{made.name}: made; `shadowmesh group add {made.name} EMAIL` puts users into it")


def group_set(
    call: Call,
    group: Group,
    rename: Annotated[str | None, typer.Option("--rename", help="A new name.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="What it is for.")] = None,
) -> None:
    """Give a group another name or description; its users and roles stay."""
    from shadowmesh.model import accounts

    if rename is None and description is None:
        raise nothing_to_change("group set")
    wish = request(accounts.GroupPatch, name=rename, description=description)
    with connect(call) as controller:
        found = controller.group_set(group, wish)
    said = [f"is {rename} now"] if rename is not None else []
    said += [f"described as {found.description!r}" if found.description else "without a description"] * (
        description is not None
    )
    _done(call, found, f"{group}: {', '.join(said)}")


def group_delete(call: Call, group: Group) -> None:
    """Delete a group; its users lose what they have by it."""
    with connect(call) as controller:
        found = controller.group_show(group)
        if found.users and found.networks:
            roles = ", ".join(map(_role, found.networks))
            call.confirm(f"delete {found.name}? {len(found.users)} users lose: {roles}")
        controller.group_delete(found.id)
    call.done("group-deleted/1", {"id": found.id, "name": found.name}, f"{found.name}: deleted")


def group_add(call: Call, group: Group, email: User) -> None:
    """Put a user into a group."""
    with connect(call) as controller:
        found = controller.group_add(group, email)
    _done(call, found, f"{email}: in {found.name}")


def group_remove(call: Call, group: Group, email: User) -> None:
    """Take a user out of a group."""
    with connect(call) as controller:
        found = controller.group_remove(group, email)
    _done(call, found, f"{email}: no longer in {found.name}")


def group_set_role(
    call: Call,
    group: Group,
    network: Network,
    role: Annotated[
        str,
        typer.Option(
            "--role", help="owner, member or guest.", autocompletion=suggest.words("owner", "member", "guest")
        ),
    ] = "member",
    permissions: Annotated[
        str | None,
        typer.Option(
            "--permissions",
            help="In place of the role's: a list as network.view,logs.view.",
            autocompletion=suggest.permission,
        ),
    ] = None,
) -> None:
    """Give a group a role in a network: all its users have it there, with their own."""
    from shadowmesh.model import api

    wish = request(api.GivenRole, role=role, permissions=listed(permissions))
    with connect(call) as controller:
        found = controller.group_set_role(group, network, wish)
    _done(call, found, f"{found.name}: {role} of {network}")


def group_remove_role(call: Call, group: Group, network: Network) -> None:
    """Take a group's role in a network away."""
    with connect(call) as controller:
        found = controller.group_remove_role(group, network)
    _done(call, found, f"{found.name}: no role in {network} any more")
