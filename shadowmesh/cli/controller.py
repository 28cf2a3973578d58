"""`shadowmesh controller …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import backup, controllersettings, installing
from shadowmesh.cli.base import Call, new_app, read_secret, table, verb, warn_of_readers
from shadowmesh.cli.configuring import ConfigFile, LogLevel, Set, files_of, flags
from shadowmesh.cli.managed import connect, when
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.places import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from shadowmesh.client_api.rest import ControllerClient

InitDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SHADOWMESH_DATA_DIR",
        help="The controller's directory; holds its secrets.",
        readable=False,
        show_envvar=False,
    ),
]
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
        [
            "controller init --data-dir /var/lib/shadowmesh-controller \\\n    --public-url https://vpn.example.org:8443",
            "controller init --config /etc/shadowmesh/controller-config.yaml",
        ],
    )(init)
    verb(
        group,
        "run",
        [
            "controller run",
            "controller run --data-dir /srv/controller",
            "controller run --config /etc/shadowmesh/controller-config.yaml",
        ],
    )(run)
    verb(
        group, "install", ["controller install", "controller install --config /etc/shadowmesh/controller-config.yaml"]
    )(install)
    verb(group, "fingerprint", "controller fingerprint")(fingerprint)
    verb(
        group,
        "set-urls",
        "controller set-urls https://vpn.example.net:8443",
    )(set_urls)
    verb(group, "nodes", "controller nodes", managed=True)(nodes)
    verb(group, "drain", "controller drain vpn2", managed=True)(drain)
    verb(group, "undrain", "controller undrain vpn2", managed=True)(undrain)
    controllersettings.attach(group)
    secrets = new_app("The controller's secrets.")
    verb(secrets, "export", "controller secrets export > secrets")(secrets_export)
    group.add_typer(secrets, name="secrets")
    backup.attach(group)
    app.add_typer(group, name="controller")


def init(
    call: Call,
    data_dir: InitDir = None,
    public_url: Annotated[
        list[str] | None, typer.Option("--public-url", help="https://HOST:8443, as clients reach it; repeats.")
    ] = None,
    config: ConfigFile = None,
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
    """Make a controller: database, certificate authority, keys, first administrator.

    --data-dir and --public-url are required, unless a file of --config says them. Arguments stand over the file, which `controller
    run --config` reads again at each start: of what it says the directory keeps addresses, database and certificate.
    """
    from shadowmesh.controller.initialise import InitOptions, options_configured
    from shadowmesh.controller.initialise import init as make

    if config is None:
        for option, given in (("--data-dir", data_dir), ("--public-url", public_url)):
            if not given:
                raise ShadowMeshError(
                    "wrong_use",
                    f"missing option '{option}'",
                    "see `shadowmesh controller init --help`",
                    kind=Kind.USAGE,
                )
    options = InitOptions(
        data_dir=data_dir or DEFAULT_DATA_DIR,
        public_urls=tuple(public_url or ()),
        listen=listen,
        database_url=None if database_url is None else read_secret(database_url, "database URL"),
        admin_email=admin_email,
        tls_cert=tls_cert,
        tls_key=tls_key,
        join_secrets=join_secrets,
    )
    if config is not None:
        options = options_configured(config, options, data_dir)
    result, data_dir, started = make(options), options.data_dir, ["--data-dir", str(options.data_dir)]
    if config is not None:
        started += ["--config", str(config)]
    shown = f"{result.admin_password}   (once; shown only now)"
    if options.admin_password is not None:
        shown = "as given, until the first sign-in"
    first = [
        f"  administrator  {result.admin_email}",
        f"  password       {shown}",
        f"  API key        {result.api_key}   (the administrator's, for `login --token` and scripts; shown only now)",
    ]
    if not result.admin_password:  # a further node: its controller has its administrators
        first = ["  a further node of a controller that has its administrators"]
    elif join_secrets is not None:
        call.note("warning: this database was empty: here begins a controller anew, with the keys of those secrets")
    call.done(
        "controller-init/1",
        result,
        lambda: "\n".join(
            [
                f"controller made in {data_dir}",
                *first,
                f"  fingerprint    {result.fingerprint}",
                f"next: shadowmesh controller run {' '.join(started)}",
            ]
        ),
        shown_once=bool(result.admin_password),
    )


def run(
    call: Call,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            envvar="SHADOWMESH_DATA_DIR",
            help=f"The controller's directory; holds its secrets [default: {DEFAULT_DATA_DIR}].",
            readable=False,
            show_envvar=False,
        ),
    ] = None,
    config: ConfigFile = None,
    listen: Annotated[str | None, typer.Option("--listen", help="ADDRESS:PORT, instead of what init wrote.")] = None,
    public_url: Annotated[
        list[str] | None, typer.Option("--public-url", help="https://HOST:8443, as clients reach it; repeats.")
    ] = None,
    web: Annotated[
        bool | None, typer.Option("--web/--no-web", help="The web dashboard, at the public URLs [default: off].")
    ] = None,
    log_level: LogLevel = None,
    chosen: Set = None,
) -> None:
    """Run the controller in the foreground.

    What it is told is found, the first that says it: arguments, the environment (SHADOWMESH_…), the file of --config, what `init`
    wrote. With --config a directory that has no controller gets one; `shadowmesh config show controller` says what is in force.

    `controller backup` backs it up while it runs; take backups regularly.
    """
    from shadowmesh.controller.run import RunOptions
    from shadowmesh.controller.run import run as serve

    def set_up_log(level: str) -> None:
        from shadowmesh.cli.logs import set_up

        set_up(call, level)

    options = RunOptions(
        data_dir=data_dir,
        listen=listen,
        public_urls=tuple(public_url or ()),
        config=config,
        web=web,
        flags=flags("controller", chosen, log_level) if chosen or log_level else {},
    )
    serve(options, set_up_log)


def install(
    call: Call,
    data_dir: InitDir = None,
    config: ConfigFile = None,
    user: installing.User = "shadowmesh-controller",
    show: installing.Show = False,
    unit_dir: installing.UnitDir = None,
) -> None:
    """Have systemd start the controller that `controller init` made, now and with the machine.

    It runs as a user of its own, to whom its directory is given; root manages it as before. With --config it makes a controller at
    its first start where there is none; that user has to be able to read the file, and those that it names.
    """
    from shadowmesh.controller.settings import DataDir as Files
    from shadowmesh.serving import systemd

    read: list[Path] = []
    if config is not None:
        from shadowmesh.config.roles import resolve_controller

        found = resolve_controller(config)
        data_dir, read = data_dir or found.config.controller.data_dir, files_of(found, config)
    data_dir = data_dir or DEFAULT_DATA_DIR
    unit = systemd.controller_unit(installing.program(), data_dir, user, config)
    if not show and unit_dir is None:
        files = Files(data_dir)
        if config is None:
            files.read()  # there is one
        installing.check_not_running("controller", files.lock)
        systemd.make_user(user, unit.command)
        systemd.check_readable(user, read)
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        systemd.give(data_dir, user)
    installing.install(call, "controller", unit, show=show, unit_dir=unit_dir)


def fingerprint(call: Call, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Print what this controller is known by: `--fingerprint` of `login`, `join` and `relay run` elsewhere."""
    from shadowmesh.controller.initialise import identity

    known_by, settings = identity(data_dir)
    call.done(
        "controller-fingerprint/1", {"fingerprint": known_by, "public_urls": settings.public_urls}, known_by,
    )  # fmt: skip


def set_urls(
    call: Call,
    urls: Annotated[list[str], typer.Argument(help="https://HOST:8443, all of them, best first.", metavar="URL…")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
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


NodeName = Annotated[str, typer.Argument(help="Its host's name, its URL, or its id.", metavar="NODE")]


def nodes(call: Call) -> None:
    """The controllers that serve together on one database."""
    with connect(call) as controller:
        found = controller.node_list()
    call.done(
        "controller-nodes/1",
        {"nodes": [n.model_dump(mode="json") for n in found]},
        lambda: table(
            ("NAME", "URL", "VERSION", "SINCE", "LINKS", "RELAYS", "STATE", "ID"),
            (
                [
                    n.name + (" (this one)" if n.here else ""),
                    ", ".join(n.urls),
                    n.version,
                    when(n.started_at),
                    n.links,
                    n.relays,
                    "draining" if n.draining else "in use",
                    n.node_id,
                ]
                for n in found
            ),
        ),
    )


def _node_id(controller: ControllerClient, node: str) -> str:
    """Of a URL the id of the node that is reached by it; else what was given."""
    if "://" not in node:
        return node
    known = {url: found.node_id for found in controller.node_list() for url in found.urls}
    if node.rstrip("/") not in known:
        raise ShadowMeshError(
            "node_unknown",
            f"no node has the URL {node}",
            "`shadowmesh controller nodes` names them",
            kind=Kind.NOT_FOUND,
        )
    return known[node.rstrip("/")]


def drain(call: Call, node: NodeName) -> None:
    """Move a node's links to the other nodes, before it is stopped or upgraded.

    It takes no new ones until it is started again, or `controller undrain`.
    """
    with connect(call) as controller:
        found = controller.node_drain(_node_id(controller, node))
    call.done(
        "controller-node/1", found.model_dump(mode="json"), f"{found.name}: draining, {found.links} links to move"
    )


def undrain(call: Call, node: NodeName) -> None:
    """Let a node that was drained take links again."""
    with connect(call) as controller:
        found = controller.node_drain(_node_id(controller, node), draining=False)
    call.done("controller-node/1", found.model_dump(mode="json"), f"{found.name}: in use again")


def secrets_export(call: Call, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Print the controller's secrets for a further node; keep them as you keep a root password."""
    from shadowmesh.controller.initialise import export_secrets

    exported = export_secrets(data_dir).decode()
    warn_of_readers()
    sys.stdout.write(exported)
