"""`shadowmesh access …`: what somebody may do in a network and why, and the policy document that says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, new_app, table, verb
from shadowmesh.cli.managed import connect
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import json_text

if TYPE_CHECKING:
    from shadowmesh.model import accounts

User = Annotated[
    str, typer.Argument(help="The user's e-mail address or id (usr_…).", metavar="USER", autocompletion=suggest.user)
]
_MOST = 256 * 1024  # bytes of a request


def attach(app: typer.Typer) -> None:
    rights = new_app("What somebody may do in a network, and why.")
    verb(
        rights,
        "explain",
        ["access explain anna@example.org home", "access explain anna@example.org home --key key_…"],
        managed=True,
    )(access_explain)
    verb(rights, "policy", "access policy anna@example.org", managed=True)(access_policy)
    verb(
        rights,
        "set-policy",
        ["access set-policy anna@example.org anna.json", "access set-policy anna@example.org -"],
        managed=True,
    )(access_set_policy)
    app.add_typer(rights, name="access")


def access_explain(
    call: Call,
    user: User,
    network: Annotated[
        str,
        typer.Argument(
            help="The network's name or id (net_…).", metavar="NETWORK", autocompletion=suggest.managed_network
        ),
    ],
    key: Annotated[
        str | None, typer.Option("--key", help="By this API key of theirs (key_…).", autocompletion=suggest.api_key)
    ] = None,
) -> None:
    """Which role, group, list of permissions or API key gives or takes what."""
    with connect(call) as controller:
        found = controller.access_explain(network, user, key)
    call.done("access/1", found.model_dump(mode="json"), lambda: _explained(found))


def _explained(found: accounts.AccessExplained) -> str:
    who = "an administrator" if found.admin else (found.role or "nobody there")
    groups = f", in {', '.join(found.groups)}" if found.groups else ""
    by_key = f", by the API key {found.api_key}" if found.api_key is not None else ""
    head = f"{found.user} in {found.network_name}: {who}{', by a list of permissions' if found.listed else ''}{groups}{by_key}"
    rows = table(
        ("PERMISSION", "MAY", "WHY"),
        ([p.permission, "yes" if p.allowed else "no", p.why] for p in found.permissions),
    )
    return f"{head}\n{rows}"


def access_policy(call: Call, user: User) -> None:
    """A user's policy document: their own role in each network, and the list of permissions where one is the last word.

    It is what `access set-policy` takes.
    """
    with connect(call) as controller:
        found = controller.policy_document(user)
    call.done(
        "policy-document/1",
        found.model_dump(mode="json"),
        lambda: json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False),
    )


def access_set_policy(
    call: Call,
    user: User,
    file: Annotated[str, typer.Argument(help="A policy document in JSON; - for stdin.", metavar="FILE")],
) -> None:
    """Set a user's policy document: all of it or nothing.

    {"user_id": …, "networks": {NAME: {"role": "member", "permissions": ["network.view", "client.register"]}}}. Without
    permissions (or with null) the role decides, and what groups give adds to it; with them nothing else counts. In a
    network that it doesn't name they have no role of their own any more.
    """
    wish = _document(file)
    with connect(call) as controller:
        before = controller.policy_document(user)
        gone = sorted(before.networks.keys() - wish.networks.keys())
        if gone:
            call.confirm(f"take {user}'s role in {', '.join(gone)} away?", reversible=True)
        found = controller.policy_document_set(user, wish)
    roles = ", ".join(f"{role.role} of {name}" for name, role in found.networks.items()) or "no role of their own"
    call.done("policy-document/1", found.model_dump(mode="json"), f"{user}: {roles}")


def _document(file: str) -> accounts.PolicyDocumentPut:
    from pydantic import ValidationError

    from shadowmesh.model import accounts

    try:
        raw = sys.stdin.read(_MOST + 1) if file == "-" else Path(file).read_bytes()
    except OSError as e:
        raise ShadowMeshError(
            "bad_file", f"{file} can't be read: {(e.strerror or str(e)).lower()}", "name a JSON file", kind=Kind.USAGE
        ) from e
    if len(raw) > _MOST:
        raise ShadowMeshError(
            "bad_file", f"{file} is over {_MOST // 1024} KiB", "name a policy document", kind=Kind.USAGE
        )
    try:
        found: Any = json.loads(raw)
    except ValueError as e:
        raise ShadowMeshError(
            "bad_file",
            f"{'the input' if file == '-' else file} is no JSON: {e}",
            "`shadowmesh access policy USER` prints one",
            kind=Kind.USAGE,
        ) from e
    if isinstance(found, dict):
        found.pop("schema", None)  # as `access policy --json` prints it
    try:
        return accounts.PolicyDocumentPut.model_validate(found)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "the document"
        raise ShadowMeshError(
            "bad_file",
            f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}, not {json_text(_short(first['input']))}",
            "roles are owner, member and guest; `shadowmesh access policy USER` prints a document",
            kind=Kind.USAGE,
        ) from e


def _short(value: Any) -> Any:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
