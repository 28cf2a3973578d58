"""Bare verbs: one's own machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeVar

import typer
from msgspec.structs import replace

from shadowmesh.cli import suggest
from shadowmesh.cli.base import NO_PATH, RELAYED, WAITING_FOR_APPROVAL, Call, read_secret, table, verb
from shadowmesh.client_api.local import DaemonClient
from shadowmesh.model.codec import to_builtins
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import SILENT, JoinResult, NetworkStatus, PeerStatus, PingTry, Status, Why

T = TypeVar("T", NetworkStatus, PeerStatus)

Peer = Annotated[
    str,
    typer.Argument(
        help="A name, NAME@NETWORK, an overlay address or a client id.", metavar="PEER", autocompletion=suggest.peer
    ),
]
Network = Annotated[str, typer.Argument(help="The network's name.", metavar="NETWORK", autocompletion=suggest.network)]
OptionalNetwork = Annotated[
    str | None,
    typer.Argument(
        help="The network's name; all of them without it.", metavar="NETWORK", autocompletion=suggest.network
    ),
]
Controller = Annotated[
    str | None,
    typer.Option("--controller", "--login-server", "--management-url", help="The controller's URL, https://HOST:8443."),
]
Fingerprint = Annotated[str | None, typer.Option(help="sha256:… of the controller's identity key.")]
Name = Annotated[
    str | None, typer.Option("--name", help="This machine's name in the network (default: its host name).")
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds for all of it, until the network is up.")]
Netns = Annotated[
    str | None,
    typer.Option(
        "--netns",
        help="Put it into this network namespace of the host (`ip netns list`).",
        metavar="NAME",
        autocompletion=suggest.namespace,
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Hand over to the daemon and return.")]


def attach(app: typer.Typer) -> None:
    verb(app, "join", ["join @invite", "join smi1_… --name laptop"], client=True)(join)
    verb(app, "register", "register --controller https://vpn.example.org:8443 --invite @code", client=True)(register)
    verb(app, "leave", "leave home", client=True)(leave)
    verb(app, "up", ["up home", "up home --netns office"], client=True)(up)
    verb(app, "down", "down home", client=True)(down)
    verb(app, "status", ["status", "status --watch", "status --json"], client=True)(status)
    verb(app, "peers", "peers home", client=True)(peers)
    verb(app, "ping", ["ping laptop", "ping laptop@home --until-direct"], client=True)(ping)
    verb(app, "why", "why laptop", client=True)(why)
    verb(app, "wait", ["wait home", "wait laptop --state direct --timeout 15"], client=True)(wait)
    verb(app, "tui", ["tui", "tui --data-dir /var/lib/shadowmesh-controller"], client=True, managed=True)(tui)


def join(
    call: Call,
    invite: Annotated[str, typer.Argument(help="smi1_…, a short code, `-` (stdin) or @FILE.", metavar="INVITE")],
    name: Name = None,
    controller: Controller = None,
    fingerprint: Fingerprint = None,
    timeout: Timeout = 30.0,
    no_wait: NoWait = False,
    netns: Netns = None,
) -> None:
    """Join a network by an invite; works with the daemon running or not."""
    _join(call, read_secret(invite, "invite"), name, controller, fingerprint, timeout, no_wait, netns)


def register(
    call: Call,
    controller: Controller = None,
    *,
    invite: Annotated[
        str, typer.Option("--invite", "--auth-key", "--setup-key", help="smi1_…, a short code, `-` or @FILE.")
    ],
    name: Name = None,
    fingerprint: Fingerprint = None,
    timeout: Timeout = 30.0,
    no_wait: NoWait = False,
    netns: Netns = None,
) -> None:
    """Join by controller URL and invite code."""
    _join(call, read_secret(invite, "invite"), name, controller, fingerprint, timeout, no_wait, netns)


def _join(
    call: Call,
    invite: str,
    name: str | None,
    controller: str | None,
    fingerprint: str | None,
    timeout: float,
    no_wait: bool,
    netns: str | None,
) -> None:
    options = {"name": name, "controller": controller, "fingerprint": fingerprint, "netns": netns}

    def by_daemon() -> JoinResult:
        return DaemonClient(call.state_dir).join(invite=invite, wait=not no_wait, timeout=timeout, **options)

    def joined() -> JoinResult:
        try:
            return by_daemon()
        except ShadowMeshError as error:
            if error.code != "daemon_unreachable":
                raise
        from shadowmesh.daemon.join import join_offline

        try:
            return join_offline(call.state_dir, invite, **options, timeout=timeout)
        except ShadowMeshError as busy:
            if busy.code != "daemon_running":
                raise
            try:
                return by_daemon()  # it started just now
            except ShadowMeshError as error:
                raise busy if error.code == "daemon_unreachable" else error from None

    with call.waiting(f"joining; {timeout:.0f} s at most …"):
        result = joined()
    call.done("join/1", result, lambda: _join_text(result))
    if result.state == "pending-approval":
        raise typer.Exit(WAITING_FOR_APPROVAL)


def _join_text(result: JoinResult) -> str:
    if result.state == "pending-approval":
        return f"{result.network}: asked to join as {result.name}; {_approval(result.network, result.name)}"
    here = f"{result.name}, {result.ip}"
    if result.state == "up":
        return f"{result.network}: up as {here} on {result.interface}"
    return f"{result.network}: joined as {here}; the daemon takes it up when it starts (`shadowmesh daemon run`)"


def _approval(network: str, client: str) -> str:
    return f"waits until an administrator lets it in: `shadowmesh client approve {network} {client}`"


def leave(call: Call, network: Network) -> None:
    """Leave a network: its keys and map on this machine are deleted."""
    daemon = DaemonClient(call.state_dir)
    found = daemon.call("network", network=network)
    call.confirm(f"leave {found['name']} and delete its keys here?")
    answer = daemon.call("leave", network=found["network_id"])
    later = "" if answer["controller_told"] else "; its controller will be told when it can be reached"
    call.done("leave/1", answer, f"{network}: left{later}")


def up(
    call: Call,
    network: OptionalNetwork = None,
    netns: Netns = None,
    no_netns: Annotated[
        bool, typer.Option("--no-netns", help="Take it back out of the namespace that it was put into.")
    ] = False,
) -> None:
    """Switch a network on (all without NAME)."""
    if netns == "" or (no_netns and netns):
        raise ShadowMeshError(
            "wrong_netns", "it isn't clear where the network shall be", "say either --netns NAME or --no-netns",
            kind=Kind.USAGE,
        )  # fmt: skip
    if network is None and (no_netns or netns):
        raise ShadowMeshError(
            "no_network", "it isn't said which network shall be moved", "name it: `shadowmesh up NETWORK --netns NAME`",
            kind=Kind.USAGE,
        )  # fmt: skip
    answer = DaemonClient(call.state_dir).call("up", network=network, netns="" if no_netns else netns)
    waiting = [n for n in answer["networks"] if n["state"] == "pending-approval"]
    call.done("up/1", answer, lambda: "\n".join(map(_up_text, answer["networks"])))
    if waiting:
        raise typer.Exit(WAITING_FOR_APPROVAL)


def _up_text(network: dict[str, Any]) -> str:
    waits = network["state"] == "pending-approval"
    name = network["name"]
    return f"{name}: {_approval(name, network['client_name'])}" if waits else f"{name}: up as {network['ip']}"


def down(call: Call, network: OptionalNetwork = None) -> None:
    """Switch a network off; it stays off over restarts until `up`."""
    answer = DaemonClient(call.state_dir).call("down", network=network)
    call.done("down/1", answer, lambda: "\n".join(f"{n['name']}: down" for n in answer["networks"]))


def _in_order(value: Status) -> Status:
    """Networks, and the peers of each, by name."""
    networks = [replace(n, peers=_by_name(n.peers)) for n in value.networks]
    return replace(value, networks=_by_name(networks))


def _by_name(found: Iterable[T]) -> tuple[T, ...]:
    return tuple(sorted(found, key=lambda thing: thing.name.casefold()))


def _path_text(peer: PeerStatus) -> str:
    """`none` is of a peer that can't be reached; one that was never spoken to is merely idle."""
    if peer.reason == Reason.NONE_IDLE:
        return "idle"
    return f"{peer.path} (idle)" if peer.idle and peer.path != "none" else peer.path


def _peer_row(peer: PeerStatus) -> list[object]:
    latency = None if peer.latency_ms is None else f"{peer.latency_ms:.1f} ms"
    online = {True: "yes", False: "no", None: "?"}[peer.online]
    return [peer.name, peer.ip, online, _path_text(peer), peer.endpoint or peer.relay, latency, peer.reason]


PEER_HEADERS = ("NAME", "ADDRESS", "ONLINE", "PATH", "ENDPOINT/RELAY", "LATENCY", "REASON")


def _network_text(network: NetworkStatus) -> str:
    here = " ".join(part for part in (network.client_name, network.ip) if part)
    here += f" on {network.interface}" if network.interface else ""
    here += f" in namespace {network.netns}" if network.netns else ""
    parts = [network.name, here, network.state]
    if network.state not in ("removed", "refused", "expired"):  # of what has ended nobody speaks any more
        silence = network.controller_silent_s or 0.0
        silent = f", nothing heard for {silence:.0f} s" if silence > SILENT else ""
        parts.append(f"controller {network.controller}{silent}")
        parts += [f"serial {network.map_serial}", f"epoch {network.epoch}"] if network.map_serial else []
    line = "  ".join(part for part in parts if part)
    below = [network.error] if network.error else []
    if network.state == "pending-approval":
        below.append(_approval(network.name, network.client_name or network.client_id))
    elif network.state in _NEXT:
        below.append(_NEXT[network.state].format(network=network))
    if network.peers:
        below += table(PEER_HEADERS, map(_peer_row, network.peers)).splitlines()
    elif network.state == "up":
        below.append(f"no peers yet; {_INVITE}")
    return "\n".join([line, *(f"  {text}" for text in below)])


_INVITE = "invite the next machine: `shadowmesh network invite NETWORK`"
_ENDED = "a new invite joins it again; `shadowmesh leave {network.name}` forgets it"
# network states after which something is to be done
_NEXT = {
    "down": "`shadowmesh up {network.name}` switches it on",
    "removed": _ENDED,
    "refused": _ENDED,
    "expired": _ENDED,
}


def _status_text(value: Status) -> str:
    parts = [_network_text(n) for n in value.networks] or ["no network yet: `shadowmesh join INVITE` joins one"]
    nat = value.nat
    kind = "of a kind not known yet" if nat.type == "unknown" else nat.type
    seen = f", seen as {nat.public}" if nat.public else ""
    seen += f", reachable at {nat.opened} (the router opened it)" if nat.opened else ""
    told = {f"{n.name}: {n.error}" for n in value.networks}  # with the network
    warnings = [f"warning: {w}" for w in value.warnings if w not in told]
    last = [f"NAT {kind}{seen}; {value.pump} pump; shadowmesh {value.version}", *warnings]
    return "\n\n".join([*parts, "\n".join(last)])


def status(
    call: Call,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, at every change.")] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="A few lines for each network, as `shadowmesh-daemon status` prints them.")
    ] = False,
) -> None:
    """Networks, peers, paths and why."""
    client = DaemonClient(call.state_dir)
    if not watch:
        value = _in_order(client.status())
        call.done("status/1", value, lambda: _summary(value) if summary else _status_text(value))
        return
    from shadowmesh.model.codec import from_builtins

    for item in client.stream("watch", interval_s=2.0):
        value = _in_order(from_builtins(item, Status))
        call.screenful(value, _status_text(value))


_WAYS = {
    "direct": ("P2P", "P2P (direct)"),
    "relay": ("Relay", "Relay (fallback)"),
    "both": ("Hybrid", "Hybrid (P2P and relay)"),
}


def _summary(value: Status) -> str:
    """`Network:`, `IP:`, `Status:` and `Connection:` of each network: by which ways its peers are reached that are in use."""
    if not value.networks:
        return f"no network yet; {_INVITE}"
    return "\n\n".join("\n".join(_summary_lines(network)) for network in value.networks)


def _summary_lines(network: NetworkStatus) -> Iterator[str]:
    ways = {peer.path for peer in network.peers if peer.path != "none"}
    way = _WAYS.get("both" if len(ways) > 1 else next(iter(ways), ""))
    states = {"up": "Connected" if way is None else f"Connected ({way[0]})", "pending-approval": "Waiting for approval"}
    yield f"Network: {network.name}"
    yield f"IP: {network.ip}"
    yield f"Status: {states.get(network.state, network.state.capitalize())}"
    if network.state == "up":
        yield f"Connection: {'none yet' if way is None else way[1]}"


def peers(call: Call, network: OptionalNetwork = None) -> None:
    """The peers of a network, or of all."""
    daemon = DaemonClient(call.state_dir)
    only = None if network is None else daemon.call("network", network=network)["network_id"]
    chosen = [n for n in _in_order(daemon.status()).networks if only in (None, n.network_id)]
    rows = [(n.name, p) for n in chosen for p in n.peers]
    if not rows:
        daemon.call("check_usable", network=network)
        call.note(f"no peers yet; {_INVITE}")
    call.done(
        "peers/1",
        {"peers": [{"network": name} | to_builtins(p) for name, p in rows]},
        lambda: table(("NETWORK", *PEER_HEADERS), ([name, *_peer_row(p)] for name, p in rows)),
    )


def _ping_text(peer: str, attempt: PingTry) -> str:
    if not attempt.ok:
        outside = (
            "" if attempt.outer_ms is None else f"; outside it the daemon there answers in {attempt.outer_ms:.2f} ms"
        )
        return f"{attempt.seq}: no answer from {peer} through the tunnel ({attempt.reason}){outside}"
    way = f"direct {attempt.endpoint}" if attempt.path == "direct" else f"relay {attempt.relay}"
    return f"{attempt.seq}: {peer} in {attempt.latency_ms:.2f} ms by {way} ({attempt.reason})"


def ping(
    call: Call,
    peer: Peer,
    count: Annotated[int, typer.Option("--count", "-c", min=1, help="Number of tries.")] = 4,
    until_direct: Annotated[bool, typer.Option("--until-direct", help="Go on until the path is direct.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for all of it.")] = 30.0,
) -> None:
    """Send a peer echo requests through the tunnel: exit code 0 direct, 10 by relay, 20 no path."""
    code = NO_PATH
    for attempt in DaemonClient(call.state_dir).ping(peer, count=count, timeout=timeout, until_direct=until_direct):
        call.line(attempt, _ping_text(peer, attempt))
        if attempt.ok:
            code = 0 if attempt.path == "direct" else RELAYED
    if until_direct and code == RELAYED:
        call.note(f"still by relay after {timeout:.0f} s: see `shadowmesh why {peer}`")
    raise typer.Exit(code)


_WHY_CODES = {"direct": 0, "relay": RELAYED, "none": NO_PATH}


def why(call: Call, peer: Peer) -> None:
    """Why the path to a peer is what it is: exit code 0 direct, 10 by relay, 20 no path."""
    value = DaemonClient(call.state_dir).why(peer)
    call.done("why/1", value, lambda: _why_text(value))
    raise typer.Exit(_WHY_CODES[value.peer.path])


def _why_text(value: Why) -> str:
    p = value.peer
    lines = [f"{p.name} ({p.ip}) in {value.network}: {_path_text(p)}, {p.reason}", p.explanation]
    if value.attempts:
        rows = (
            [a.candidate, a.kind, a.result, None if a.latency_ms is None else f"{a.latency_ms:.1f} ms"]
            for a in value.attempts
        )
        lines += ["", table(("CANDIDATE", "KIND", "RESULT", "LATENCY"), rows)]
    if value.next_try_s is not None:
        lines.append(f"next attempt in {value.next_try_s:.0f} s")
    dropped = {cause: count for cause, count in value.drops.items() if cause != "duplicate"}
    if dropped:
        lines.append("packets dropped: " + ", ".join(f"{n} {cause}" for cause, n in sorted(dropped.items())))
    duplicates = value.drops.get("duplicate", 0)
    if duplicates:  # no loss
        lines.append(f"packets that came twice: {duplicates} (after a pause, or in doubt, a peer sends by two ways)")
    return "\n".join([*lines, *value.history])


def wait(
    call: Call,
    target: Annotated[
        str,
        typer.Argument(help="A network or a peer.", metavar="TARGET", autocompletion=suggest.peer_or_network),
    ],
    state: Annotated[
        str,
        typer.Option(
            help="up (a network is up, a peer answers) or direct.", autocompletion=suggest.words("up", "direct")
        ),
    ] = "up",
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 30.0,
) -> None:
    """Wait until a network is up, or a peer answers or is direct."""
    if state not in ("up", "direct"):
        raise ShadowMeshError("wrong_state", f"no state {state!r}", "say --state up or direct", kind=Kind.USAGE)
    started = time.monotonic()
    answer: dict[str, Any]
    with call.waiting(f"waiting for {target}, {timeout:.0f} s at most …"):
        daemon = DaemonClient(call.state_dir, starts_within=timeout)
        answer = daemon.call("wait", target=target, state=state, timeout_s=timeout)
    took = time.monotonic() - started
    call.done("wait/1", answer, f"{target}: {state} after {took:.1f} s")


def tui(call: Call) -> None:
    """The terminal interface: this machine's mesh, and the controllers that one may run."""
    if call.json:
        raise ShadowMeshError(
            "no_document", "the terminal interface is no document", "use `shadowmesh status --json`", kind=Kind.USAGE
        )
    from shadowmesh_tui.app import run

    run(call.state_dir, color=call.color, data_dir=call.data_dir)
