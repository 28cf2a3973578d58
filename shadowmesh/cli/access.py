"""`shadowmesh login`, `logout`, `api-key …`, `audit …`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, new_app, read_secret, table, verb
from shadowmesh.cli.managed import connect, request, seconds, when
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.model import api

_LONGEST_CHANGE = 100


def attach(app: typer.Typer) -> None:
    verb(
        app,
        "login",
        [
            "login https://vpn.example.org:8443 --email anna@example.org",
            "login https://vpn.example.org:8443 --token @key --fingerprint sha256:…",
        ],
    )(login)
    verb(app, "logout", "logout")(logout)
    keys = new_app("API keys.")
    verb(keys, "create", "api-key create --name backup --expires 90d", managed=True)(key_create)
    verb(keys, "list", "api-key list", managed=True)(key_list)
    verb(keys, "revoke", "api-key revoke key_…", managed=True)(key_revoke)
    app.add_typer(keys, name="api-key")
    audit = new_app("Who changed what: a chain of hashes.")
    verb(audit, "list", "audit list", managed=True)(audit_list)
    verb(audit, "verify", "audit verify", managed=True)(audit_verify)
    app.add_typer(audit, name="audit")


def login(
    call: Call,
    url: Annotated[str, typer.Argument(help="https://HOST:8443", metavar="URL")],
    fingerprint: Annotated[str | None, typer.Option(help="sha256:… as `controller init` printed it.")] = None,
    token: Annotated[str | None, typer.Option("--token", help="An API key: sk_…, `-` (stdin) or @FILE.")] = None,
    email: Annotated[str | None, typer.Option("--email", help="Sign in with a password instead.")] = None,
    password: Annotated[str, typer.Option("--password", help="`-` (stdin) or @FILE; asked for on a terminal.")] = "",
    new_password: Annotated[
        str | None, typer.Option("--new-password", help="`-` or @FILE: sets it; the first time it is required.")
    ] = None,
) -> None:
    """Sign in to a controller: later verbs use it."""
    from shadowmesh.client_api import rest

    if token is not None:
        who = rest.login(url, fingerprint=fingerprint, token=read_secret(token, "token"))
    elif email is not None:
        who = rest.login(
            url,
            fingerprint=fingerprint,
            email=email,
            password=_password(password),
            new_password=_new_password(new_password),
        )
    else:
        raise ShadowMeshError("no_login", "neither --token nor --email", "name one of them", kind=Kind.USAGE)
    call.done("login/1", who.model_dump(mode="json"), f"signed in to {url} as {who.name}")


def _password(argument: str) -> str:
    if argument:
        return read_secret(argument, "password")
    if not sys.stdin.isatty():
        raise ShadowMeshError("no_password", "no password", "say --password - or --password @FILE", kind=Kind.USAGE)
    import getpass

    return getpass.getpass("Password: ")


def _new_password(argument: str | None) -> str | None:
    return None if argument is None else read_secret(argument, "new password")


def logout(call: Call) -> None:
    """Forget the controller signed in to."""
    from shadowmesh.client_api import rest

    rest.logout()
    call.done("logout/1", {"signed_in": False}, "signed out")


def key_create(
    call: Call,
    name: Annotated[str | None, typer.Option("--name", help="What it is for.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="90d; without it, it stays good.")] = None,
) -> None:
    """Make an API key; it is shown once."""
    from shadowmesh.model import api

    wish = request(api.ApiKeyCreate, name=name, expires_in=None if expires is None else seconds(expires))
    with connect(call) as controller:
        made = controller.api_key_create(wish)
    call.done("api-key/1", made.model_dump(mode="json"), made.key, shown_once=True)


def key_list(call: Call) -> None:
    """The API keys."""
    with connect(call) as controller:
        found = sorted(controller.api_key_list(), key=lambda k: (k.name.casefold(), k.id))
    call.done(
        "api-keys/1",
        {"api_keys": [k.model_dump(mode="json") for k in found]},
        lambda: table(
            ("ID", "NAME", "USER", "EXPIRES", "LAST USED"),
            ([k.id, k.name, k.user, when(k.expires_at), when(k.last_used)] for k in found),
        ),
    )


def key_revoke(
    call: Call, key_id: Annotated[str, typer.Argument(help="key_…", metavar="ID", autocompletion=suggest.api_key)]
) -> None:
    """Make an API key useless."""
    with connect(call) as controller:
        controller.api_key_revoke(key_id)
    call.done("api-key-revoked/1", {"id": key_id}, f"{key_id}: revoked")


def audit_list(call: Call) -> None:
    """The audit entries, oldest first."""
    with connect(call) as controller:
        found = list(controller.audit_list())
    call.done(
        "audit/1",
        {"entries": [e.model_dump(mode="json") for e in found]},
        lambda: table(
            ("SEQ", "AT", "WHO", "WHAT", "ON", "CHANGE"),
            ([e.seq, when(e.at), e.actor, e.action, e.target, _change(e.detail)] for e in found),
        ),
    )


def _change(detail: dict[str, Any]) -> str:
    """What was changed into what; of something made or removed, how it began or ended. `--json` has it whole."""
    before, after = (side if isinstance(side := detail.get(name), dict) else {} for name in ("before", "after"))
    said = []
    for name in dict.fromkeys((*before, *after)):
        old, new = (json.dumps(side[name], ensure_ascii=False) if name in side else "" for side in (before, after))
        said.append(f"{name} {old} -> {new}" if old and new else f"{name} {old or new}")
    text = ", ".join(said)
    return text if len(text) <= _LONGEST_CHANGE else text[: _LONGEST_CHANGE - 1] + "…"


def audit_verify(call: Call) -> None:
    """Check that no audit entry was changed, taken out or cut off: by the chain, and by what connected clients keep of it."""
    with connect(call) as controller:
        verdict = controller.audit_verify()
    call.done("audit-verdict/1", verdict.model_dump(mode="json"), _verdict(verdict) if verdict.ok else "")
    if not verdict.ok:
        fault = {
            "changed": "was changed, replaced or taken out",
            "missing": "is missing or isn't the one that was there",
        }
        raise ShadowMeshError(
            "audit_broken",
            f"audit entry {verdict.broken_at} {fault[verdict.fault or 'changed']}; {_witnesses(verdict)}",
            "compare with a backup from before, and see who can write to the database",
        )


def _verdict(verdict: api.AuditVerdict) -> str:
    return f"{verdict.entries} entries, the chain holds; {_witnesses(verdict)}"


def _witnesses(verdict: api.AuditVerdict) -> str:
    if not verdict.asked:
        return "no client is connected to this controller that could be a witness of its end"
    heard = f"{verdict.witnesses} of {verdict.asked} clients answered as witnesses on this controller"
    return heard if verdict.vouched_for is None else f"{heard} and vouch for it up to entry {verdict.vouched_for}"
