"""`shadowmesh api-key …`, `audit …`."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, new_app, table, verb
from shadowmesh.cli.managed import connect, network_names, request, seconds, when
from shadowmesh.client_api.exports import FORMATS, export
from shadowmesh.client_api.logwording import audited_about, audited_change, verdict_words
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.client_api.rest import ControllerClient
    from shadowmesh.model import accounts, api

_LONGEST_CHANGE = 100  # characters, for a terminal; a pipe, and `--json`, gets all


def attach(app: typer.Typer) -> None:
    keys = new_app("API keys.")
    verb(
        keys,
        "create",
        [
            "api-key create --name backup --expires 90d",
            "api-key create --name dashboard --read-only --network home",
            "api-key create --name joiner --scope client.register --network home",
        ],
        managed=True,
    )(key_create)
    verb(keys, "list", "api-key list", managed=True)(key_list)
    verb(keys, "revoke", "api-key revoke key_…", managed=True)(key_revoke)
    verb(
        keys,
        "certificate",
        ["api-key certificate key_… --out /etc/shadowmesh", "api-key certificate key_… --csr request.pem --out ."],
        managed=True,
    )(key_certificate)
    app.add_typer(keys, name="api-key")
    audit = new_app("Who changed what: a chain of hashes.")
    verb(
        audit, "list", ["audit list --limit 20", "audit list --since 7d --what client.remove --on home"], managed=True
    )(audit_list)
    verb(audit, "verify", "audit verify", managed=True)(audit_verify)
    verb(audit, "export", ["audit export audit.jsonl", "audit export audit.db --since 30d"], managed=True)(audit_export)
    app.add_typer(audit, name="audit")


def key_create(
    call: Call,
    name: Annotated[str | None, typer.Option("--name", help="What it is for.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="90d; without it, it stays good.")] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", help="A service account, for which it is made.", autocompletion=suggest.user),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="What it is for, as network.view; repeats.", autocompletion=suggest.permission),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option("--network", help="In which network; repeats.", autocompletion=suggest.managed_network),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="It changes nothing.")] = False,
) -> None:
    """Make an API key; it is shown once."""
    from shadowmesh.model import accounts

    lasts = None if expires is None else seconds(expires)
    wish = request(
        accounts.ApiKeyCreate,
        name=name,
        expires_in=lasts,
        user=user,
        scopes=scope or None,
        networks=network or None,
        read_only=read_only,
    )
    with connect(call) as controller:
        made = controller.api_key_create(wish)
        idle = [lack for name in network or () if (lack := _lacks(controller, made, name))]
    call.done("api-key/1", made.model_dump(mode="json"), made.key, shown_once=True)
    for warning in idle:
        call.note(f"warning: {warning}")


def _lacks(controller: ControllerClient, key: accounts.ApiKeyCreated, network: str) -> str | None:
    """What a key is for in a network and its owner may not do there: nothing comes of it until they may."""
    try:
        found = controller.access_explain(network, key.user, key.id)
    except ShadowMeshError:
        return None  # who makes it may not look at that
    may = {p.permission for p in found.permissions if p.allowed}
    lacking = [scope for scope in key.scopes or () if scope not in may]
    if may and not lacking:
        return None
    what = " and ".join(lacking) or "anything"
    return (
        f"{key.user} may not do {what} in {found.network_name}, and neither may the key, until they do: "
        f"`shadowmesh member add {found.network_name} {key.user}`"
    )


def _key_id(controller: ControllerClient, name: str) -> str:
    """Of an id, or of the name that one key has. Raises ShadowMeshError(key_ambiguous)."""
    if name.startswith("key_"):
        return name
    found = [key.id for key in controller.api_key_list() if key.name.casefold() == name.casefold()]
    if len(found) > 1:
        raise ShadowMeshError(
            "key_ambiguous",
            f"{len(found)} API keys are called {name}: {', '.join(found)}",
            "use an id",
            kind=Kind.USAGE,
        )
    return found[0] if found else name


def key_certificate(
    call: Call,
    key_id: Annotated[str, typer.Argument(help="key_…, or its name.", metavar="KEY", autocompletion=suggest.api_key)],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="The directory for client.crt, and client.key unless --csr is given; made if it isn't there."
        ),
    ],
    csr: Annotated[
        Path | None, typer.Option("--csr", help="A signing request (PEM) of a key that is elsewhere.")
    ] = None,
) -> None:
    """Make a certificate that signs in as the API key does, by TLS; it ends with the key, and in 90 days.

    A daemon with `authentication.method: mtls` renews it by itself.
    """
    from shadowmesh.client_api.clientcertificate import new_key, signing_request
    from shadowmesh.serving.files import write_private

    key = new_key() if csr is None else None
    try:
        asked = None if csr is None else csr.read_text()
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(20, "not a directory")
        kept = [path for path in (out / "client.crt", out / "client.key") if path.exists()]
        if kept:
            call.confirm(f"replace {' and '.join(map(str, kept))}?")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "not text"
        raise ShadowMeshError(
            "bad_path", f"{csr if csr and asked is None else out}: {why}", "check the path", kind=Kind.USAGE
        ) from e
    with connect(call) as controller:
        key_id = _key_id(controller, key_id)
        made = controller.api_key_certificate(key_id, signing_request(key) if key is not None else asked or "")
    files = {"certificate": str(out / "client.crt")}
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    if key is not None:
        write_private(out / "client.key", key.reveal())
        files["key"] = str(out / "client.key")
    write_private(out / "client.crt", made.certificate.encode())
    call.done(
        "api-key-certificate/1",
        {"id": key_id, "expires_at": made.expires_at.isoformat(), **files},
        f"{' and '.join(files.values())}: good until {when(made.expires_at)}",
    )


def key_list(call: Call) -> None:
    """The API keys."""
    with connect(call) as controller:
        found = sorted(controller.api_key_list(), key=lambda k: (k.name.casefold(), k.id))
        names = network_names(controller, (ref for key in found for ref in key.networks or ()))
    call.done(
        "api-keys/1",
        {"api_keys": [k.model_dump(mode="json") for k in found]},
        lambda: table(
            ("ID", "NAME", "USER", "EXPIRES", "LAST USED", "FOR"),
            ([k.id, k.name, k.user, when(k.expires_at), when(k.last_used), _limits(k, names)] for k in found),
        ),
    )


def _limits(key: accounts.ApiKey, names: Mapping[str, str]) -> str:
    """What it is for, of all that its owner may do."""
    said = [", ".join(key.scopes)] if key.scopes is not None else []
    said += [f"in {', '.join(names.get(ref, ref) for ref in key.networks)}"] if key.networks is not None else []
    return " ".join([*said, "only to read"] if key.read_only else said)


def key_revoke(
    call: Call,
    key_id: Annotated[str, typer.Argument(help="key_…, or its name.", metavar="KEY", autocompletion=suggest.api_key)],
) -> None:
    """Make an API key useless."""
    with connect(call) as controller:
        key_id = _key_id(controller, key_id)
        controller.api_key_revoke(key_id)
    call.done("api-key-revoked/1", {"id": key_id}, f"{key_id}: revoked")


def audit_list(
    call: Call,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The newest of them alone.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="From so long ago on: 30m, 24h, 7d.")] = None,
    who: Annotated[str | None, typer.Option("--who", help="Only by whom this is a part of: anna@.")] = None,
    what: Annotated[str | None, typer.Option("--what", help="Only what begins so: network, client.remove.")] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="Only on what, or in which network: a part of its name.")
    ] = None,
) -> None:
    """The audit entries, oldest first."""
    from datetime import UTC, datetime, timedelta

    begin = None if since is None else datetime.now(UTC) - timedelta(seconds=seconds(since))
    with connect(call) as controller:
        found = deque((e for e in controller.audit_list(since=begin) if _is_asked_for(e, who, what, on)), limit)
    longest = _LONGEST_CHANGE if sys.stdout.isatty() else None
    call.done(
        "audit/1",
        {"entries": [e.model_dump(mode="json") for e in found]},
        lambda: table(
            ("SEQ", "AT", "WHO", "WHAT", "ON", "CHANGE"),
            ([e.seq, when(e.at), e.actor, e.action, e.target, audited_change(e.detail, longest)] for e in found),
        ),
    )


def _is_asked_for(entry: api.AuditEntry, who: str | None, what: str | None, on: str | None) -> bool:
    return (
        (who is None or who.lower() in entry.actor.lower())
        and (what is None or entry.action.lower().startswith(what.lower()))
        and (on is None or on.lower() in audited_about(entry))
    )


def audit_export(
    call: Call,
    file: Annotated[Path, typer.Argument(help="A new file: F.jsonl, F.csv or F.db (SQLite).", metavar="F")],
    since: Annotated[str | None, typer.Option("--since", help="From so long ago on: 30m, 24h, 7d.")] = None,
    output: Annotated[
        str | None,
        typer.Option("--format", help="lines (JSON), csv or sqlite.", autocompletion=suggest.words(*FORMATS)),
    ] = None,
) -> None:
    """Write the audit entries to a file, each with its hash."""
    from datetime import UTC, datetime, timedelta

    from shadowmesh.model import api

    if output is not None and output not in FORMATS:
        raise ShadowMeshError(
            "bad_option", f"--format {output!r} isn't usable", f"say {' or '.join(FORMATS)}", kind=Kind.USAGE
        )
    begin = None if since is None else datetime.now(UTC) - timedelta(seconds=seconds(since))
    with connect(call) as controller, call.waiting("reading the audit log …"):
        count = export(file, output, "audit", api.AuditEntry, controller.audit_list(since=begin))
    call.done("export/1", {"file": str(file), "lines": count}, f"{file}: {count} entries")


def audit_verify(call: Call) -> None:
    """Check that no audit entry was changed, taken out or cut off: by the chain, and by what connected clients keep of it."""
    with connect(call) as controller:
        verdict = controller.audit_verify()
    call.done("audit-verdict/1", verdict.model_dump(mode="json"), verdict_words(verdict) if verdict.ok else "")
    if not verdict.ok:
        remedy = "compare with a backup from before, and see who can write to the database"
        raise ShadowMeshError("audit_broken", verdict_words(verdict), remedy)
