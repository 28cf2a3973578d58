"""`shadowmesh controller backup|restore|migrate|upgrade`: what whoever runs a controller does with its data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowmesh.cli.base import Call, details, read_secret, verb
from shadowmesh.cli.configuring import ConfigFile
from shadowmesh.cli.managed import when
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.model.places import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from shadowmesh.controller.backup.backupfile import BackupWritten, Contents
    from shadowmesh.controller.backup.restore import RestoreReport
    from shadowmesh.controller.backup.upgrading import UpgradePlan

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="SHADOWMESH_DATA_DIR",
        help="The controller's directory; holds its secrets.",
        readable=False,
        show_envvar=False,
    ),
]
RunsIn = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SHADOWMESH_DATA_DIR",
        help=f"The controller's directory [default: {DEFAULT_DATA_DIR}].",
        readable=False,
        show_envvar=False,
    ),
]
Passphrase = Annotated[
    str | None, typer.Option("--passphrase", help="`-` (stdin) or @FILE; asked for on a terminal.", show_default=False)
]
Replace = Annotated[bool, typer.Option("--replace", help="Put it in the place of what is there.")]


def attach(group: typer.Typer) -> None:
    verb(
        group,
        "backup",
        [
            "controller backup /backup/monday --passphrase @/root/passphrase",
            "controller backup - --recipient smbr1_… > monday",
        ],
    )(backup)
    verb(group, "backup-key", "controller backup-key --out backup.identity")(backup_key)
    verb(
        group,
        "restore",
        [
            "controller restore /backup/monday --passphrase @/root/passphrase --dry-run",
            "controller restore /backup/monday --identity @backup.identity --database-url sqlite",
        ],
    )(restore)
    verb(
        group,
        "migrate",
        ["controller migrate --to @database-url", "controller migrate --to sqlite"],
    )(migrate)
    verb(group, "upgrade", ["controller upgrade --check", "controller upgrade"])(upgrade)


def backup(
    call: Call,
    file: Annotated[str, typer.Argument(help="The file to write; `-` is stdout.", metavar="FILE")],
    data_dir: RunsIn = None,
    config: ConfigFile = None,
    passphrase: Passphrase = None,
    recipient: Annotated[
        list[str] | None,
        typer.Option(
            "--recipient", help="smbr1_… or @FILE: its identity opens the backup; repeats.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Take the place of FILE, once all is written.")
    ] = False,
) -> None:
    """Back up the controller, also while it runs: database, keys and settings, encrypted, of one moment.

    The file holds all that makes this controller: whoever opens it is the controller. It needs a passphrase, or recipients
    (`controller backup-key`), so that a host that takes backups can't read them. The file of --config and a certificate of your own
    (`tls`) lie elsewhere and aren't in it.
    """
    from shadowmesh.controller.backup.sealedfile import Locks, check_passphrase, parse_recipient
    from shadowmesh.controller.backup.taking import back_up, back_up_to, open_directory

    opened = open_directory(data_dir, config)
    recipients = tuple(parse_recipient(_recipient(text)) for text in recipient or ())
    secret = None
    if passphrase is not None or not recipients:
        secret = _passphrase(passphrase, again=True)
        check_passphrase(secret)
    locks = Locks(secret, recipients)
    settings = opened.settings
    beside = [str(one) for one in (config, settings.tls_cert, settings.tls_key) if one is not None]
    if file == "-":
        if sys.stdout.isatty():
            raise ShadowMeshError(
                "stdout_is_terminal", "a backup isn't for a terminal", "give a file, or a pipe", kind=Kind.USAGE
            )
        with call.waiting("backing up …"):
            back_up(opened, sys.stdout.buffer, locks)
        _note_beside(call, beside)
        return
    path = Path(file)
    with call.waiting("backing up …"):
        written = back_up_to(opened, path, locks, overwrite=overwrite)
    size = path.stat().st_size
    document = _written(written, path, size) | {"not_in_it": beside}
    call.done("controller-backup/1", document, lambda: _written_text(written, path, size))
    _note_beside(call, beside)
    if written.chain.broken_at is not None:
        call.note(
            f"warning: the audit log isn't whole from entry {written.chain.broken_at} on; see `shadowmesh audit verify`"
        )


def _note_beside(call: Call, beside: Sequence[str]) -> None:
    if beside:
        call.note(f"not in it, as it lies elsewhere: {', '.join(beside)}; keep copies of what can't be made again")


def _written(written: BackupWritten, path: Path, size: int) -> dict[str, Any]:
    manifest = written.manifest
    return {
        "file": str(path),
        "bytes": size,
        "made_at": manifest.made_at,
        "fingerprint": manifest.fingerprint,
        "database": manifest.database,
        "database_schema": manifest.revision,
        "rows": dict(written.rows),
        "audit_entries": written.chain.entries,
        "audit_broken_at": written.chain.broken_at,
    }


def _written_text(written: BackupWritten, path: Path, size: int) -> str:
    rows = written.rows
    return (
        f"backed up to {path}: {size:,} bytes, {sum(rows.values()):,} rows"
        f" ({rows.get('networks', 0)} networks, {rows.get('clients', 0)} clients), {written.chain.entries} audit entries"
    )


def backup_key(
    call: Call,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the identity there, and print the recipient alone.")
    ] = None,
) -> None:
    """Make a key pair for backups: the recipient encrypts, the identity opens.

    Keep the identity away from the controller's host.
    """
    from shadowmesh.controller.backup.sealedfile import generate_identity
    from shadowmesh.serving.files import write_private

    recipient, identity = generate_identity()
    text = f"# recipient: {recipient}\n{identity}\n"
    if out is None:
        call.done("controller-backup-key/1", {"recipient": recipient, "identity": identity}, text[:-1], shown_once=True)
        return
    if out.exists():
        raise ShadowMeshError(
            "file_exists", f"{out} is there already; it was left as it is", "give another name", kind=Kind.CONFLICT
        )
    try:
        write_private(out, text.encode())
    except OSError as e:
        raise ShadowMeshError("cannot_write", f"{out} can't be written ({e.strerror})", "give another place") from e
    call.done("controller-backup-key/1", {"recipient": recipient, "file": str(out)}, recipient)


def restore(
    call: Call,
    file: Annotated[str, typer.Argument(help="What `controller backup` wrote; `-` is stdin.", metavar="FILE")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    passphrase: Passphrase = None,
    identity: Annotated[
        list[str] | None,
        typer.Option(
            "--identity", help="smbi1_…, `-` or @FILE, of the backup's recipient; repeats.", show_default=False
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            help="postgresql://…, `-`, @FILE, or `sqlite`: the file in the directory; default: as it was.",
            show_default=False,
        ),
    ] = None,
    replace: Replace = False,
    accept_broken_audit: Annotated[
        bool, typer.Option("--accept-broken-audit", help="Restore an audit log that was tampered with, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all of it, say what would be done, and do nothing.")
    ] = False,
) -> None:
    """Put a backup back, into a new directory or (--replace) in the place of what is there. The controller has to be stopped.

    Machines that are members in it connect again by themselves. What happened since is forgotten: who joined joins anew,
    and what was removed or revoked has to be once more. People sign in again.
    """
    from shadowmesh.controller.backup.restore import RestoreOptions
    from shadowmesh.controller.backup.restore import restore as put_back

    url = None if database_url is None else read_secret(database_url, "database URL")
    options = RestoreOptions(data_dir, url, replace, dry_run, accept_broken_audit)
    if file == "-":
        with call.waiting("restoring …"):
            report = put_back(_opened(sys.stdin.buffer, None, data_dir, passphrase, identity or ()), options)
    else:
        try:
            with Path(file).open("rb") as opened, call.waiting("restoring …"):
                report = put_back(_opened(opened, Path(file), data_dir, passphrase, identity or ()), options)
        except OSError as e:
            raise ShadowMeshError(
                "no_backup",
                f"{file} can't be read ({e.strerror})",
                "check the path",
                kind=Kind.NOT_ALLOWED if isinstance(e, PermissionError) else Kind.NOT_FOUND,
            ) from e
    call.done("controller-restore/1", report, lambda: _restored_text(report, data_dir))


def _opened(
    file: Any, path: Path | None, data_dir: Path, passphrase: str | None, identities: Sequence[str]
) -> Contents:
    from shadowmesh.controller.backup.backupfile import read_backup
    from shadowmesh.controller.backup.oldcopy import SQLITE_MAGIC, read_sqlite_copy
    from shadowmesh.controller.backup.sealedfile import Openers, asks_for, parse_identity, read_header
    from shadowmesh.controller.keyring import KeyRing

    if path is not None:
        start = file.read(len(SQLITE_MAGIC))
        if start == SQLITE_MAGIC:
            return read_sqlite_copy(path, data_dir)
        file.seek(0)
    opened = read_header(file)
    kinds = asks_for(opened[0])
    keys = tuple(parse_identity(_last_line(read_secret(text, "identity"))) for text in identities)
    vault = None
    if "vault" in kinds:
        vault = KeyRing.load(data_dir / "keys").vault
    secret = None
    if passphrase is not None or ("passphrase" in kinds and not keys and vault is None):
        secret = _passphrase(passphrase)
    return read_backup(file, Openers(secret, keys, vault), opened)


def _last_line(text: str) -> str:
    return text.splitlines()[-1].strip()


def _recipient(text: str) -> str:
    """Of smbr1_…, or a file: what `backup-key` printed, or the identity's, whose comment names its recipient."""
    if not text.startswith("@"):
        return text
    return next(
        (
            line.removeprefix("# recipient: ").strip()
            for line in read_secret(text, "recipient").splitlines()
            if "smbr1_" in line
        ),
        "",
    )


def _passphrase(argument: str | None, *, again: bool = False) -> Secret:
    if argument is not None:
        return Secret(read_secret(argument, "passphrase").encode())
    if sys.stdin is None or not sys.stdin.isatty():
        raise ShadowMeshError(
            "no_passphrase",
            "nobody is there to give a passphrase",
            "give --passphrase @FILE" + (", or --recipient" if again else ""),
            kind=Kind.USAGE,
        )
    import getpass

    given = getpass.getpass("Passphrase of the backup: ")
    if again and given != getpass.getpass("The same again: "):
        raise ShadowMeshError("not_the_same", "these two aren't the same", "nothing was written", kind=Kind.USAGE)
    return Secret(given.strip().encode())


def _restored_text(report: RestoreReport, data_dir: Path) -> str:
    rows = report.rows
    shown: dict[str, object] = {
        "controller": report.fingerprint,
        "public URLs": report.public_urls,
        "made": f"{when(report.made_at)} by shadowmesh {report.made_by} (schema {report.schema_revision})",
        "into": f"{data_dir}, database {report.database}",
        "rows": f"{sum(rows.values()):,} ({rows.get('networks', 0)} networks, {rows.get('clients', 0)} clients)",
        "audit log": f"{report.audit_entries} entries, "
        + ("whole" if report.audit_broken_at is None else f"NOT whole from entry {report.audit_broken_at} on"),
    }
    if report.kept is not None:
        shown["before"] = f"what is there {'goes' if report.dry_run else 'went'} to {report.kept}"
    lines = ["all of it is readable; nothing was changed" if report.dry_run else "restored", details(shown)]
    if report.restored is None:
        lines.append("to do it: the same without --dry-run, with the controller stopped")
        return "\n".join(lines)
    done = report.restored
    lines += [
        f"What happened since {when(report.made_at)} is forgotten. Look at what may have been used or revoked since, and is good again:"
        f" open invites ({done.open_invites}), API keys ({done.api_keys}).",
    ]
    if report.tls_cert is not None:
        lines.append(f"The certificate {report.tls_cert} isn't in the backup: put it there.")
    lines.append(f"next: shadowmesh controller run --data-dir {data_dir}")
    return "\n".join(lines)


def migrate(
    call: Call,
    to: Annotated[
        str,
        typer.Option("--to", help="postgresql://…, `-`, @FILE, or `sqlite`: the file in the directory."),
    ],
    data_dir: RunsIn = None,
    config: ConfigFile = None,
    replace: Replace = False,
) -> None:
    """Move the controller to another database, SQLite or PostgreSQL. It has to be stopped, all nodes of it.

    Everything is copied in one transaction and counted, the audit log is checked; then the controller uses the new one from
    its next start on. The old one is kept.
    """
    from shadowmesh.controller.backup.dbmove import move_database

    with call.waiting("moving the database …"):
        moved = move_database(data_dir, read_secret(to, "database URL"), replace_there=replace, config=config)
    call.done(
        "controller-migrate/1",
        moved,
        f"moved to {moved.to}: {sum(moved.rows.values()):,} rows, {moved.audit_entries} audit entries, all there\n"
        f"the old database was left: {moved.left}\n"
        + (
            "next: shadowmesh controller run"
            if config is None
            else f"next: name the new one in {config} where that names a database, and start the controller"
        ),
    )


def upgrade(
    call: Call,
    data_dir: RunsIn = None,
    config: ConfigFile = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say what it takes, also while nodes run; change nothing.")
    ] = False,
) -> None:
    """Bring the database to this version's schema, after a copy of it. `controller run` does the same when it starts."""
    from shadowmesh.controller.backup.taking import open_directory
    from shadowmesh.controller.backup.upgrading import plan_upgrade
    from shadowmesh.controller.backup.upgrading import upgrade as bring

    if not check:
        done = bring(data_dir, config)
        call.done("controller-upgrade/1", _plan(done), lambda: _done_text(done))
        return
    plan = plan_upgrade(open_directory(data_dir, config))
    if plan.refusal is not None:
        raise plan.refusal
    call.done("controller-upgrade/1", _plan(plan), lambda: _plan_text(plan))


def _plan(plan: UpgradePlan) -> dict[str, Any]:
    return {
        "version": plan.version,
        "database_schema": plan.found,
        "wanted_schema": plan.wanted,
        "steps": plan.missing,
        "nodes": plan.nodes,
        "older_nodes_go_on": plan.older_nodes_go_on,
        "copy": plan.copy,
    }


def _done_text(plan: UpgradePlan) -> str:
    if not plan.missing:
        return f"the database has schema {plan.found} already: nothing to do"
    kept = "" if plan.copy is None else f"; as it was: {plan.copy}"
    return f"upgraded from schema {plan.found} to {plan.wanted}{kept}"


def _plan_text(plan: UpgradePlan) -> str:
    nodes = [f"  {node.name}  {node.version}" for node in plan.nodes]
    beside = ["other nodes that run now:", *nodes] if nodes else []
    if not plan.missing:
        older = "" if plan.found == plan.wanted else ", which is newer and which it works with"
        return "\n".join(
            [f"shadowmesh {plan.version} needs nothing: the database has schema {plan.found}{older}", *beside]
        )
    steps = [f"  {s.revision}  {s.what}{'' if s.older_nodes_go_on else '  (all nodes need it)'}" for s in plan.missing]
    how = (
        "nodes of the version before go on beside upgraded ones: upgrade them one after the other"
        if plan.older_nodes_go_on
        else "stop all nodes, then start the upgraded ones; the mesh goes on meanwhile"
    )
    return "\n".join(
        [
            f"shadowmesh {plan.version} upgrades the database from schema {plan.found} to {plan.wanted}:",
            *steps,
            *beside,
            how,
            f"a copy of before goes to {plan.copy}",
        ]
    )
