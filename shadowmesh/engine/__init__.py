"""A client's mind, sans-I/O: one Engine per network, one Node above them; emits pump commands.

The daemon drives a Node so, with `now = Now(CLOCK_BOOTTIME, time.time())`:

    node = Node(Identity(device_signer), NodeConfig(timestamp_floor=kept_on_disk))
    node.counters = CounterReader(pump.counters())             # WireGuard's timers are read from the pump's table

    node.add_socket(slot, port, now, ipv6=False)               # after AddSocket(slot, fd) to the pump
    node.set_host_addresses(HostAddresses((ip_interface("192.168.1.5/24"), …)), now)   # at start and on each netlink change
    node.add_network(NetworkIdentity(net, network_id, client_id, private_key))    # the daemon also sends AddTun(net, …)
    node.apply_map(network_id, netmap, now)                    # verified; then, in any order:
    node.apply_keys(network_id, {epoch: secret}, now)          # unsealed by the daemon
    node.apply_grant(network_id, grant.relay_token, now)
    node.apply_presence(network_id, update.changes, now)       # after controller_link(network_id, True, now)
    node.set_wall_offset(network_id, challenge.wall - time.time())

    loop:
        for event in pump.drain(): node.receive(event, now)
        node.tick(now)                                         # also at node.next_deadline() (None: never)
        pump.apply(node.pump_commands())
        for event in node.events(): …                          # events.NodeEvent

Commands that carry descriptors (AddTun, AddSocket, AddStream, and their removals) are the daemon's to send; all others come
from `pump_commands`, and must be applied in order after each call that may have made some. On `NeedStream(relay, url)` the
daemon opens a WebSocket to the relay, gives the pump its end (AddStream), then calls `node.add_stream(slot, relay, now)`;
when the connection ends, `node.remove_stream(slot, now)` (a DescriptorGone from the pump does the same) and RemoveStream; on
`DropStream(slot)` it closes the connection and sends RemoveStream. `WantGrant` → link.RefreshGrant,
`ReportPresence` → devicelink.Report, `ReportEpochHeld` → devicelink.EpochHeld, `HostResumed` → the links to controllers are tried at once. `node.timestamp` belongs on disk from time to time and
before a restart, and so does `node.warm_start(now)`, which the next Node is given: the peers that it talked with hear it at once.

After a pump died, make a new Node, with the old one's `warm_start`, and feed it again: sessions died with the pump. For people: `status`, `why`, `ping` (ends in
a PingResult), `export_wireguard`, `nat`, `relay_name`, `epoch`. After sleep or a change of routes: `network_changed(now)`.
"""

from shadowmesh.engine.counterreader import CounterReader
from shadowmesh.engine.events import (
    DropStream,
    HandshakeDone,
    HostResumed,
    Identity,
    NatChanged,
    NeedStream,
    NetworkIdentity,
    NodeConfig,
    NodeEvent,
    PathChanged,
    PeerActive,
    PeerOnline,
    PingResult,
    RecentPeer,
    ReportEpochHeld,
    ReportPresence,
    TurnFailed,
    WantGrant,
    WarmStart,
    WireGuardExport,
)
from shadowmesh.engine.node import Node

__all__ = [
    "CounterReader",
    "DropStream",
    "HandshakeDone",
    "HostResumed",
    "Identity",
    "NatChanged",
    "NeedStream",
    "NetworkIdentity",
    "Node",
    "NodeConfig",
    "NodeEvent",
    "PathChanged",
    "PeerActive",
    "PeerOnline",
    "PingResult",
    "RecentPeer",
    "ReportEpochHeld",
    "ReportPresence",
    "TurnFailed",
    "WantGrant",
    "WarmStart",
    "WireGuardExport",
]
