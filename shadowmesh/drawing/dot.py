"""The network in Graphviz's language: https://graphviz.org/doc/info/lang.html."""

from __future__ import annotations

from shadowmesh.model.connectivity import Topology

_STYLES = {"p2p": "solid", "relay": "dashed"}


def dot(found: Topology) -> str:
    """Nodes by id, pairs by their kind, a client's way to its home relay dotted."""
    lines = ["graph shadowmesh {", f"  label={_quoted(found.name)};"]
    lines += [f"  {_quoted(url)} [shape=box, label={_quoted('controller ' + url)}];" for url in found.controllers]
    lines += [f"  {_quoted(r.relay_id)} [shape=diamond, label={_quoted('relay ' + r.name)}];" for r in found.relays]
    ids = {relay.name: relay.relay_id for relay in found.relays}
    for client in found.clients:
        style = "solid" if client.online else "dotted"
        label = _quoted(f"{client.name} {client.ip}")
        lines.append(f"  {_quoted(client.client_id)} [style={style}, label={label}];")
        if client.relay in ids:
            lines.append(f"  {_quoted(client.client_id)} -- {_quoted(ids[client.relay])} [style=dotted];")
    for pair in found.pairs:
        ends = " -- ".join(map(_quoted, pair.client_ids))
        style = _STYLES.get(pair.connection_type, "bold")
        latency = None if pair.latency_ms is None else f"{pair.latency_ms:g} ms"
        label = " ".join(filter(None, (pair.connection_type, latency)))
        lines.append(f"  {ends} [style={style}, label={_quoted(label)}];")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
