"""What is known of one client, in a few lines; and what happened last."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from rich.text import Text

from shadowmesh.model.api import Client
from shadowmesh_tui.console.rows import path
from shadowmesh_tui.console.series import Series
from shadowmesh_tui.console.state import Console, names_of, told
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.text import UNKNOWN, duration, latency, rate, shorten, sparkline


def ago(at: dt.datetime | None, wall: float) -> str:
    """`3m ago`."""
    return UNKNOWN if at is None else f"{duration(max(0.0, wall - at.timestamp()))} ago"


def client_facts(client: Client, series: Series | None, wall: float, width: int, styles: Palette) -> Text:
    """Who and where; how; and three sparklines with their figures."""
    mark, style = path(client)
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(shorten(client.name, max(12, width - 40)), style=styles["title"])
    head.append(f"  {client.ip}  ", style=styles["label"]).append(mark, style=styles[style])
    second = Text(no_wrap=True, overflow="ellipsis", style=styles["muted"])
    said = [
        client.status if client.status == "online" else f"{client.status}, seen {ago(client.last_seen, wall)}",
        f"NAT {client.nat_type}" if client.nat_type else "",
        f"home relay {client.relay}" if client.relay else "",
        f"version {client.version}" if client.version else "",
        "plain WireGuard" if client.plain_wireguard else "",
        f"tags {' '.join(client.tags)}" if client.tags else "",
        client.client_id,
    ]
    second.append(", ".join(part for part in said if part))
    lines = [head, second]
    if series is not None and any(v is not None for values in (series.latency, series.tx, series.rx) for v in values):
        bars = max(8, min(60, width - 30))
        for name, values, value, from_zero in (
            ("latency", series.latency, latency(client.latency_ms), False),
            ("↑ sent", series.tx, rate(client.tx_rate), True),
            ("↓ received", series.rx, rate(client.rx_rate), True),
        ):
            line = Text(f"{name:<11}", style=styles["muted"], no_wrap=True, overflow="crop")
            line.append(sparkline(list(values), bars, from_zero=from_zero), style=styles["me"])
            lines.append(line.append(f"  {value}", style=styles["label"]))
    return Text("\n").join(lines)


def activity(console: Console, lines: int, styles: Palette) -> Text:
    """What happened last, the newest first, by the local clock."""
    names = names_of(list(console.clients.values()))
    found: list[Text] = []
    for event in reversed(list(console.events)[-lines:]):
        at, where, what = told(event, names, console.networks)
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{at.astimezone():%H:%M:%S}  ", style=styles["muted"])
        line.append(what, style=styles["label"])
        found.append(line.append(f"  {where}" if where else "", style=styles["muted"]))
    return Text("\n").join(found) if found else Text("nothing has happened yet", style=styles["muted"])


def figures(rows: Sequence[tuple[str, str]], styles: Palette, width: int = 14) -> Text:
    """Lines of a name and a value."""
    text = Text()
    for name, value in rows:
        text.append(f"{name:<{width}}", style=styles["muted"]).append(f"{value}\n", style=styles["label"])
    text.right_crop(1)
    return text
