"""`shadowmesh controller settings`: what a running controller goes by, for all of its nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, verb
from shadowmesh.cli.managed import connect, listed, request

if TYPE_CHECKING:
    from shadowmesh.model import accounts

_NAMED = 5


def attach(group: typer.Typer) -> None:
    """To `controller`."""
    verb(
        group,
        "settings",
        ["controller settings", "controller settings --mfa-required admin,owner"],
        managed=True,
    )(controller_settings)


def controller_settings(
    call: Call,
    mfa_required: Annotated[
        str | None,
        typer.Option(
            "--mfa-required",
            help="Who holds one of these roles needs a second factor: a list of admin, owner, member and guest, or none.",
            autocompletion=suggest.words("admin", "owner", "member", "guest", "none"),
        ),
    ] = None,
) -> None:
    """What is set, and who lacks a second factor that they need; with an option, set it: in force at once, on every node."""
    from shadowmesh.model import accounts

    wish = request(accounts.ControllerSettingsPatch, mfa_required=listed(mfa_required))
    with connect(call) as controller:
        found = controller.settings_show() if mfa_required is None else controller.settings_set(wish)
    call.done("controller-settings/1", found.model_dump(mode="json"), _text(found))
    if found.mfa_missing:
        named = ", ".join(found.mfa_missing[:_NAMED]) + (", …" if len(found.mfa_missing) > _NAMED else "")
        call.note(f"{len(found.mfa_missing)} can do nothing before `shadowmesh user mfa enrol`: {named}")


def _text(found: accounts.ControllerSettings) -> str:
    by_file = f" (of these in the configuration: {', '.join(found.mfa_required_by_file)})"
    return f"mfa-required  {', '.join(found.mfa_required) or 'none'}{by_file if found.mfa_required_by_file else ''}"
