"""Why a peer is where it is: a closed list of codes, one sentence each, and a page of documentation each."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Literal


class Reason(StrEnum):
    DIRECT_LAN = "direct.lan"
    DIRECT_PUNCHED = "direct.punched"
    DIRECT_PUBLIC = "direct.public"
    DIRECT_MAPPED_PORT = "direct.mapped_port"
    DIRECT_IPV6 = "direct.ipv6"
    DIRECT_WIREGUARD = "direct.wireguard"
    DIRECT_NESTED = "direct.nested"
    RELAY_UPGRADING = "relay.upgrading"
    RELAY_BOTH_SYMMETRIC = "relay.both_symmetric"
    RELAY_SYMMETRIC_PORT_RESTRICTED = "relay.symmetric_port_restricted"
    RELAY_UDP_BLOCKED = "relay.udp_blocked"
    RELAY_P2P_DISABLED = "relay.p2p_disabled"
    RELAY_NO_ANSWER = "relay.no_answer"
    RELAY_PATH_LOST = "relay.path_lost"
    RELAY_NO_HAIRPIN = "relay.no_hairpin"
    RELAY_IDLE = "relay.idle"
    NONE_IDLE = "none.idle"
    NONE_PEER_OFFLINE = "none.peer_offline"
    NONE_NO_RELAY = "none.no_relay"
    NONE_NOT_APPROVED = "none.not_approved"
    NONE_STALE_KEY = "none.stale_key"
    NONE_POLICY = "none.policy"
    NONE_CONNECTING = "none.connecting"
    NONE_NO_ANSWER = "none.no_answer"
    NONE_NO_ECHO = "none.no_echo"
    NONE_NETWORK_DOWN = "none.network_down"


ConnectionType = Literal["p2p", "relay"]


@lru_cache(256)
def connection_type(reason: str) -> ConnectionType | None:
    """By which kind of way a peer is in use; None: it isn't. Also of reasons that a newer version added."""
    if reason.startswith("direct."):
        return "p2p"
    return "relay" if reason.startswith("relay.") and reason != Reason.RELAY_IDLE else None


EXPLANATIONS: dict[Reason, str] = {
    Reason.DIRECT_LAN: "Both are on one local network and talk there.",
    Reason.DIRECT_PUNCHED: "A hole was punched through the NATs; traffic goes straight to the peer.",
    Reason.DIRECT_PUBLIC: "The peer, or this machine, has an address that needs no punching; traffic goes straight to it.",
    Reason.DIRECT_MAPPED_PORT: "A router on the way opened a port on request; traffic goes straight through it.",
    Reason.DIRECT_IPV6: "Both have IPv6 and talk over it directly.",
    Reason.DIRECT_WIREGUARD: "The peer speaks plain WireGuard; it is reached where its last packet came from.",
    Reason.DIRECT_NESTED: "No relay can be reached; traffic goes through another program's tunnel (a VPN), which is slower.",
    Reason.RELAY_UPGRADING: "Traffic goes through the relay while a direct path is being tried.",
    Reason.RELAY_BOTH_SYMMETRIC: "Both NATs give every destination another port, so neither side can be found; the relay stays.",
    Reason.RELAY_SYMMETRIC_PORT_RESTRICTED: "One NAT gives every destination another port and the other filters by port; "
    "plain punching can't meet, the relay stays.",
    Reason.RELAY_UDP_BLOCKED: "UDP doesn't get out of one of the networks; the relay stays.",
    Reason.RELAY_P2P_DISABLED: "The network is set to relay only (p2p is off).",
    Reason.RELAY_NO_ANSWER: "No direct path answered; the relay stays and another attempt follows within about a minute.",
    Reason.RELAY_PATH_LOST: "The direct path stopped answering; the relay took over while a new one is looked for.",
    Reason.RELAY_NO_HAIRPIN: "Both are behind one carrier's or router's public address, which doesn't turn traffic of its inside "
    "back to it (no hairpinning); the relay stays.",
    Reason.RELAY_IDLE: "Nothing was sent for some minutes; the next packet goes through the relay while a direct path is tried anew.",
    Reason.NONE_IDLE: "Nothing has been sent to this peer yet; the first packet opens the session.",
    Reason.NONE_PEER_OFFLINE: "The peer is not connected to the controller or to any relay.",
    Reason.NONE_NO_RELAY: "No relay may or can be used, and there is no direct path.",
    Reason.NONE_NOT_APPROVED: "This machine, or the peer, still waits for approval.",
    Reason.NONE_STALE_KEY: "No network key is shared with the peer any more; one side missed a rotation.",
    Reason.NONE_POLICY: "The network's policy doesn't allow this pair.",
    Reason.NONE_NO_ANSWER: "The peer doesn't answer; the next packet tries again.",
    Reason.NONE_CONNECTING: "The handshake with the peer is under way.",
    Reason.NONE_NO_ECHO: "The peer's daemon answers outside the tunnel, and nothing comes back through it: "
    "a new session is being made, or the peer's host drops ICMP echo.",
    Reason.NONE_NETWORK_DOWN: "The network is switched off on this machine (`shadowmesh up` switches it on).",
}


NO_RELAY_REACHED = "No relay can be reached from here, and there is no direct path."
FALLBACK_FORBIDDEN = "There is no direct path, and the network forbids the way through a relay (relay fallback is off)."
"""`none.no_relay`, as the case may be."""

PAGES: dict[Reason, str] = {
    Reason.DIRECT_LAN: """
Both machines have an address on one local network and reach each other there, without a router between them. This is the
best path there is. Nothing is to be done.""",
    Reason.DIRECT_PUNCHED: """
Each side sent to the other's public address at the same time, so that both NATs took the packets for answers. A small
packet each 25 seconds keeps the hole open. When a router restarts, the relay carries the traffic until a new hole is found.""",
    Reason.DIRECT_PUBLIC: """
One of the two has an address that the other can simply send to: no NAT before it, or one that lets everything in. Nothing
is to be done.""",
    Reason.DIRECT_MAPPED_PORT: """
A router on the way was asked to open a port (UPnP IGD, NAT-PMP or PCP) and did. The mapping is renewed at half its life.""",
    Reason.DIRECT_IPV6: """
Both have IPv6 and reach each other over it; NATs play no part. A firewall that lets answers in is enough.""",
    Reason.DIRECT_NESTED: """
The two reach each other through another program's tunnel (a VPN that both are in), and neither through a relay nor by a path
on the real network. It works, but each packet is wrapped twice: throughput is a fraction. It is left as soon as a relay or a
real path answers.""",
    Reason.DIRECT_WIREGUARD: """
The peer was heard by WireGuard's own messages and by nothing else: a phone, a router, or `shadowmesh export wireguard`. It
is reached where its last authenticated packet came from. It can't use relays.""",
    Reason.RELAY_UPGRADING: """
Traffic began through the relay, as it always does, and a direct path is being tried underneath. Usually that takes less
than two seconds; then the path changes without losing a packet. `shadowmesh why PEER` shows what was tried.""",
    Reason.RELAY_BOTH_SYMMETRIC: """
Both machines are behind NATs that give each destination another public port (endpoint-dependent mapping), so neither can
know where the other will appear. The relay carries the traffic, encrypted end to end.

What helps: IPv6 on both sides, a port opened on one of the routers (UPnP IGD, NAT-PMP, PCP, or by hand), or a public
address for one side. Mobile carriers and some company firewalls can't be changed; then the relay is the answer.""",
    Reason.RELAY_SYMMETRIC_PORT_RESTRICTED: """
One NAT gives each destination another public port, and the other lets in only what comes from exactly the address and port
that was sent to. The one can't know which port to expect.

What helps: a less strict NAT on either side, an opened port, or IPv6.""",
    Reason.RELAY_UDP_BLOCKED: """
One of the two networks lets no UDP out: neither STUN nor a relay was reached by UDP, while TCP to the same servers works.
The relay is used by a WebSocket, which passes for web traffic.

What helps: letting UDP out to any address (or at least to the relay's and the peers' ports). `shadowmesh netcheck` on both
machines tells which one it is.""",
    Reason.RELAY_P2P_DISABLED: """
The network is set to use relays only. Who may configure it can change that: `shadowmesh network set NETWORK --p2p`.""",
    Reason.RELAY_NO_ANSWER: """
Candidates of both sides were tried for twelve seconds and nothing answered, though nothing that is known of the NATs
forbids it: perhaps a firewall drops UDP from unknown addresses. Another attempt follows within about a minute, and at once
when an address changes. `shadowmesh why PEER` shows each pair of addresses that was tried.""",
    Reason.RELAY_PATH_LOST: """
A direct path worked and then fell silent: a router restarted, a mapping ran out, a cable was pulled. The relay took over
within seconds; a new path is looked for at once, then after 10, 20, 40 and each 60 seconds.""",
    Reason.RELAY_NO_HAIRPIN: """
Both machines have the same public address: they are behind one router, often a carrier's (CGNAT). To reach each other
directly it would have to take a packet from its inside for its own public address and turn it back inside. It doesn't.

What helps: nothing on the two machines themselves. If both are really on one local network, see whether it separates its
clients (guest networks and some access points do); then `direct.lan` is not possible either.""",
    Reason.RELAY_IDLE: """
The two have talked before. Nothing was sent for more than five minutes, so no hole in a NAT is kept open for them. The
next packet goes through the relay at once, and a direct path is tried as it was before.""",
    Reason.NONE_IDLE: """
Nothing was ever sent to this peer since the daemon started. The first packet opens a session; `shadowmesh ping PEER` does it
for you.""",
    Reason.NONE_PEER_OFFLINE: """
The controller doesn't see the peer, and no relay has it. Its machine is off, its network is down, or its daemon isn't
running. While a session with it stood it was asked, too, and didn't answer. Packets are tried all the same.""",
    Reason.NONE_NO_RELAY: """
There is no direct path, and no way through a relay either. Either none of the network's relays can be reached from here, by
UDP or by WebSocket (see `shadowmesh netcheck`, and `shadowmesh relay list` at the controller), or the network forbids it:
`shadowmesh network set NETWORK --relay-fallback` allows it. A network without any relay needs one:
`shadowmesh relay token`, then `shadowmesh relay run`.""",
    Reason.NONE_NOT_APPROVED: """
The network takes members in only by someone's approval, and this machine, or the peer, still waits for it:
`shadowmesh client list NETWORK` shows who does, `shadowmesh client approve` lets one in.""",
    Reason.NONE_STALE_KEY: """
The network's key was rotated, and one of the two holds only keys that have ended. It asks the controller for the new one;
as long as the controller can't be reached from there, the two can't talk. It ends by itself when both have been connected.""",
    Reason.NONE_POLICY: """
The network's policy doesn't let these two talk. Who may configure it sees which rule decides.""",
    Reason.NONE_CONNECTING: """
The handshake is under way: the first message was sent and no answer is there yet. It is repeated after 1, 2 and then each 5
seconds, for 90 seconds.""",
    Reason.NONE_NO_ANSWER: """
Nothing that was asked of the peer for fifteen seconds was answered, or ninety seconds of handshakes led to nothing. The peer may
be off, or hold a session state that is being renewed. After these ninety seconds nothing is sent until there is another packet
for it, which tries again.""",
    Reason.NONE_NO_ECHO: """
`shadowmesh ping` sends an ICMP echo through the tunnel and asks the peer's daemon outside it. Only the daemon answered. Either a
session is just being made anew (the peer's daemon was restarted a moment ago), or the peer's host or its firewall drops ICMP
echo requests on the network's interface; then other traffic may pass.""",
    Reason.NONE_NETWORK_DOWN: """
The network was switched off on this machine by `shadowmesh down`; `shadowmesh up NETWORK` switches it on.""",
}
