"""`shadowmesh login`, `logout`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli.base import Call, read_secret, verb
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.model.accounts import WhoAmI

_NOT_TAKEN = ("weak_password", "same_password")  # another new password is asked for


def attach(app: typer.Typer) -> None:
    verb(
        app,
        "login",
        [
            "login https://vpn.example.org:8443 --fingerprint sha256:…",
            "login https://vpn.example.org:8443 --fingerprint sha256:… \\\n    --email anna@example.org --password @password",
            "login https://vpn.example.org:8443 --token @key --fingerprint sha256:…",
            "login https://vpn.example.org:8443 --accept-invitation @invitation",
            "login https://vpn.example.org:8443 --sign-up anna@example.org",
        ],
    )(login)
    verb(app, "logout", ["logout", "logout --all"])(logout)


def login(
    call: Call,
    url: Annotated[str, typer.Argument(help="https://HOST:8443", metavar="URL")],
    fingerprint: Annotated[
        str | None, typer.Option(help="sha256:… as `controller fingerprint` shows it on the controller's host.")
    ] = None,
    token: Annotated[str | None, typer.Option("--token", help="An API key: sk_…, `-` (stdin) or @FILE.")] = None,
    email: Annotated[
        str | None, typer.Option("--email", help="Sign in with a password instead; asked for on a terminal.")
    ] = None,
    password: Annotated[str, typer.Option("--password", help="`-` (stdin) or @FILE; asked for on a terminal.")] = "",
    new_password: Annotated[
        str | None,
        typer.Option(
            "--new-password",
            help="`-` or @FILE: sets it; required, or asked for, where the password was for one use.",
        ),
    ] = None,
    code: Annotated[
        str | None, typer.Option("--code", help="Of the second factor: `-` or @FILE; asked for on a terminal.")
    ] = None,
    accept_invitation: Annotated[
        str | None,
        typer.Option("--accept-invitation", help="smu_…, `-` or @FILE: become a user, with a password of your own."),
    ] = None,
    sign_up: Annotated[
        str | None,
        typer.Option(
            "--sign-up",
            help="Ask for an account, where anybody may: a mail to this address says how to go on.",
            metavar="EMAIL",
        ),
    ] = None,
    generate: Annotated[
        bool, typer.Option("--generate", help="Set a new password that is made here, and print it.")
    ] = False,
) -> None:
    """Sign in to a controller: later verbs use it. On a terminal it asks for what isn't given."""
    from shadowmesh.client_api import signin
    from shadowmesh.client_api.contact import first_contact

    if token is not None:
        key = read_secret(token, "token")
        who = signin.login(first_contact(url, fingerprint), token=key)
        call.done("login/1", who.model_dump(mode="json"), f"signed in to {url} as {who.name}")
        return
    if sign_up is not None:
        taken = signin.sign_up(first_contact(url, fingerprint), sign_up)
        ends = f"until {taken.expires_at:%Y-%m-%d %H:%M} UTC"
        call.done("sign-up/1", taken.model_dump(mode="json"), f"a mail to {taken.email} says how to go on, {ends}")
        return
    asks = _somebody_is_there()
    if accept_invitation is not None:
        invitation = read_secret(accept_invitation, "invitation")
        new, made = _new_password(new_password, generate=generate)
        if new is None and not asks:
            remedy = "say --new-password -, --new-password @FILE or --generate"
            raise ShadowMeshError("no_password", "no password", remedy, kind=Kind.USAGE)
        contact = first_contact(url, fingerprint)
        who = signin.accept_invitation(contact, invitation, new or _asked_new_password(call))
        _signed_in(call, url, who, made)
        return
    if email is None and not asks:
        raise ShadowMeshError("no_login", "neither --token nor --email", "name one of them", kind=Kind.USAGE)
    if not password and not asks:
        raise _no_password()
    shown = read_secret(password, "password") if password else ""
    new, made = _new_password(new_password, generate=generate)
    given = None if code is None else read_secret(code, "code")
    contact = first_contact(url, fingerprint)  # whose it is is known before anything is asked
    email, shown = email or _asked_email(), shown or ask_password("")
    while True:
        try:
            who = signin.login(contact, email=email, password=shown, new_password=new, code=given)
            break
        except ShadowMeshError as error:
            if error.code == "code_required" and asks:
                given = ask_code()
                continue
            if error.code not in ("password_change_required", *_NOT_TAKEN) or new_password is not None or generate:
                raise
            if not asks:
                remedy = "give a new one with --new-password @FILE, or --generate"
                raise ShadowMeshError(error.code, error.what, remedy, kind=error.kind) from error
            call.note(error.what)
        new = _asked_new_password(call)
    _signed_in(call, url, who, made)


def _somebody_is_there() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _asked_email() -> str:
    print("E-mail: ", end="", file=sys.stderr, flush=True)
    given = sys.stdin.readline().strip()
    if not given:
        raise ShadowMeshError("no_login", "no e-mail address", "give it, or --token", kind=Kind.USAGE)
    return given


def _asked_new_password(call: Call) -> str:
    """What was typed twice alike."""
    import getpass

    while True:
        new = getpass.getpass("New password: ")
        if new and new == getpass.getpass("The same again: "):
            return new
        call.note("these two differ" if new else "it is empty")


def _signed_in(call: Call, url: str, who: WhoAmI, made: str | None) -> None:
    """`made`: the password that was made here."""
    document, text = who.model_dump(mode="json"), f"signed in to {url} as {who.name}"
    if made is not None:
        document, text = document | {"password": made}, f"{text}\nnew password: {made}"
    if who.second_factor_missing:
        call.note("your role asks for a second factor: set it up with `shadowmesh user mfa enrol`, before all else")
    call.done("login/1", document, text, shown_once=made is not None)


def ask_password(argument: str) -> str:
    if argument:
        return read_secret(argument, "password")
    if not _somebody_is_there():
        raise _no_password()
    import getpass

    return getpass.getpass("Password: ")


def _no_password() -> ShadowMeshError:
    return ShadowMeshError("no_password", "no password", "say --password - or --password @FILE", kind=Kind.USAGE)


def ask_code() -> str:
    print("Code: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _new_password(argument: str | None, *, generate: bool) -> tuple[str | None, str | None]:
    """The new password, if one is wished for, and the same if it was made here."""
    if not generate:
        return None if argument is None else read_secret(argument, "new password"), None
    if argument is not None:
        raise ShadowMeshError("two_passwords", "both --new-password and --generate", "say one of them", kind=Kind.USAGE)
    from shadowmesh.model.userpasswords import generated_password

    made = generated_password()
    return made, made


def logout(
    call: Call,
    everywhere: Annotated[
        bool, typer.Option("--all", help="Also the controllers that the terminal interface is signed in to.")
    ] = False,
) -> None:
    """Forget the controller signed in to."""
    from shadowmesh.client_api import logins, signin

    signin.logout()
    for login in logins.known() if everywhere else ():
        signin.logout(login.url)
    call.done("logout/1", {"signed_in": False}, "signed out")
