"""`shadowmesh controller …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shadowmesh.cli.base import Call, new_app, read_secret, verb

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


def attach(app: typer.Typer) -> None:
    group = new_app("The controller: networks, clients, invites, approval, audit.")
    verb(
        group,
        "init",
        "controller init --data-dir /var/lib/shadowmesh-controller \\\n    --public-url https://vpn.example.org:8443",
    )(init)
    verb(group, "run", "controller run --data-dir /var/lib/shadowmesh-controller")(run)
    verb(
        group,
        "set-urls",
        "controller set-urls --data-dir /var/lib/shadowmesh-controller \\\n    https://vpn.example.net:8443",
    )(set_urls)
    secrets = new_app("The controller's secrets.")
    verb(secrets, "export", "controller secrets export --data-dir /var/lib/shadowmesh-controller > secrets")(
        secrets_export
    )
    group.add_typer(secrets, name="secrets")
    app.add_typer(group, name="controller")


def init(
    call: Call,
    data_dir: DataDir,
    public_url: Annotated[
        list[str], typer.Option("--public-url", help="https://HOST:8443, as clients reach it; repeats.")
    ],
    listen: Annotated[
        str | None, typer.Option("--listen", help="ADDRESS:PORT; default: all addresses, the URL's port.")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url", help="postgresql://…, `-` (stdin) or @FILE; default: SQLite in the data directory."
        ),
    ] = None,
    admin_email: Annotated[str | None, typer.Option("--admin-email", help="The first administrator.")] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="An own certificate chain instead of a made one.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key.")] = None,
    join_secrets: Annotated[
        Path | None,
        typer.Option("--join-secrets", help="From `controller secrets`: a further node of the same controller."),
    ] = None,
) -> None:
    """Make a controller: database, certificate authority, keys, first administrator."""
    from shadowmesh.controller.initialise import InitOptions
    from shadowmesh.controller.initialise import init as make

    result = make(
        InitOptions(
            data_dir=data_dir,
            public_urls=tuple(public_url),
            listen=listen,
            database_url=None if database_url is None else read_secret(database_url, "database URL"),
            admin_email=admin_email,
            tls_cert=tls_cert,
            tls_key=tls_key,
            join_secrets=join_secrets,
        )
    )
    first = [
        f"  administrator  {result.admin_email}",
        f"  password       {result.admin_password}   (once; shown only now)",
        f"  API key        {result.api_key}",
    ]
    if not result.admin_password:  # a further node: its controller has its administrators
        first = ["  a further node of a controller that has its administrators"]
    call.done(
        "controller-init/1",
        result,
        lambda: "\n".join(
            [
                f"controller made in {data_dir}",
                *first,
                f"  fingerprint    {result.fingerprint}",
                f"next: shadowmesh controller run --data-dir {data_dir}",
            ]
        ),
        shown_once=True,
    )


def run(
    call: Call,
    data_dir: DataDir,
    listen: Annotated[str | None, typer.Option("--listen", help="ADDRESS:PORT, instead of what init wrote.")] = None,
) -> None:
    """Run the controller in the foreground.

    Back up `keys/` once, apart from the rest, and the database regularly, while it runs: `sqlite3 DIR/controller.db
    ".backup FILE"`, or pg_dump. docs/controller.md says how it is put back.
    """
    from shadowmesh.controller.run import RunOptions
    from shadowmesh.controller.run import run as serve

    def set_up_log() -> None:
        from shadowmesh.cli.logs import set_up

        set_up(call)

    serve(RunOptions(data_dir=data_dir, listen=listen), set_up_log)


def set_urls(
    call: Call,
    data_dir: DataDir,
    urls: Annotated[list[str], typer.Argument(help="https://HOST:8443, all of them, best first.", metavar="URL…")],
) -> None:
    """Give the controller other public URLs; clients and relays follow.

    First set the new ones, so that all hear of them while the old ones work; those stay announced for 30 days. Takes
    effect when the controller is started again.
    """
    from shadowmesh.controller.initialise import set_urls as change

    settings = change(data_dir, tuple(urls))
    former = [former.url for former in settings.former_urls]
    lines = [f"public URLs: {', '.join(settings.public_urls)}"]
    if former:
        lines.append(f"announced for up to 30 days more: {', '.join(former)}")
    lines.append("restart the controller: `systemctl restart` it, or `shadowmesh controller run`")
    call.done("controller-set-urls/1", {"public_urls": settings.public_urls, "former_urls": former}, "\n".join(lines))


def secrets_export(call: Call, data_dir: DataDir) -> None:
    """Print the controller's secrets for a further node; keep them as you keep a root password."""
    from shadowmesh.controller.initialise import export_secrets

    sys.stdout.write(export_secrets(data_dir).decode())
