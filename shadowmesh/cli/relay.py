"""`shadowmesh relay …`: running one, and the relays of a controller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import installing, suggest
from shadowmesh.cli.base import Call, new_app, read_secret, table, verb
from shadowmesh.cli.configuring import ConfigFile, LogLevel, Set, files_of, flags
from shadowmesh.cli.managed import by_name, connect, network_names, request, seconds, when
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.places import DEFAULT_DATA_DIR, DEFAULT_RELAY_DIR

if TYPE_CHECKING:
    from shadowmesh.config.relayconfig import RelayConfig
    from shadowmesh.config.resolving import Resolved

RelayName = Annotated[
    str, typer.Argument(help="The relay's name or id (rly_…).", metavar="RELAY", autocompletion=suggest.relay)
]
# of `relay run` and `relay install`
_PUBLIC_URL = "ws://HOST:9545 or wss://…, as clients reach it."
_LISTEN, _ANYWHERE = "ADDRESS:PORT for TCP and UDP; the next UDP port is for STUN.", "0.0.0.0:9545"
PublicURL = Annotated[str | None, typer.Option("--public-url", help=_PUBLIC_URL)]
Listen = Annotated[str | None, typer.Option("--listen", help=f"{_LISTEN} [default: {_ANYWHERE}]")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SHADOWMESH_DATA_DIR",
        help=f"Holds the relay's own key [default: {DEFAULT_RELAY_DIR}].",
        readable=False,
        show_envvar=False,
    ),
]
ControllerURL = Annotated[
    str | None, typer.Option("--controller", help="The controller's URL; without it, the one on this host.")
]
Token = Annotated[
    str | None, typer.Option("--token", help="From `relay token`; `-` (stdin) or @FILE. Needed the first time.")
]
Fingerprint = Annotated[str | None, typer.Option("--fingerprint", help="sha256:… of the controller.")]
ControllerDir = Annotated[
    Path | None,
    typer.Option(
        "--controller-dir",
        help=f"Directory of the controller on this host, which tells URL and fingerprint [default: {DEFAULT_DATA_DIR}].",
        readable=False,
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="The relay's name (default: its host name).")]
Udp = Annotated[bool, typer.Option("--udp/--no-udp", help="Serve UDP, besides WebSocket.")]
Region = Annotated[str, typer.Option("--region", help="Where it stands.")]
Capacity = Annotated[int | None, typer.Option("--capacity", min=1, help="Mbit/s that it may use.")]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="Certificate chain for wss://.")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="Its key.")]

_KEPT_AS = "registration-token"  # in the relay's directory: of no use once it has registered


def attach(app: typer.Typer) -> None:
    group = new_app("Relays: blind forwarding for pairs that can't meet, and for the first packets of all.")
    verb(
        group,
        "run",
        [
            "relay run --public-url ws://vpn.example.org:9545 --token @relay-token",
            "relay run --data-dir /srv/relay --public-url ws://vpn.example.org:9545",
            "relay run --config /etc/shadowmesh/relay-config.yaml",
        ],
    )(run)
    verb(
        group,
        "install",
        [
            "relay install --public-url ws://vpn.example.org:9545 --token @relay-token",
            "relay install --config /etc/shadowmesh/relay-config.yaml",
        ],
    )(install)
    verb(group, "token", ["relay token > relay-token", "relay token --network home > relay-token"], managed=True)(token)
    verb(group, "tokens", "relay tokens", managed=True)(tokens)
    verb(group, "revoke-token", "relay revoke-token rtk_…", managed=True)(revoke_token)
    verb(group, "list", "relay list", managed=True)(list_)
    verb(group, "drain", "relay drain relay1", managed=True)(drain)
    verb(group, "undrain", "relay undrain relay1", managed=True)(undrain)
    verb(group, "remove", "relay remove relay1", managed=True)(remove)
    app.add_typer(group, name="relay")


def run(
    call: Call,
    public_url: PublicURL = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    listen: Listen = None,
    controller: ControllerURL = None,
    token: Token = None,
    fingerprint: Fingerprint = None,
    controller_dir: ControllerDir = None,
    name: Name = None,
    udp: Annotated[
        bool | None, typer.Option("--udp/--no-udp", help="Serve UDP, besides WebSocket [default: udp].")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="Where it stands.")] = None,
    capacity: Capacity = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    log_level: LogLevel = None,
    chosen: Set = None,
) -> None:
    """Run a relay in the foreground.

    What it is told is found, the first that says it: arguments, the environment (SHADOWMESH_…), the file of --config.
    """
    from shadowmesh.cli.logs import set_up
    from shadowmesh.dataplane.blas import without_threads

    without_threads()
    from shadowmesh.config.resolving import Flag, Given
    from shadowmesh.config.roles import require_secrets, resolve_relay
    from shadowmesh.relay.app import options_of
    from shadowmesh.relay.app import run as serve
    from shadowmesh.relay.store import is_registered

    given = flags("relay", chosen, log_level)
    for path, value, option in (
        ("relay.public_url", public_url, "--public-url"),
        ("relay.data_dir", data_dir, "--data-dir"),
        ("relay.listen_address", listen, "--listen"),
        ("controller.url", controller, "--controller"),
        ("controller.token", None if token is None else read_secret(token, "relay token"), "--token"),
        ("controller.fingerprint", fingerprint, "--fingerprint"),
        ("relay.name", name, "--name"),
        ("relay.udp", udp, "--udp" if udp else "--no-udp"),
        ("relay.region", region, "--region"),
        ("relay.capacity_mbit", capacity, "--capacity"),
        ("relay.tls.cert_file", tls_cert, "--tls-cert"),
        ("relay.tls.key_file", tls_key, "--tls-key"),
    ):
        if value is not None:
            given[path] = Flag(value, option, checked=True)
    found = resolve_relay(config, Given(given))
    options = options_of(found)
    if not is_registered(options.data_dir):
        require_secrets(found)
        if options.controller is None and options.token is not None:
            where, here = _controller_here(call, controller_dir)
            options = replace(options, controller=where, fingerprint=options.fingerprint or here)
    set_up(call, found.config.logging.level)
    serve(options, tuple(map(str, found.remarks)))


def install(
    call: Call,
    public_url: PublicURL = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    listen: Listen = None,
    controller: ControllerURL = None,
    token: Token = None,
    fingerprint: Fingerprint = None,
    controller_dir: ControllerDir = None,
    name: Name = None,
    udp: Udp = True,
    region: Region = "",
    capacity: Capacity = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    user: installing.User = "shadowmesh-relay",
    show: installing.Show = False,
    unit_dir: installing.UnitDir = None,
) -> None:
    """Have systemd start a relay, now and with the machine; options are those of `relay run`.

    It runs as a user of its own, to whom its directory is given. The token is kept there until the relay has registered. A file of
    --config has to be readable to that user.
    """
    from shadowmesh.relay.store import is_registered
    from shadowmesh.serving import systemd
    from shadowmesh.serving.files import write_private

    read: list[Path] = []
    says_url = says_token = False
    if config is None:
        if public_url is None:
            raise ShadowMeshError(
                "wrong_use", "missing option '--public-url'", "see `shadowmesh relay install --help`", kind=Kind.USAGE
            )
        listen = listen or _ANYWHERE
    else:
        found = _file(config, public_url)
        data_dir, read = data_dir or found.config.relay.data_dir, files_of(found, config)
        says_url = found.config.controller.url is not None
        says_token = found.config.controller.token is not None or "controller.token" in found.absent
    data_dir = data_dir or DEFAULT_RELAY_DIR
    token_file = data_dir.absolute() / _KEPT_AS
    secret = None if token is None else read_secret(token, "relay token")
    new = not is_registered(data_dir)
    keeps_token = new and not (says_token and secret is None)
    if new and controller is None and not says_url:
        controller, here = _controller_here(call, controller_dir)
        fingerprint = fingerprint or here
    options = {
        "config": config and config.absolute(),
        "public-url": public_url, "listen": listen, "controller": controller, "fingerprint": fingerprint, "name": name,
        "token": f"@{token_file}" if keeps_token else None, "region": region, "capacity": capacity,
        "tls-cert": tls_cert and tls_cert.absolute(), "tls-key": tls_key and tls_key.absolute(),
    }  # fmt: skip
    words = [word for key, value in options.items() if value for word in (f"--{key}", str(value))]
    unit = systemd.relay_unit(installing.program(), data_dir, user, (*words, *(() if udp else ("--no-udp",))))
    if not show and unit_dir is None:
        if keeps_token and secret is None:
            raise ShadowMeshError(
                "no_token", "a relay registers with a token the first time",
                "give --token @FILE, which `shadowmesh relay token > FILE` made", kind=Kind.USAGE,
            )  # fmt: skip
        installing.check_not_running("relay", data_dir / "lock")
        systemd.make_user(user, unit.command)
        systemd.check_readable(user, read)
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if keeps_token:
            write_private(token_file, f"{secret}\n".encode())
        systemd.give(data_dir, user)
    installing.install(call, "relay", unit, show=show, unit_dir=unit_dir)


def _file(config: Path, public_url: str | None) -> Resolved[RelayConfig]:
    from shadowmesh.config.resolving import Flag, Given
    from shadowmesh.config.roles import resolve_relay

    said = {} if public_url is None else {"relay.public_url": Flag(public_url, "--public-url", checked=True)}
    return resolve_relay(config, Given(said))


def _controller_here(call: Call, directory: Path | None) -> tuple[str, str]:
    """URL and fingerprint of the controller that runs on this host."""
    if directory is None and not DEFAULT_DATA_DIR.is_dir():
        raise ShadowMeshError(
            "no_controller",
            "no controller is on this host",
            "give --controller URL and --fingerprint, or --controller-dir",
            kind=Kind.USAGE,
        )
    with connect(replace(call, data_dir=directory or DEFAULT_DATA_DIR)) as here:
        identity = here.identity()
    return identity.urls[0], identity.identity.fingerprint


def token(
    call: Call,
    expires: Annotated[str, typer.Option("--expires", help="For how long it is good: 30m, 24h, 7d.")] = "24h",
    uses: Annotated[int, typer.Option("--uses", min=1, help="How many relays may register with it.")] = 1,
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network", help="The relays are for this network alone; repeats.", autocompletion=suggest.managed_network
        ),
    ] = None,
) -> None:
    """Make a token with which a relay registers."""
    from shadowmesh.model import api

    wish = request(api.RelayTokenCreate, expires_in=seconds(expires), uses=uses, networks=network or None)
    with connect(call) as controller:
        made = controller.relay_token(wish)
    call.done("relay-token/1", made.model_dump(mode="json"), made.token, shown_once=True)
    relays = "one relay registers" if uses == 1 else f"{uses} relays register"
    call.note(f"{relays} with it, until {when(made.expires_at)}: `shadowmesh relay run --token @FILE …`")


def tokens(call: Call) -> None:
    """The tokens with which relays may register still."""
    with connect(call) as controller:
        found = controller.relay_tokens()
        names = network_names(controller, (ref for token in found for ref in token.networks or ()))
    call.done(
        "relay-tokens/1",
        {"tokens": [t.model_dump(mode="json") for t in found]},
        lambda: table(
            ("ID", "USES LEFT", "EXPIRES", "FOR", "BY"),
            (
                [t.id, t.uses_left, when(t.expires_at), [names.get(ref, ref) for ref in t.networks or ()], t.created_by]
                for t in found
            ),
        ),
    )


def revoke_token(
    call: Call, token: Annotated[str, typer.Argument(help="rtk_…, as `relay tokens` has it.", metavar="ID")]
) -> None:
    """Let no relay register with a token any more; those that did stay."""
    with connect(call) as controller:
        controller.relay_token_revoke(token)
    call.done("relay-token-revoked/1", {"id": token}, f"{token}: revoked")


def list_(call: Call) -> None:
    """The relays of the controller."""
    with connect(call) as controller:
        found = by_name(controller.relay_list())
    call.done(
        "relays/1",
        {"relays": [r.model_dump(mode="json") for r in found]},
        lambda: table(
            ("NAME", "URL", "UDP", "REGION", "ONLINE", "SESSIONS", "LAST SEEN", "ID"),
            (
                [
                    r.name,
                    r.url,
                    r.udp,
                    r.region or None,
                    ("draining" if r.draining else "yes") if r.online else "no",
                    r.load.sessions if r.load else None,
                    when(r.last_seen),
                    r.id,
                ]
                for r in found
            ),
        ),
    )


def drain(call: Call, relay: RelayName) -> None:
    """Move a relay's clients to others."""
    with connect(call) as controller:
        drained = controller.relay_drain(relay)
    call.done("relay-draining/1", {"relay": relay, "warnings": drained.warnings}, f"{relay}: draining")
    for warning in drained.warnings:
        call.note(f"warning: {warning}; `shadowmesh relay undrain {relay}` takes it back")


def undrain(call: Call, relay: RelayName) -> None:
    """Put a relay that was drained back into use."""
    with connect(call) as controller:
        controller.relay_drain(relay, draining=False)
    call.done("relay-undrained/1", {"relay": relay}, f"{relay}: in use again")


def remove(call: Call, relay: RelayName) -> None:
    """Take a relay out: clients no longer use it."""
    with connect(call) as controller:
        found = next((r for r in controller.relay_list() if relay in (r.name, r.id)), None)
        if found is None:
            raise ShadowMeshError(
                "relay_unknown",
                f"there is no relay {relay!r}",
                "`shadowmesh relay list` names them",
                kind=Kind.NOT_FOUND,
            )
        call.confirm(f"remove the relay {found.name}?")
        controller.relay_remove(found.id)
    call.done("relay-removed/1", {"relay": relay}, f"{relay}: removed")
