"""The NATs of the lab as nftables rulesets: text in, text out. What each does to packets is checked by `probe`.

A router has the interfaces `wan` and `lan` (a bridge). All routers filter alike (input and forward drop by default);
they differ in how they give out public ports (mapping, RFC 4787 section 4.1) and whom they let in (filtering, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

TABLE = "shadowmesh_lab"
PORT_BLOCK = 1000  # public ports of one life of a router; a reboot moves to the next block
# all below the ephemeral ports of the hosts, so that a port is never kept by chance
FIRST_PORT = 10000
CARRIER_FIRST_PORT = 21000
BLOCKS = 11
MAPPING_SECONDS = 120  # RFC 4787 REQ-5: not less than two minutes


class NatType(StrEnum):
    """How a site is connected to the internet."""

    NONE = "none"
    FULL_CONE = "full_cone"
    ADDRESS_RESTRICTED = "address_restricted"
    PORT_RESTRICTED = "port_restricted"
    SYMMETRIC = "symmetric"
    SYMMETRIC_SEQUENTIAL = "symmetric_sequential"
    HAIRPIN = "hairpin"
    CGNAT = "cgnat"
    UDP_BLOCKED = "udp_blocked"
    HTTPS_ONLY = "https_only"
    IGD = "igd"

    @property
    def reported(self) -> str:
        """What a client's netcheck calls it, in the names of `status --json` (`nat.type`)."""
        return _REPORTED.get(self, self.value)


_REPORTED = {
    NatType.ADDRESS_RESTRICTED: "restricted",
    NatType.SYMMETRIC_SEQUENTIAL: "symmetric",
    NatType.HAIRPIN: "port_restricted",
    NatType.CGNAT: "port_restricted",
    NatType.IGD: "port_restricted",
    NatType.HTTPS_ONLY: "udp_blocked",
}


@dataclass(frozen=True, slots=True)
class Router:
    """What a ruleset depends on. `life` counts reboots: from the first one on, public ports come from a block."""

    nat: NatType
    public: IPv4Address
    life: int = 0
    mapping_seconds: int = MAPPING_SECONDS


def ruleset(router: Router) -> str:
    """The router's whole nftables script; loading it replaces what was there, in one transaction."""
    return _script(_FILTER.get(router.nat, "iifname lan oifname wan accept"), _nat(router))


def carrier_ruleset(life: int = 0) -> str:
    """A carrier's NAT above the site's own: endpoint-independent, but a port is never kept.

    Its inside interfaces are named `sub…`.
    """
    first = CARRIER_FIRST_PORT + PORT_BLOCK * (life % BLOCKS)
    nat = f"""
  chain srcnat {{
    type nat hook postrouting priority srcnat
    meta nfproto ipv6 accept
    oifname wan meta l4proto {{ tcp, udp }} masquerade to :{first}-{first + PORT_BLOCK - 1}
    oifname wan masquerade
  }}"""
    return _script('iifname "sub*" oifname wan accept\n    meta nfproto ipv6 accept', nat, inside='"sub*"')


def igd_configuration(lan: str, public: IPv4Address, lease_file: str, uuid: str) -> str:
    """The configuration of miniupnpd for a router with `ruleset(… igd …)`: UPnP IGD, NAT-PMP and PCP on the LAN."""
    return f"""\
ext_ifname=wan
ext_ip={public}
listening_ip={lan}
http_port=0
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
min_lifetime=1
max_lifetime=86400
system_uptime=yes
lease_file={lease_file}
uuid={uuid}
force_igd_desc_v1=no
upnp_table_name={TABLE}
upnp_nat_table_name={TABLE}
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
allow 1024-65535 0.0.0.0/0 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


_FILTER = {
    NatType.NONE: "accept",
    NatType.UDP_BLOCKED: "iifname lan oifname wan tcp dport { 53, 443, 8443 } accept\n    "
    "iifname lan oifname wan udp dport 53 accept",
    NatType.HTTPS_ONLY: "iifname lan oifname wan tcp dport 443 accept",
}


def _script(forward: str, nat: str, *, inside: str = "lan") -> str:
    return f"""\
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  chain input {{
    type filter hook input priority filter; policy drop
    iifname {{ lo, {inside} }} accept
    ct state established,related accept
    icmp type echo-request accept
    icmpv6 type {{ echo-request, nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert }} accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop
    ct state established,related accept
    ct status dnat accept
    {forward}
  }}{nat}
}}
"""


def _nat(router: Router) -> str:
    match router.nat:
        case NatType.NONE:
            return ""
        case NatType.FULL_CONE:
            return _cone(
                router, inbound="iifname wan ip daddr {public} meta l4proto udp dnat ip to udp dport map @inward"
            )
        case NatType.ADDRESS_RESTRICTED:
            return _cone(
                router,
                inbound="iifname wan ip daddr {public} udp dport . ip saddr @contacted dnat ip to udp dport map @inward",
                contacted=True,
            )
        case NatType.HAIRPIN:
            return _cone(
                router,
                inbound="iifname lan ip daddr {public} meta l4proto udp dnat ip to udp dport map @inward",
                hairpin=True,
            )
        case NatType.SYMMETRIC:
            return _source_nat("oifname wan masquerade fully-random")
        case NatType.SYMMETRIC_SEQUENTIAL:
            first = _first_port(router)
            ports = ", ".join(f"{i} : {first + i}" for i in range(PORT_BLOCK))
            return _source_nat(
                f"oifname wan meta l4proto udp masquerade to :numgen inc mod {PORT_BLOCK} map {{ {ports} }}\n"
                "    oifname wan masquerade"
            )
        case NatType.IGD:
            return (
                _source_nat("jump postrouting_miniupnpd\n    " + _masquerade(router))
                + """
  chain dstnat { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }"""
            )
        case _:
            return _source_nat(_masquerade(router))


def _first_port(router: Router) -> int:
    return FIRST_PORT + PORT_BLOCK * (router.life % BLOCKS)


def _masquerade(router: Router) -> str:
    """Keeps the inside's port where it is free; after a reboot gives out ports of the current block."""
    if router.life == 0:
        return "oifname wan masquerade"
    first = _first_port(router)
    return (
        f"oifname wan meta l4proto {{ tcp, udp }} masquerade to :{first}-{first + PORT_BLOCK - 1}\n"
        "    oifname wan masquerade"
    )


def _source_nat(rules: str) -> str:
    return f"""
  chain srcnat {{
    type nat hook postrouting priority srcnat
    meta nfproto ipv6 accept
    {rules}
  }}"""


def _cone(router: Router, *, inbound: str, contacted: bool = False, hairpin: bool = False) -> str:
    """A NAT that remembers its mappings by itself, as conntrack's are bound to one remote address.

    `outward` and `inward` are learnt after source NAT has chosen the port, and refreshed by every outgoing packet
    (RFC 4787 REQ-6). `contacted` holds (public port, remote address) for address-restricted filtering.
    """
    timeout = f"flags dynamic,timeout; timeout {router.mapping_seconds}s; size 65535;"
    learn = [  # "meta l4proto udp" in each rule: nft knows the type of proto-src only after it
        "meta l4proto udp ct direction original update @outward { ct original ip saddr . ct original proto-src : udp sport }",
        "meta l4proto udp ct direction original update @inward { udp sport : ct original ip saddr . ct original proto-src }",
        "meta l4proto udp ct direction reply update @inward { udp sport : ct reply ip saddr . ct reply proto-src }",
        "meta l4proto udp ct direction reply update @outward { ct reply ip saddr . ct reply proto-src : udp sport }",
    ]
    if contacted:
        learn.append("update @contacted { udp sport . ip daddr }")
    loop = (
        f"iifname lan oifname lan ct status dnat meta l4proto udp snat ip to {router.public} : ip saddr . udp sport map @outward"
        if hairpin
        else ""
    )
    extra = f"\n  set contacted {{ type inet_service . ipv4_addr; {timeout} }}" if contacted else ""
    return f"""
  map outward {{ type ipv4_addr . inet_service : inet_service; {timeout} }}
  map inward {{ type inet_service : ipv4_addr . inet_service; {timeout} }}{extra}
  chain dstnat {{
    type nat hook prerouting priority dstnat
    {inbound.format(public=router.public)}
  }}
  chain srcnat {{
    type nat hook postrouting priority srcnat
    meta nfproto ipv6 accept
    {loop}
    oifname wan meta nfproto ipv4 meta l4proto udp masquerade to :ip saddr . udp sport map @outward
    {_masquerade(router)}
  }}
  chain learn {{
    type filter hook postrouting priority srcnat + 10
    oifname wan meta nfproto ipv4 meta l4proto udp jump remember
  }}
  chain remember {{
    {chr(10).join("    " + rule for rule in learn).strip()}
  }}"""
