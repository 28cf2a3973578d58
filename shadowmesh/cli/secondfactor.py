"""`shadowmesh user mfa …`: a second factor for signing in with a password."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, new_app, read_secret, verb
from shadowmesh.cli.managed import connect, when
from shadowmesh.cli.signon import ask_code, ask_password
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.client_api.rest import ControllerClient
    from shadowmesh.model import accounts

_TRIES = 3

Password = Annotated[str, typer.Option("--password", help="Yours: `-` (stdin) or @FILE; asked for on a terminal.")]
Code = Annotated[
    str | None,
    typer.Option("--code", help="Of the app, or a recovery code: `-` (stdin) or @FILE; asked for on a terminal."),
]
Email = Annotated[str, typer.Argument(help="The user's e-mail address.", metavar="EMAIL", autocompletion=suggest.user)]


def attach(users: typer.Typer) -> None:
    group = new_app("Codes of an authenticator app, asked for when one signs in with a password.")
    verb(group, "status", "user mfa status", managed=True)(status)
    verb(group, "enrol", "user mfa enrol", managed=True)(enrol)
    verb(group, "confirm", "user mfa confirm --code -", managed=True)(confirm)
    verb(group, "recovery-codes", "user mfa recovery-codes", managed=True)(recovery_codes)
    verb(group, "disable", "user mfa disable", managed=True)(disable)
    verb(group, "reset", "user mfa reset anna@example.org", managed=True)(reset)
    users.add_typer(group, name="mfa")


def status(call: Call) -> None:
    """Whether a code is asked for, and how many recovery codes are left."""
    with connect(call) as controller:
        found = controller.second_factor()
    said = "no code is asked for"
    if found.enabled:
        said = f"a code is asked for since {when(found.since)}; {found.recovery_codes_left} recovery codes left"
    call.done("mfa/1", found.model_dump(mode="json"), said)


def enrol(call: Call, password: Password = "") -> None:
    """Set up an authenticator app: shows its secret once, and asks for a code of it.

    Where nobody can be asked, `user mfa confirm` takes the code afterwards. Until then no code is asked for.
    """
    shown = ask_password(password)
    with connect(call) as controller:
        made = controller.second_factor_enrol(shown)
        asking = sys.stdin.isatty() and not call.json
        text = f"secret: {made.secret}\n{made.uri}"
        call.done(
            "mfa-secret/1",
            made.model_dump(mode="json"),
            f"{_qr(made.uri)}{text}" if asking else f"{text}\nnext: shadowmesh user mfa confirm",
            shown_once=True,
        )
        if asking:
            _print_codes(call, _confirmed(call, controller))


def _confirmed(call: Call, controller: ControllerClient) -> accounts.RecoveryCodes:
    """By a code that is typed; one that is wrong is asked for again, a few times."""
    for _ in range(_TRIES - 1):
        try:
            return controller.second_factor_confirm(ask_code())
        except ShadowMeshError as e:
            if e.code != "bad_code":
                raise
            call.note(f"{e.what}: is the clock of this machine and of the phone right? try the one that is shown now")
    return controller.second_factor_confirm(ask_code())


def _qr(uri: str) -> str:
    """For a phone's camera, in half blocks; nothing where the terminal has none."""
    if "utf" not in sys.stdout.encoding.lower():
        return ""
    import segno

    out = io.StringIO()
    segno.make(uri, error="m").terminal(out, compact=True)
    return out.getvalue()


def confirm(call: Call, code: Code = None) -> None:
    """Show a code of the app that was set up: from now on codes are asked for, and all other sessions end."""
    given = _code(code)
    with connect(call) as controller:
        made = controller.second_factor_confirm(given)
    _print_codes(call, made)


def recovery_codes(call: Call, code: Code = None) -> None:
    """Make ten new recovery codes; those of before end."""
    given = _code(code)
    with connect(call) as controller:
        made = controller.recovery_codes_renew(given)
    _print_codes(call, made)


def _print_codes(call: Call, made: accounts.RecoveryCodes) -> None:
    lines = ["recovery codes, each good once in place of a code; keep them where the app isn't:", *made.recovery_codes]
    call.done("recovery-codes/1", made.model_dump(mode="json"), "\n".join(lines), shown_once=True)


def disable(call: Call, password: Password = "", code: Code = None) -> None:
    """Have no code asked for any more."""
    shown, given = ask_password(password), _code(code)
    with connect(call) as controller:
        controller.second_factor_disable(shown, given)
    call.done("mfa-disabled/1", {"enabled": False}, "no code is asked for any more")


def reset(call: Call, email: Email) -> None:
    """Take away the second factor of somebody who lost it."""
    with connect(call) as controller:
        call.confirm(f"have {email} sign in by the password alone, until they set up another?")
        controller.second_factor_reset(email)
    call.done("mfa-reset/1", {"email": email}, f"{email}: no code is asked for any more")


def _code(argument: str | None) -> str:
    if argument is not None:
        return read_secret(argument, "code")
    if not sys.stdin.isatty():
        raise ShadowMeshError("no_code", "no code", "say --code - or --code @FILE", kind=Kind.USAGE)
    return ask_code()
