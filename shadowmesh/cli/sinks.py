"""`shadowmesh webhook …`, `syslog …`: where events and logs are sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, new_app, read_secret, table, verb
from shadowmesh.cli.managed import connect, nothing_to_change, request, when
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.model.receivers import Sink, SinkTested

_STREAMS = ("events", "logs", "audit")
Network = Annotated[
    str | None,
    typer.Option("--network", help="Of this network (default: of all).", autocompletion=suggest.managed_network),
]
Stream = Annotated[
    str, typer.Option("--stream", help="What is sent: events, logs or audit.", autocompletion=suggest.words(*_STREAMS))
]
Backlog = Annotated[bool, typer.Option("--backlog", help="What is kept of before, too.")]
Authorities = Annotated[
    Path | None,
    typer.Option("--ca", help="Certificates (PEM) to check the receiver's by, instead of the system's authorities."),
]
SinkNamed = Annotated[
    str | None, typer.Option("--name", help="By which a file for `apply` tells it (default: its id).", metavar="NAME")
]
NewUrl = Annotated[str | None, typer.Option("--url", help="Where it leads from now on; `-` (stdin) or @FILE.")]
NewAuthorities = Annotated[
    str | None, typer.Option("--ca", help="A file of certificates (PEM), or `system`.", metavar="FILE")
]
WebhookID = Annotated[str, typer.Argument(help="whk_…", metavar="ID", autocompletion=suggest.webhook)]
SyslogID = Annotated[str, typer.Argument(help="slg_…", metavar="ID", autocompletion=suggest.syslog)]


def attach(app: typer.Typer) -> None:
    webhooks = new_app("Tell other programs what happens, by signed requests.")
    verb(webhooks, "list", ["webhook list", "webhook list --network home"], managed=True)(webhook_list)
    verb(
        webhooks,
        "create",
        [
            "webhook create https://hooks.example.org/mesh --network home",
            "webhook create @url --events client_online,client_offline",
            "webhook create https://siem.example.org/in --stream audit --backlog",
        ],
        managed=True,
    )(webhook_create)
    verb(
        webhooks,
        "set",
        ["webhook set whk_… --secret @secret", "webhook set whk_… --url @url --events client_online"],
        managed=True,
    )(webhook_set)
    verb(webhooks, "delete", "webhook delete whk_…", managed=True)(webhook_delete)
    verb(webhooks, "test", "webhook test whk_…", managed=True)(webhook_test)
    app.add_typer(webhooks, name="webhook")
    syslog = new_app("Forward the audit log, or logs, to syslog (RFC 5424).")
    verb(syslog, "list", "syslog list", managed=True)(syslog_list)
    verb(
        syslog,
        "create",
        ["syslog create tls://siem.example.org:6514", "syslog create udp://10.0.0.5:514 --stream logs"],
        managed=True,
    )(syslog_create)
    verb(syslog, "set", "syslog set slg_… --url tls://siem2.example.org:6514", managed=True)(syslog_set)
    verb(syslog, "delete", "syslog delete slg_…", managed=True)(syslog_delete)
    verb(syslog, "test", "syslog test slg_…", managed=True)(syslog_test)
    app.add_typer(syslog, name="syslog")


def webhook_list(call: Call, network: Network = None) -> None:
    """The webhooks that you may end, and how they do."""
    with connect(call) as controller:
        found = controller.webhook_list(network)
    _listed(call, "webhooks", found)


def webhook_create(
    call: Call,
    url: Annotated[
        str, typer.Argument(help="https://…, `-` (stdin) or @FILE: it may be a secret itself.", metavar="URL")
    ],
    network: Network = None,
    events: Annotated[
        str | None, typer.Option("--events", help="Only these types, with commas: client_online,client_offline.")
    ] = None,
    stream: Stream = "events",
    backlog: Backlog = False,
    ca: Authorities = None,
    name: SinkNamed = None,
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret", help="What requests are signed with, where the receiver has it; `-` (stdin) or @FILE."
        ),
    ] = None,
) -> None:
    """Send what happens to a program; prints the secret that requests are signed with, once."""
    from shadowmesh.model.receivers import WebhookCreate

    wish = request(
        WebhookCreate,
        url=_place(url),
        stream=stream,
        events=_types(events),
        backlog=backlog,
        ca=_bundle(ca),
        name=name,
        secret=None if secret is None else read_secret(secret, "secret"),
    )
    with connect(call) as controller:
        made = controller.webhook_create(wish, network)
    where = "all networks" if made.network is None else made.network
    lines = (f"{made.id}: {made.stream} of {where} to {made.url}; signed with", made.secret or "")
    call.done("webhook/1", made.model_dump(mode="json"), "\n".join(lines), shown_once=True)


def webhook_set(
    call: Call,
    webhook: WebhookID,
    url: NewUrl = None,
    secret: Annotated[
        str | None, typer.Option("--secret", help="What requests are signed with from now on; `-` (stdin) or @FILE.")
    ] = None,
    events: Annotated[
        str | None, typer.Option("--events", help="Only these types, with commas; empty for all of them.")
    ] = None,
    ca: NewAuthorities = None,
) -> None:
    """Lead it elsewhere, or sign otherwise; what waits for it isn't lost. From then on it lives by your rights."""
    from shadowmesh.model.receivers import WebhookPatch

    wish = request(
        WebhookPatch,
        url=None if url is None else _place(url),
        secret=None if secret is None else read_secret(secret, "secret"),
        events=_types(events),
        ca=_new_bundle(ca),
    )
    if not wish.model_fields_set:
        raise nothing_to_change("webhook set")
    with connect(call) as controller:
        found = controller.webhook_set(webhook, wish)
    call.done("webhook/1", found.model_dump(mode="json"), f"{found.id}: {found.stream} to {found.url}")


def webhook_delete(call: Call, webhook: WebhookID) -> None:
    """Send nothing there any more."""
    with connect(call) as controller:
        controller.webhook_delete(webhook)
    call.done("webhook-deleted/1", {"id": webhook}, f"{webhook}: deleted")


def webhook_test(call: Call, webhook: WebhookID) -> None:
    """Send a test message now, and see what comes back."""
    with connect(call) as controller:
        found = controller.webhook_test(webhook)
    _tested(call, webhook, found)


def syslog_list(call: Call) -> None:
    """The syslog receivers, and how they do."""
    with connect(call) as controller:
        found = controller.syslog_list()
    _listed(call, "syslog", found)


def syslog_create(
    call: Call,
    url: Annotated[str, typer.Argument(help="udp://, tcp:// or tls://HOST:PORT.", metavar="URL")],
    stream: Stream = "audit",
    backlog: Backlog = False,
    ca: Authorities = None,
    name: SinkNamed = None,
) -> None:
    """Forward a stream to a syslog receiver."""
    from shadowmesh.model.receivers import SyslogCreate

    wish = request(SyslogCreate, url=url, stream=stream, backlog=backlog, ca=_bundle(ca), name=name)
    with connect(call) as controller:
        made = controller.syslog_create(wish)
    call.done("syslog/1", made.model_dump(mode="json"), f"{made.id}: {made.stream} to {made.url}")


def syslog_set(call: Call, syslog: SyslogID, url: NewUrl = None, ca: NewAuthorities = None) -> None:
    """Forward to another place from now on; what waits isn't lost."""
    from shadowmesh.model.receivers import SyslogPatch

    wish = request(SyslogPatch, url=None if url is None else _place(url), ca=_new_bundle(ca))
    if not wish.model_fields_set:
        raise nothing_to_change("syslog set")
    with connect(call) as controller:
        found = controller.syslog_set(syslog, wish)
    call.done("syslog/1", found.model_dump(mode="json"), f"{found.id}: {found.stream} to {found.url}")


def syslog_delete(call: Call, syslog: SyslogID) -> None:
    """Forward nothing there any more."""
    with connect(call) as controller:
        controller.syslog_delete(syslog)
    call.done("syslog-deleted/1", {"id": syslog}, f"{syslog}: deleted")


def syslog_test(call: Call, syslog: SyslogID) -> None:
    """Send a line that says that it is a test; over UDP nobody says whether it came."""
    with connect(call) as controller:
        found = controller.syslog_test(syslog)
    _tested(call, syslog, found)


def _place(url: str) -> str:
    return read_secret(url, "URL") if url[:1] in ("-", "@") else url


def _types(events: str | None) -> list[str] | None:
    return None if events is None else [kind.strip() for kind in events.split(",") if kind.strip()]


def _new_bundle(ca: str | None) -> str | None:
    """Empty: the system's."""
    return "" if ca == "system" else _bundle(None if ca is None else Path(ca))


def _bundle(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it isn't PEM"
        raise ShadowMeshError("bad_ca", f"can't read {path} ({why})", "check the path", kind=Kind.USAGE) from e


def _listed(call: Call, name: str, found: list[Sink]) -> None:
    call.done(
        f"{name}/1",
        {name: [sink.model_dump(mode="json") for sink in found]},
        lambda: table(
            ("ID", "NAME", "NETWORK", "WHAT", "WHERE", "STATE", "SENT", "WAITING", "DROPPED", "WHY"),
            (
                [
                    s.id,
                    None if s.name == s.id else s.name,
                    s.network or "(all)",
                    ",".join(s.events) or s.stream,
                    s.url,
                    s.state,
                    s.delivered,
                    s.waiting,
                    s.dropped,
                    _why(s),
                ]
                for s in found
            ),
        ),
    )


def _why(sink: Sink) -> str | None:
    if sink.state == "no_rights":
        return f"{sink.created_by} may not see this any more"
    if sink.last_error is None:
        return None
    return f"{sink.last_error} (since {when(sink.failing_since)})" if sink.state == "failing" else sink.last_error


def _tested(call: Call, sink: str, found: SinkTested) -> None:
    if not found.ok:
        raise ShadowMeshError(
            "not_delivered",
            f"{sink}: {found.answer}",
            "see what its receiver says, and whether it runs",
            kind=Kind.FAILED,
        )
    call.done("sink-test/1", found.model_dump(mode="json"), f"{sink}: {found.answer} in {found.milliseconds:g} ms")
