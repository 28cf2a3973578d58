"""Why a peer is where it is: a closed list of codes, one sentence each, and a page of documentation each."""

from __future__ import annotations

from enum import StrEnum


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
    NONE_IDLE = "none.idle"
    NONE_PEER_OFFLINE = "none.peer_offline"
    NONE_NO_RELAY = "none.no_relay"
    NONE_NOT_APPROVED = "none.not_approved"
    NONE_STALE_KEY = "none.stale_key"
    NONE_POLICY = "none.policy"
    NONE_CONNECTING = "none.connecting"
    NONE_NETWORK_DOWN = "none.network_down"


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
    Reason.NONE_IDLE: "Nothing has been sent to this peer yet; the first packet opens the session.",
    Reason.NONE_PEER_OFFLINE: "The peer is not connected to the controller or to any relay.",
    Reason.NONE_NO_RELAY: "No relay can be reached from here, and there is no direct path.",
    Reason.NONE_NOT_APPROVED: "This machine, or the peer, still waits for approval.",
    Reason.NONE_STALE_KEY: "No network key is shared with the peer any more; one side missed a rotation.",
    Reason.NONE_POLICY: "The network's policy doesn't allow this pair.",
    Reason.NONE_CONNECTING: "The handshake with the peer is under way.",
    Reason.NONE_NETWORK_DOWN: "The network is switched off on this machine (`shadowmesh up` switches it on).",
}
