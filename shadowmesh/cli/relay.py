"""`shadowmesh relay …`: running one, and the relays of a controller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, new_app, read_secret, table, verb
from shadowmesh.cli.managed import by_name, connect, request, seconds, when
from shadowmesh.model.errors import Kind, ShadowMeshError

RelayName = Annotated[
    str, typer.Argument(help="The relay's name or id (rly_…).", metavar="RELAY", autocompletion=suggest.relay)
]


def attach(app: typer.Typer) -> None:
    group = new_app("Relays: blind forwarding for pairs that can't meet, and for the first packets of all.")
    verb(
        group,
        "run",
        [
            "relay run --data-dir /var/lib/shadowmesh-relay --public-url ws://vpn.example.org:9545 \\\n    --token @relay-token"
        ],
    )(run)
    verb(group, "token", "relay token > relay-token", managed=True)(token)
    verb(group, "list", "relay list", managed=True)(list_)
    verb(group, "drain", "relay drain relay1", managed=True)(drain)
    verb(group, "undrain", "relay undrain relay1", managed=True)(undrain)
    verb(group, "remove", "relay remove relay1", managed=True)(remove)
    app.add_typer(group, name="relay")


def run(
    call: Call,
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir",
            envvar="SHADOWMESH_DATA_DIR",
            help="Holds the relay's own key.",
            readable=False,
            show_envvar=False,
        ),
    ],
    public_url: Annotated[str, typer.Option("--public-url", help="ws://HOST:9545 or wss://…, as clients reach it.")],
    listen: Annotated[str, typer.Option("--listen", help="ADDRESS:PORT for TCP and UDP.")] = "0.0.0.0:9545",
    controller: Annotated[
        str | None, typer.Option("--controller", help="The controller's URL; without it, the one on this host.")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="From `relay token`; `-` (stdin) or @FILE. Needed the first time.")
    ] = None,
    fingerprint: Annotated[str | None, typer.Option("--fingerprint", help="sha256:… of the controller.")] = None,
    controller_dir: Annotated[
        Path | None,
        typer.Option(
            "--controller-dir",
            help="Directory of the controller on this host, which tells URL and fingerprint "
            "[default: /var/lib/shadowmesh-controller].",
            readable=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The relay's name (default: its host name).")] = None,
    udp: Annotated[bool, typer.Option("--udp/--no-udp", help="Serve UDP, besides WebSocket.")] = True,
    region: Annotated[str, typer.Option("--region", help="Where it stands.")] = "",
    capacity: Annotated[int | None, typer.Option("--capacity", min=1, help="Mbit/s that it may use.")] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate chain for wss://.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key.")] = None,
) -> None:
    """Run a relay in the foreground."""
    from shadowmesh.cli.logs import set_up
    from shadowmesh.dataplane.blas import without_threads

    without_threads()
    from shadowmesh.relay.app import RelayOptions
    from shadowmesh.relay.app import run as serve
    from shadowmesh.relay.state import is_registered

    if controller is None and token is not None and not is_registered(data_dir):
        controller, here = _controller_here(call, controller_dir)
        fingerprint = fingerprint or here
    set_up(call)
    serve(
        RelayOptions(
            data_dir=data_dir,
            listen=listen,
            public_url=public_url,
            controller=controller,
            token=None if token is None else read_secret(token, "relay token"),
            fingerprint=fingerprint,
            name=name,
            udp=udp,
            region=region,
            capacity=capacity,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
    )


def _controller_here(call: Call, directory: Path | None) -> tuple[str, str]:
    """URL and fingerprint of the controller that runs on this host."""
    from shadowmesh.client_api.rest import DEFAULT_DATA_DIR

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
) -> None:
    """Make a token with which a relay registers."""
    from shadowmesh.model import api

    wish = request(api.RelayTokenCreate, expires_in=seconds(expires), uses=uses)
    with connect(call) as controller:
        made = controller.relay_token(wish)
    call.done("relay-token/1", made.model_dump(mode="json"), made.token, shown_once=True)


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
                "relay_unknown", f"no relay {relay!r}", "`shadowmesh relay list` has them", kind=Kind.NOT_FOUND
            )
        call.confirm(f"remove the relay {found.name}?")
        controller.relay_remove(found.id)
    call.done("relay-removed/1", {"relay": relay}, f"{relay}: removed")
