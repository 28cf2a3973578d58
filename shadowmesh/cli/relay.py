"""`shadowmesh relay …`: running one, and the relays of a controller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shadowmesh.cli.base import Call, new_app, read_secret, table, verb
from shadowmesh.cli.managed import connect, request, seconds, when

RelayName = Annotated[str, typer.Argument(help="The relay's name or id (rly_…).", metavar="RELAY")]


def attach(app: typer.Typer) -> None:
    group = new_app("Relays: blind forwarding for pairs that can't meet, and for the first packets of all.")
    verb(group, "run")(run)
    verb(group, "token", managed=True)(token)
    verb(group, "list", managed=True)(list_)
    verb(group, "drain", managed=True)(drain)
    verb(group, "remove", managed=True)(remove)
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
    controller: Annotated[str | None, typer.Option("--controller", help="The controller's URL.")] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="From `relay token`; `-` (stdin) or @FILE. Needed the first time.")
    ] = None,
    fingerprint: Annotated[str | None, typer.Option("--fingerprint", help="sha256:… of the controller.")] = None,
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
    call.done("relay-token/1", made.model_dump(mode="json"), made.token)


def list_(call: Call) -> None:
    """The relays of the controller."""
    with connect(call) as controller:
        found = controller.relay_list()
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
        controller.relay_drain(relay)
    call.done("relay-draining/1", {"relay": relay}, f"{relay}: draining")


def remove(call: Call, relay: RelayName) -> None:
    """Take a relay out: clients no longer use it."""
    call.confirm(f"remove the relay {relay}?")
    with connect(call) as controller:
        controller.relay_remove(relay)
    call.done("relay-removed/1", {"relay": relay}, f"{relay}: removed")
