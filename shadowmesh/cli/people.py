"""`shadowmesh user …`: the users of the controller."""

from __future__ import annotations

from typing import Annotated

import typer

from shadowmesh.cli import secondfactor, suggest
from shadowmesh.cli.base import Call, new_app, table, verb
from shadowmesh.cli.managed import connect, network_names, nothing_to_change, request, seconds, when
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import canonical_email

Email = Annotated[str, typer.Argument(help="The user's e-mail address.", metavar="EMAIL", autocompletion=suggest.user)]
NewEmail = Annotated[str, typer.Argument(help="The user's e-mail address.", metavar="EMAIL")]


def attach(app: typer.Typer) -> None:
    users = new_app("The users of the controller.")
    verb(users, "list", "user list", managed=True)(user_list)
    verb(users, "add", ["user add anna@example.org", "user add backup@example.org --service"], managed=True)(user_add)
    verb(
        users,
        "invite",
        ["user invite anna@example.org", "user invite anna@example.org --network home --network-role owner"],
        managed=True,
    )(user_invite)
    verb(users, "invitations", "user invitations", managed=True)(user_invitations)
    verb(users, "revoke-invitation", "user revoke-invitation uin_…", managed=True)(user_revoke_invitation)
    verb(
        users,
        "import",
        ["user import people.csv", "user import people.json"],
        managed=True,
    )(user_import)
    verb(
        users,
        "set",
        ["user set anna@example.org --admin", "user set anna@example.org --name 'Anna Berg'"],
        managed=True,
    )(user_set)
    verb(users, "disable", "user disable anna@example.org", managed=True)(user_disable)
    verb(users, "enable", "user enable anna@example.org", managed=True)(user_enable)
    verb(
        users,
        "delete",
        ["user delete anna@example.org", "user delete anna@example.org --give-to bob@example.org"],
        managed=True,
    )(user_delete)
    verb(users, "reset-password", "user reset-password anna@example.org", managed=True)(user_reset_password)
    verb(users, "sessions", ["user sessions", "user sessions anna@example.org"], managed=True)(user_sessions)
    verb(users, "end-session", "user end-session ses_…", managed=True)(user_end_session)
    secondfactor.attach(users)
    app.add_typer(users, name="user")


def user_list(call: Call) -> None:
    """The users of the controller."""
    with connect(call) as controller:
        found = sorted(controller.user_list(), key=lambda u: u.email.casefold())
    call.done(
        "users/1",
        {"users": [u.model_dump(mode="json") for u in found]},
        lambda: table(
            ("EMAIL", "NAME", "KIND", "ADMIN", "MFA", "DISABLED", "LAST SEEN"),
            ([u.email, u.name, u.kind, u.admin, u.second_factor, u.disabled, when(u.last_seen)] for u in found),
        ),
    )


def user_add(
    call: Call,
    email: NewEmail,
    name: Annotated[str | None, typer.Option("--name", help="What they are called.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="An administrator.")] = False,
    service: Annotated[
        bool, typer.Option("--service", help="For programs: no password, only API keys (`api-key create --user`).")
    ] = False,
) -> None:
    """Add a user; prints a password to be used once."""
    from shadowmesh.model import accounts

    kind = "service" if service else "person"
    wish = request(accounts.UserCreate, email=email, name=name, admin=admin, kind=kind)
    with connect(call) as controller:
        made = controller.user_create(wish)
    said = f"{made.email}: added; password, to be used once: {made.password}"
    if made.password is None:
        said = f"{made.email}: added; `shadowmesh api-key create --user {made.email}` makes an API key for it"
    call.done("user/1", made.model_dump(mode="json"), said, shown_once=made.password is not None)


def user_invite(
    call: Call,
    email: NewEmail,
    role: Annotated[
        str,
        typer.Option("--role", help="admin, or user.", autocompletion=suggest.words("admin", "user")),
    ] = "user",
    network: Annotated[
        str | None,
        typer.Option("--network", help="They get a role in it.", autocompletion=suggest.managed_network),
    ] = None,
    network_role: Annotated[
        str | None,
        typer.Option(
            "--network-role",
            help="Which: owner, member or guest (default: member).",
            autocompletion=suggest.words("owner", "member", "guest"),
        ),
    ] = None,
    expires: Annotated[str, typer.Option("--expires", help="7d; as 30m, 24h or 7d.")] = "7d",
) -> None:
    """Invite somebody: prints a token, good once, by which they become a user with a password of their own."""
    from shadowmesh.model import accounts

    if network is not None and network_role is None:
        network_role = "member"
    wish = request(
        accounts.UserInvite,
        email=email,
        role=role,
        network=network,
        network_role=network_role,
        expires_in=seconds(expires),
    )
    with connect(call) as controller:
        made = controller.user_invite(wish)
    lines = (
        f"{made.email}: invited until {when(made.expires_at)}; hand this over, nothing was sent:",
        made.token,
        "they accept it, and are asked for a password, with",
        f"shadowmesh login {made.url} --fingerprint {made.fingerprint} --accept-invitation -",
    )
    call.done("user-invitation/1", made.model_dump(mode="json"), "\n".join(lines), shown_once=True)


def user_invitations(call: Call) -> None:
    """The invitations that can be accepted."""
    with connect(call) as controller:
        found = controller.user_invitations()
        names = network_names(controller, (i.network for i in found))
    call.done(
        "user-invitations/1",
        {"invitations": [i.model_dump(mode="json") for i in found]},
        lambda: table(
            ("ID", "EMAIL", "ROLE", "NETWORK", "ROLE THERE", "EXPIRES", "BY"),
            (
                [
                    i.id,
                    i.email,
                    i.role,
                    names.get(i.network or "", i.network),
                    i.network_role,
                    when(i.expires_at),
                    i.created_by,
                ]
                for i in found
            ),
        ),
    )


def user_revoke_invitation(
    call: Call,
    invitation: Annotated[str, typer.Argument(help="uin_…", metavar="ID", autocompletion=suggest.user_invitation)],
) -> None:
    """Make an invitation useless."""
    with connect(call) as controller:
        controller.user_invitation_revoke(invitation)
    call.done("user-invitation-revoked/1", {"id": invitation}, f"{invitation}: revoked")


def user_import(
    call: Call,
    file: Annotated[str, typer.Argument(help="A .json or .csv file.", metavar="FILE")],
) -> None:
    """Add users of another system with their password hashes: all of a file, or none.

    CSV with a header line, or a JSON list of objects: email, name, password_hash, role (admin or user), network and
    network_role (owner, member or guest). Hashes are of argon2id, bcrypt or scrypt; people go on with their passwords.
    """
    from shadowmesh.cli.userfiles import read_users

    wish = read_users(file)
    with connect(call) as controller:
        made = controller.user_import(wish)
    call.done("users-imported/1", made.model_dump(mode="json"), f"{len(made.users)} users imported from {file}")


def user_set(
    call: Call,
    email: Email,
    name: Annotated[str | None, typer.Option("--name", help="What they are called.")] = None,
    admin: Annotated[bool | None, typer.Option("--admin/--no-admin", help="An administrator, or no longer.")] = None,
) -> None:
    """Give a user another name, or make them an administrator, or no longer one."""
    from shadowmesh.model import accounts

    if name is None and admin is None:
        raise nothing_to_change("user set")
    wish = request(accounts.UserPatch, name=name, admin=admin)
    with connect(call) as controller:
        found = controller.user_set(email, wish)
    said = [] if name is None else [f"is called {found.name}"]
    said += [] if admin is None else ["is an administrator" if found.admin else "is no administrator"]
    call.done("user/1", found.model_dump(mode="json"), f"{found.email}: {', '.join(said)}")


def user_disable(call: Call, email: Email) -> None:
    """Shut a user out."""
    from shadowmesh.model import accounts

    with connect(call) as controller:
        if not any(canonical_email(email) == u.email or email == u.id for u in controller.user_list()):
            raise _no_user(email)
        call.confirm(f"shut {email} out, wherever they are signed in?", reversible=True)
        controller.user_set(email, request(accounts.UserPatch, disabled=True))
    call.done("user-disabled/1", {"email": email}, f"{email}: disabled")


def _no_user(email: str) -> ShadowMeshError:
    return ShadowMeshError(
        "user_unknown", f"there is no user {email!r}", "`shadowmesh user list` names them", kind=Kind.NOT_FOUND
    )


def user_enable(call: Call, email: Email) -> None:
    """Let a user in again; what they had signed in with before has ended, but for API keys."""
    from shadowmesh.model import accounts

    with connect(call) as controller:
        controller.user_set(email, request(accounts.UserPatch, disabled=False))
    call.done("user-enabled/1", {"email": email}, f"{email}: enabled")


def user_delete(
    call: Call,
    email: Email,
    give_to: Annotated[
        str | None,
        typer.Option("--give-to", help="Who gets their networks and machines.", autocompletion=suggest.user),
    ] = None,
) -> None:
    """Delete a user for good: sessions, API keys, roles, open invites and invitations end with them.

    Who has networks or machines is deleted only with --give-to. The audit log keeps what they did.
    """
    with connect(call) as controller:
        if not any(canonical_email(email) == u.email or email == u.id for u in controller.user_list()):
            raise _no_user(email)
        to = "" if give_to is None else f", and give their networks and machines to {give_to}"
        call.confirm(f"delete {email} for good{to}?")
        found = controller.user_delete(email, give_to)
    said = [f"{found.email}: deleted"]
    if found.given_to is not None:
        networks = ", ".join(found.networks) or "no networks"
        said.append(f"{found.given_to} has {networks}, and {found.clients} machines")
    call.done("user-deleted/1", found.model_dump(mode="json"), "; ".join(said))


def user_reset_password(call: Call, email: Email) -> None:
    """Give a user a new password, to be used once."""
    with connect(call) as controller:
        made = controller.user_reset_password(email)
    call.done(
        "user/1", made.model_dump(mode="json"), f"{email}: password, to be used once: {made.password}", shown_once=True
    )


def user_sessions(
    call: Call,
    email: Annotated[
        str | None,
        typer.Argument(help="Somebody else, for administrators.", metavar="EMAIL", autocompletion=suggest.user),
    ] = None,
) -> None:
    """Where one is signed in: since when, from where, with what. `*` is the session that asks."""
    with connect(call) as controller:
        found = controller.session_list(email)
    call.done(
        "sessions/1",
        {"sessions": [s.model_dump(mode="json") for s in found]},
        lambda: table(
            ("", "ID", "USER", "SINCE", "LAST USED", "FROM", "WITH"),
            (
                ["*" if s.current else " ", s.id, s.user, when(s.created_at), when(s.last_used), s.source, s.client]
                for s in found
            ),
        ),
    )


def user_end_session(
    call: Call,
    session: Annotated[str, typer.Argument(help="ses_…", metavar="ID", autocompletion=suggest.session)],
) -> None:
    """End a session: whoever has it is signed out at once."""
    with connect(call) as controller:
        controller.session_end(session)
    call.done("session-ended/1", {"id": session}, f"{session}: ended")
