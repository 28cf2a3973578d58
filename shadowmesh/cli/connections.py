"""`shadowmesh logs`, `topology`: what happened in a network, how its clients are and were connected."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, size, table, verb, visible
from shadowmesh.cli.managed import connect, seconds, when
from shadowmesh.client_api.exports import FORMATS, check_new, csv_text, export, write_new
from shadowmesh.client_api.logwording import log_detail, teller
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import json_text

if TYPE_CHECKING:
    from shadowmesh.client_api.rest import ControllerClient
    from shadowmesh.model.connectivity import ConnectionLog, Topology, TopologyPair

Name = Annotated[
    str,
    typer.Argument(help="The network's name or id (net_…).", metavar="NETWORK", autocompletion=suggest.managed_network),
]
_LOOK = 1.0  # seconds between two looks at what is new
_EVENTS = (
    "connect", "disconnect", "upgrade_p2p", "fallback_relay", "reason",
    "client_online", "client_offline", "client_pending", "client_removed", "network_changed", "relay_changed",
    "quota_warning", "quota_reached",
)  # fmt: skip
_SOURCES = ("client", "controller", "relay")
_DRAWN = (".svg", ".png", ".dot")


def attach(app: typer.Typer) -> None:
    examples = [
        "logs home --since 1h",
        "logs home --client laptop --peer server",
        "logs home --follow",
        "logs home --export log.db",
    ]
    verb(app, "logs", examples, managed=True)(logs)
    verb(
        app,
        "topology",
        ["topology home", "topology home --out home.svg", "topology home --dot > home.dot"],
        managed=True,
    )(topology)


def logs(
    call: Call,
    network: Name,
    client: Annotated[
        str | None, typer.Option("--client", help="Only what this client told.", autocompletion=suggest.client)
    ] = None,
    peer: Annotated[
        str | None,
        typer.Option(
            "--peer", help="Only about this one; with --client, as either told.", autocompletion=suggest.client
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="From so long ago on: 30m, 24h, 7d; default 24h, of --export all.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--type", help=f"Only {', '.join(_EVENTS)}.", autocompletion=suggest.words(*_EVENTS)),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", help=f"Only what {', '.join(_SOURCES)} told.", autocompletion=suggest.words(*_SOURCES)
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="lines (JSON) or csv, to keep; of --export sqlite, too.",
            autocompletion=suggest.words(*FORMATS),
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--export", help="Write them to a new file: F.jsonl, F.csv or F.db (SQLite).")
    ] = None,
) -> None:
    """What happened in a network: how clients were connected and why, what the controller and its relays did."""
    from datetime import UTC, datetime, timedelta

    from shadowmesh.model.connectivity import ConnectionLog

    formats = FORMATS if file is not None else FORMATS[:2]
    for option, said, words in (
        ("--type", kind, _EVENTS),
        ("--format", output, formats),
        ("--source", source, _SOURCES),
    ):
        if said is not None and said not in words:
            raise ShadowMeshError(
                "bad_option", f"{option} {said!r} isn't usable", f"say {' or '.join(words)}", kind=Kind.USAGE
            )
    if follow and file is not None:
        raise ShadowMeshError("bad_option", "a file is written once", "say --follow or --export", kind=Kind.USAGE)
    ago = since if since is not None or file is not None else "24h"
    begin = None if ago is None else datetime.now(UTC) - timedelta(seconds=seconds(ago))
    wish: dict[str, Any] = {"client": client, "peer": peer, "since": begin, "event_type": kind, "source": source}
    with connect(call) as controller:
        found = controller.log(network, **wish)
        if file is not None:
            with call.waiting("reading the log …"):
                count = export(file, output, "logs", ConnectionLog, found)
            call.done("export/1", {"file": str(file), "lines": count}, f"{file}: {count} lines")
            return
        if follow:
            found = _followed(controller, found, network, **wish)
        if output == "csv":
            _csv(found)
        elif output == "lines" or (follow and call.json):
            for line in found:
                _line(call, line, as_json=True)
        elif follow:
            for line in found:
                _line(call, line, as_json=False)
        else:
            lines = list(found)
            call.done(
                "logs/1",
                {"lines": [line.model_dump(mode="json") for line in lines]},
                lambda: table(("AT", "CLIENT", "PEER", "WHAT", "REASON", "LATENCY"), map(_row, lines)),
            )


def _followed(
    controller: ControllerClient, found: Iterator[ConnectionLog], network: str, **filters: Any
) -> Iterator[ConnectionLog]:
    """These, and then what comes."""
    last = 0
    while True:
        for line in found:
            last = line.log_id
            yield line
        time.sleep(_LOOK)
        found = controller.log(network, after=last, **filters)


def _row(line: ConnectionLog) -> list[object]:
    peer = line.remote_peer_name or line.remote_peer_id or None
    return [
        when(line.timestamp),
        teller(line),
        peer,
        line.event_type,
        line.reason or log_detail(line, size),
        _latency(line.latency_ms),
    ]


def _latency(ms: float | None) -> str | None:
    return None if ms is None else f"{ms:g} ms"


def _line(call: Call, line: ConnectionLog, *, as_json: bool) -> None:
    if as_json:
        print(json_text(line.model_dump(mode="json")), flush=True)
    else:
        call.line(None, "  ".join(str(cell) for cell in _row(line) if cell is not None))


def _csv(found: Iterator[ConnectionLog]) -> None:
    from shadowmesh.model.connectivity import ConnectionLog

    print(csv_text(ConnectionLog.model_fields), flush=True)
    for line in found:
        print(csv_text(line.model_dump(mode="json").values()), flush=True)


def topology(
    call: Call,
    network: Name,
    dot: Annotated[bool, typer.Option("--dot", help="As a graph for Graphviz, on stdout.")] = False,
    file: Annotated[Path | None, typer.Option("--out", help="Draw it into a new file: .svg, .png or .dot.")] = None,
    client: Annotated[
        str | None,
        typer.Option("--client", help="Only its pairs, by name, address or id.", autocompletion=suggest.client),
    ] = None,
) -> None:
    """The whole network: controllers, relays, clients, and by which way each pair goes, as both sides see it."""
    if file is not None:
        if file.suffix not in _DRAWN:
            raise ShadowMeshError(
                "bad_option",
                f"--out {file.name!r} doesn't say what to draw",
                "end it in .svg, .png or .dot",
                kind=Kind.USAGE,
            )
        check_new(file)
    with connect(call) as controller:
        found = controller.topology(network, client)
    if dot:
        from shadowmesh.drawing.dot import dot as graph

        print(visible(graph(found)))
        return
    if file is not None:
        nodes, links = _draw(found, file)
        done = {"file": str(file), "nodes": nodes, "links": links}
        call.done("export/1", done, f"{file}: {nodes} nodes, {links} links")
        return
    call.done("topology/1", found.model_dump(mode="json"), lambda: _shown(found))
    if not found.complete:
        call.note("there are more pairs than one answer holds")


def _draw(found: Topology, file: Path) -> tuple[int, int]:
    """How many nodes and links are in the picture."""
    from shadowmesh.drawing.pictures import picture

    data, nodes, links = picture(found, file.suffix)
    write_new(file, data)
    return nodes, links


def _shown(found: Topology) -> str:
    names = {client.client_id: client.name for client in found.clients}
    relays = [f"{r.name}{'' if r.online else ' (offline)'}" for r in found.relays]
    clients = table(
        ("CLIENT", "IP", "ONLINE", "TYPE", "LATENCY", "NAT", "RELAY"),
        (
            [c.name, c.ip, c.online, c.connection_type, _latency(c.latency_ms), c.nat_type, c.relay]
            for c in found.clients
        ),
    )
    pairs = table(
        ("PAIR", "TYPE", "LATENCY", "WHY"),
        (
            [_ends(pair, names), pair.connection_type, _latency(pair.latency_ms), _why(pair, names)]
            for pair in found.pairs
        ),
    )
    head = f"controllers: {', '.join(found.controllers) or '-'}\nrelays: {', '.join(relays) or '-'}"
    return f"{head}\n\n{clients}\n\n{pairs}" if found.pairs else f"{head}\n\n{clients}"


def _ends(pair: TopologyPair, names: dict[str, str]) -> str:
    return " - ".join(sorted(names.get(end, end) for end in pair.client_ids))


def _why(pair: TopologyPair, names: dict[str, str]) -> str:
    """One reason where both sides say the same."""
    said = {view.client_id: view.reason + (f" by {view.relay}" if view.relay else "") for view in pair.views}
    if len(set(said.values())) == 1 and len(said) > 1:
        return next(iter(said.values()))
    return ", ".join(f"{names.get(end, end)}: {reason}" for end, reason in said.items())
